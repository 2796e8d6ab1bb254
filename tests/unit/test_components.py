"""The shape of a statement never has a value in it; and whose statements are whose."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.db.components import OURS, UNKNOWN, Component, component_of, shape

S = "xyzzy"  # planted wherever a value may stand


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (f"SELECT 1, 'a{S}', -2.5e-3 FROM t1 WHERE a_2=$1", "SELECT ?, ?, ? FROM t1 WHERE a_2=?"),
        (f"UPDATE t SET x='it''s {S}', y = '{S}'::uuid::UUID WHERE z", "UPDATE t SET x=?, y = ? WHERE z"),
        (f"SELECT E'\\'{S}\\\\', 1", "SELECT ?, ?"),
        (f"SELECT e'{S}''{S}', U&'{S}', B'0', x'ff', N'{S}'", "SELECT ?, ?, ?, ?, ?"),
        (f"SELECT $${S}$$, $tag$ {S} $$ {S} $tag$ FROM t", "SELECT ?, ? FROM t"),
        (f"SELECT 1 -- {S}\nFROM t /* {S} */ WHERE a", "SELECT ? FROM t WHERE a"),
        ("SELECT a FROM t WHERE b IN (1, 2, 3) AND (c, d) IN ((1, 'x'), (2, 'y'))", "SELECT a FROM t WHERE b IN (?) AND (c, d) IN ((?))"),
        ("INSERT INTO t (a, b) VALUES ($1::VARCHAR, $2::TIMESTAMP WITH TIME ZONE), ($3, $4)", "INSERT INTO t (a, b) VALUES (?)"),
        ('SELECT "Odd ""name""", a."group" FROM t', 'SELECT "Odd ""name""", a."group" FROM t'),
        ("SELECT a[1], $1::integer[], b::text, 12::numeric(10, 2)", "SELECT a[?], ?, b::text, ?"),
        # What PostgreSQL has cut off may be anything:
        (f"SELECT a FROM t WHERE b = '{S} has no en", "SELECT a FROM t WHERE b = ?"),
        (f"SELECT a FROM t WHERE b = $x$ {S} ", "SELECT a FROM t WHERE b = ?"),
        (f"SELECT E'{S}\\", "SELECT ?"),
        (f"SELECT a /* {S} ", "SELECT a …"),
        (f'SELECT a AS "{S}', "SELECT a AS …"),
        # Where a constant ends is the session's to say (standard_conforming_strings):
        (f"SELECT 'a\\' OR b = '{S}', 1", "SELECT ?…"),
        (f"SELECT a /* /* */ {S} */ FROM t", "SELECT a …"),
        ("", ""),
    ],
)  # fmt: skip
def test_shapes(statement: str, expected: str) -> None:
    assert shape(statement) == expected
    assert S not in shape(statement)


ANYTHING = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)


@given(ANYTHING, ANYTHING, st.integers(0, 200))
def test_no_constant_is_ever_shown(before: str, value: str, length: int) -> None:
    """Whatever it is, wherever PostgreSQL cuts the statement off, and whatever stands before it in another constant."""
    quoted, earlier = (text.replace("'", "''") for text in (f"{S}{value}", before))
    statement = f"UPDATE t SET a = '{earlier}', b = '{quoted}' WHERE c = 1"
    assert S not in shape(statement)
    assert S not in shape(statement[:length])


SCHEDULER = "scheduler"
PARTITIONS = "asset_partition_dag_run.id, asset_partition_dag_run.partition_key"


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("SELECT slot_pool.pool, slot_pool.slots, slot_pool.include_deferred FROM slot_pool FOR NO KEY UPDATE NOWAIT", SCHEDULER),
        ("UPDATE task_instance SET state='queued', queued_dttm='2026-01-01'::timestamptz, queued_by_job_id=3, updated_at='x' WHERE", SCHEDULER),
        ("UPDATE task_instance SET state=$1::VARCHAR, queued_dttm=$2::TIMESTAMP WITH TIME ZONE, queued_by_job_id=$3::INTEGER", SCHEDULER),
        # As 3.4's sends them:
        ("SELECT dag_run.id, dag_run.dag_id FROM dag_run JOIN dag ON dag.dag_id = dag_run.dag_id WHERE dag_run.state = 'running' AND", SCHEDULER),
        (
            "SELECT task_instance.dag_version_id FROM task_instance WHERE task_instance.dag_id = 'd' AND task_instance.dag_version_id = 'x'"
            " AND task_instance.run_id = 'r' LIMIT 1",
            SCHEDULER,
        ),
        ("UPDATE dag_run SET last_scheduling_decision='x', updated_at='y' WHERE dag_run.id = 1;UPDATE dag_run SET", SCHEDULER),
        ("SELECT dag.dag_id, dag.is_paused FROM dag WHERE dag.is_paused = false AND dag.is_draining = false AND", SCHEDULER),
        ("UPDATE dag_run SET end_date='x', state='failed', last_scheduling_decision='y', updated_at='z' WHERE dag_run.id = 1", SCHEDULER),
        (
            "SELECT dag_run.dag_id, dag_run.run_id FROM dag_run WHERE (dag_run.dag_id, dag_run.run_id) IN (('d', 'r'))"
            " ORDER BY dag_run.dag_id, dag_run.run_id FOR NO KEY UPDATE OF dag_run SKIP LOCKED",
            SCHEDULER,
        ),
        # Partitions, as the schedulers of 3.2, and since 3.3, ask for them; and as API servers do.
        (f"SELECT {PARTITIONS} FROM asset_partition_dag_run WHERE asset_partition_dag_run.created_dag_run_id IS NULL", SCHEDULER),
        (
            f"SELECT {PARTITIONS} FROM asset_partition_dag_run JOIN dag ON dag.dag_id = asset_partition_dag_run.target_dag_id WHERE"
            " asset_partition_dag_run.created_dag_run_id IS NULL AND dag.is_paused IS false",
            SCHEDULER,
        ),
        (f"SELECT {PARTITIONS} FROM asset_partition_dag_run WHERE asset_partition_dag_run.partition_key = 'k' AND", "unknown"),
        (f"SELECT {PARTITIONS} FROM asset_partition_dag_run WHERE asset_partition_dag_run.target_dag_id = 'd' AND"
         " asset_partition_dag_run.created_dag_run_id IS NULL ORDER BY asset_partition_dag_run.created_at", "unknown"),
        (f"SELECT {PARTITIONS}, dag_run.run_id FROM asset_partition_dag_run LEFT OUTER JOIN dag_run ON", "unknown"),
        ("DELETE FROM trigger WHERE trigger.id IN (SELECT trigger.id FROM trigger WHERE NOT (EXISTS", "triggerer"),
        ("UPDATE task_instance SET id='0198'::uuid, state=NULL, max_tries=1 WHERE", "API server"),
        ("ALTER TABLE task_instance ADD COLUMN x integer", "migration"),
        ("DELETE FROM xcom USING _airflow_deleted__xcom__20260101 WHERE", "airflow db clean"),
        ("UPDATE task_instance SET last_heartbeat_at='x', updated_at='y' WHERE task_instance.id = 'z'", "Airflow's execution API"),
        ("SELECT pg_sleep(10)", "unknown"),
        ("", "unknown"),
    ],
)  # fmt: skip
def test_by_statement(statement: str, name: str) -> None:
    assert component_of("", shape(statement)).name == name


def test_the_surest_sign_decides() -> None:
    migrating = "ALTER TABLE task_instance ADD COLUMN x integer"
    assert component_of("execution-api", migrating) is OURS
    assert component_of("", "SELECT ?", advisory=[1]).name == "migration"
    assert component_of("", migrating, advisory=[2]).name == "scheduler"
    assert component_of("", "COMMIT", locks=["trigger RowShareLock", "job AccessShareLock"]).name == "triggerer"
    assert component_of("", "COMMIT", locks=["trigger RowShareLock", "task_instance RowExclusiveLock"]).name == "unknown"
    assert component_of("", "COMMIT", locks=["trigger AccessShareLock"]) is UNKNOWN
    assert component_of("", "COMMIT", locks=["asset_partition_dag_run RowShareLock"]).name == "scheduler"
    both = ["task_instance RowShareLock", "dagrun_asset_event AccessShareLock", "dag_version AccessShareLock"]
    assert component_of("", "COMMIT", locks=both).name == "scheduler"
    assert component_of("", "COMMIT", locks=[*both, "task_reschedule AccessShareLock"]).name == "Airflow's execution API"
    assert component_of("", "", backend="autovacuum worker") == Component("PostgreSQL", "autovacuum worker")
    assert str(component_of("", "", advisory=[2])) == "scheduler (critical section)"
