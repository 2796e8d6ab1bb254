"""Which component a database session belongs to, as far as PostgreSQL can tell; and what a statement is like.

Airflow's components connect alike: as the same role, often from the same machine, without a name. What tells them apart is
what they send and what they lock. The rules were read off the statements of running schedulers, triggerers, Dag processors
and API servers of the supported releases (decision 26), and only what one of them alone sends is a rule: who cannot be told
is unknown, and said to be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from app.db.engine import APPLICATION_NAME

CUT = "…"  # ends a shape where the statement does, or where constants cannot be told from the rest

_TOKEN = re.compile(
    r"""
      (?P<space> (?: \s+ | --[^\n]* )+ )
    | (?P<comment> /\* (?: (?! \*/ | /\* ) . )* (?P<end> \*/ )? )
    | (?P<escaped> \b [eE] ' (?: \\. | '' | [^'\\] )* (?: ' | \\? \Z ) )
    | (?P<literal> (?: \b (?: [bBxXnN] | [uU]& ) )? ' (?: '' | [^'] )* (?: ' | \Z ) )
    | (?P<constant> \$ (?P<tag> (?: [^\W\d] \w* )? ) \$ .*? (?: \$ (?P=tag) \$ | \Z )
                  | \$ \d+
                  | (?: \d | \. \d ) (?: (?<= [eE] ) [+-] | [\w.] )* )
    | (?P<name> "[^"]*" | [^\W\d] [\w$]* )
    | (?P<other> . )
    """,
    re.DOTALL | re.VERBOSE,
)
_CAST = re.compile(
    r"(?<=\?)(?:::(?:timestamp with(?:out)? time zone|double precision|[\w.]+)(?:\(\?(?:, ?\?)?\))?(?:\[\])*)+",
    re.IGNORECASE,
)
_NEGATIVE = re.compile(r"(?<=[=(,<>+*/-]) ?-\?")
_LIST = re.compile(r"\(\?(?:, ?\?)+\)")
_ROWS = re.compile(r"\(\?\)(?:, ?\(\?\))+")


@lru_cache(maxsize=2000)
def shape(statement: str) -> str:
    """Return what a statement is like whatever its values are: a constant is ``?``, a list of them too; comments are gone.

    No value is ever in it. PostgreSQL shows the first kilobyte of a statement only, so that a constant may lack its end; and
    where a backslash stands in one, the session's settings decide where it ends: there the shape is cut.
    """
    parts = list[str]()
    for token in _TOKEN.finditer(statement):
        if token["space"]:
            parts.append(" ")
        elif token["comment"]:
            if not token["end"]:  # or it has a comment in it
                parts.append(CUT)
                break
            parts.append(" ")
        elif token["literal"] and "\\" in token[0]:
            parts.append(f"?{CUT}")
            break
        elif token["literal"] or token["escaped"] or token["constant"]:
            parts.append("?")
        elif token[0] == '"':
            parts.append(CUT)
            break
        else:
            parts.append(token[0])
    plain = re.sub(" +", " ", "".join(parts)).strip()
    plain = _NEGATIVE.sub(lambda found: found[0].replace("-", ""), _CAST.sub("", plain))
    return _ROWS.sub("(?)", _LIST.sub("(?)", plain))


@dataclass(frozen=True, slots=True)
class Component:
    """Whose a session is.

    :param name: such as ``scheduler``; ``unknown`` when nothing tells.
    :param doing: what for, in a few words; empty when nothing tells.
    """

    name: str
    doing: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.doing})" if self.doing else self.name


UNKNOWN = Component("unknown")
OURS = Component("execution-api")
CRITICAL_SECTION = Component("scheduler", "critical section")
_SCHEDULES = Component("scheduler", "schedules Dag runs")
_MAKES_RUNS = Component("scheduler", "makes Dag runs")
_ENDS_TASKS = Component("scheduler", "heartbeat purge, executor's events")
_DEADLINES = Component("scheduler", "missed deadlines")
_ADOPTS = Component("scheduler", "adopts orphaned tasks")
_TRIGGERER = Component("triggerer")
_DAG_PROCESSOR = Component("Dag processor")
_WRITES_DAGS = Component("Dag processor", "writes Dags")
_CLEAR = Component("API server", "clears")
_AIRFLOWS_OWN = Component("Airflow's execution API")
_CLEANS = Component("airflow db clean")
_MIGRATION = Component("migration")

# By Airflow's advisory locks, which are held for as long as it lasts.
_BY_ADVISORY_LOCK = {1: _MIGRATION, 2: CRITICAL_SECTION}

# By the beginning of the statement's shape; the first that fits decides.
_BY_SHAPE = tuple(
    (re.compile(beginning), component)
    for beginning, component in (
        (r"SELECT slot_pool\.pool, slot_pool\.slots, slot_pool\.include_deferred FROM slot_pool FOR ", CRITICAL_SECTION),
        (r"UPDATE task_instance SET state=\?, queued_dttm=\?, queued_by_job_id=\?", CRITICAL_SECTION),
        (r"SELECT dag_run\.id, .*? LEFT OUTER JOIN backfill_dag_run ON", _SCHEDULES),
        (
            r"SELECT dag_run\.id, .*? FROM dag_run JOIN dag ON dag\.dag_id = dag_run\.dag_id WHERE dag_run\.state = ",
            _SCHEDULES,
        ),
        (
            r"SELECT task_instance\.dag_version_id FROM task_instance"
            r" WHERE task_instance\.dag_id = \? AND task_instance\.dag_version_id = \? AND task_instance\.run_id = \? LIMIT",
            _SCHEDULES,
        ),
        (r"UPDATE dag_run SET last_scheduling_decision=\?, updated_at=\?", _SCHEDULES),
        (r"UPDATE dag_run SET start_date=\?, state=\?, updated_at=\? WHERE", _SCHEDULES),
        (r"UPDATE dag_run SET end_date=\?, state=\?, last_scheduling_decision=\?", _SCHEDULES),
        (r"UPDATE task_instance SET state=\?, try_number=(?:\(task_instance\.try_number|CASE WHEN)", _SCHEDULES),
        (r"UPDATE task_instance SET start_date=\?, end_date=\?, duration=\?, state=\?, try_number=\(", _SCHEDULES),
        (r"UPDATE task_instance SET (?:map_index|region_index)=\?", _SCHEDULES),
        (r"UPDATE task_instance SET updated_at=\?, dag_version_id=\? WHERE .* AND task_instance\.state IN ", _SCHEDULES),
        (r"SELECT dag\.dag_id, .*? FROM dag WHERE dag\.is_paused = false AND dag\.is_(?:draining|stale)", _MAKES_RUNS),
        (  # an API server reads a partition by its key or its Dag
            r"SELECT asset_partition_dag_run\..*? FROM asset_partition_dag_run"
            r" (?:JOIN dag ON|WHERE asset_partition_dag_run\.created_dag_run_id IS NULL)",
            _MAKES_RUNS,
        ),
        (r"SELECT asset_dag_run_queue\..* FOR UPDATE OF asset_dag_run_queue", _MAKES_RUNS),
        (r"DELETE FROM asset_dag_run_queue|INSERT INTO dagrun_asset_event", _MAKES_RUNS),
        (r"SELECT task_instance\..*? FROM task_instance JOIN job ON job\.id = task_instance\.queued_by_job_id", _ADOPTS),
        (r"UPDATE job SET state=\? WHERE job\.job_type = ", _ADOPTS),
        (
            r"UPDATE task_instance SET .*trigger_id=NULL.* task_instance\.trigger_timeout < ",
            Component("scheduler", "trigger time-outs"),
        ),
        (
            r"SELECT dag_run\.dag_id, dag_run\.run_id FROM dag_run WHERE .* FOR NO KEY UPDATE OF dag_run SKIP LOCKED",
            _ENDS_TASKS,
        ),
        (r"SELECT deadline\..* FOR UPDATE OF deadline", _DEADLINES),
        (r"SELECT connection_test_request\..* SKIP LOCKED", Component("scheduler", "connection tests")),
        (r"WITH anon_1 AS \(SELECT asset\.id AS id, asset\.name AS name", Component("scheduler", "orphaned assets")),
        (r"SELECT trigger\.id FROM trigger |UPDATE trigger SET triggerer_id", Component("triggerer", "takes triggers")),
        (r"UPDATE task_instance SET updated_at=\?, trigger_id=NULL WHERE", Component("triggerer", "cleans up triggers")),
        (r"DELETE FROM trigger WHERE trigger\.id IN \(SELECT trigger\.id", Component("triggerer", "cleans up triggers")),
        (
            r"UPDATE task_instance SET state=\?, scheduled_dttm=\?, updated_at=\?, trigger_id=NULL",
            Component("triggerer", "a trigger's event"),
        ),
        (r"SELECT callback\..* FOR NO KEY UPDATE OF callback", Component("Dag processor", "callbacks")),
        (r"DELETE FROM dag_warning USING|UPDATE dag SET last_parsed_time|UPDATE dag_bundle", _DAG_PROCESSOR),
        (r"SELECT dag_version\..* FOR NO KEY UPDATE OF dag_version NOWAIT", _WRITES_DAGS),
        (
            r"(?:INSERT INTO|UPDATE) (?:serialized_dag|dag_code|dag_version|dag_schedule_asset_reference)\b",
            _WRITES_DAGS,
        ),
        (r"DELETE FROM import_error WHERE \(import_error\.bundle_name", _DAG_PROCESSOR),
        (r"UPDATE task_instance SET id=\?, state=", _CLEAR),
        (r"UPDATE dag_run SET queued_at=\?, start_date=NULL", _CLEAR),
        (r"UPDATE dag SET is_paused=", Component("API server", "pauses a Dag")),
        (r"DELETE FROM \w+ WHERE \w+\.dag_id = \?(?:$| RETURNING)", Component("API server", "deletes a Dag")),
        (r"(?:(?:CREATE|DROP) TABLE|INSERT INTO|DELETE FROM .* USING) _airflow_deleted__", _CLEANS),
        (r"(?:ALTER|CREATE|DROP) (?:TABLE|INDEX|UNIQUE INDEX|TYPE)|(?:UPDATE|INSERT INTO) alembic_version", _MIGRATION),
        (
            r"SELECT task_instance\.state, task_instance\.(?:dag_id|try_number|hostname, task_instance\.pid FROM)",
            _AIRFLOWS_OWN,
        ),
        (r"UPDATE task_instance SET last_heartbeat_at=\?, updated_at=\? WHERE", _AIRFLOWS_OWN),
        (r"UPDATE task_instance SET end_date=\?, duration=EXTRACT\(EPOCH FROM ", _AIRFLOWS_OWN),
        (r"UPDATE task_instance SET (?:start_date=\?, )?end_date=NULL, state=\?, hostname=\?", _AIRFLOWS_OWN),
        (r"UPDATE task_instance SET updated_at=\?, last_heartbeat_at=\? WHERE", OURS),
        (r"WITH changed AS \(UPDATE task_instance", OURS),
        (r"SELECT task_instance\.id, task_instance\.dag_id, task_instance\.task_id,", OURS),
    )
)

# By tables that a transaction has locked, whatever it does now: what it did before is in them.
_BY_LOCKS = (
    ({"slot_pool RowShareLock"}, CRITICAL_SECTION),
    ({"dag_run RowShareLock", "backfill_dag_run AccessShareLock"}, _SCHEDULES),
    ({"dag RowShareLock", "dag_run RowExclusiveLock"}, _MAKES_RUNS),
    ({"asset_partition_dag_run RowShareLock"}, _MAKES_RUNS),
    ({"callback RowExclusiveLock", "dagrun_asset_event AccessShareLock"}, _ENDS_TASKS),
    (  # a task begins; on 3.4 its Dag is read too, with what the next one has
        {"task_instance RowShareLock", "dagrun_asset_event AccessShareLock", "task_reschedule AccessShareLock"},
        _AIRFLOWS_OWN,
    ),
    ({"task_instance RowShareLock", "dagrun_asset_event AccessShareLock", "dag_version AccessShareLock"}, _ENDS_TASKS),
    ({"dag RowShareLock", "dag_owner_attributes AccessShareLock"}, _WRITES_DAGS),
    ({"deadline RowShareLock"}, _DEADLINES),
    ({"trigger RowShareLock", "job AccessShareLock"}, _TRIGGERER),  # a deferral locks its trigger too, for its foreign key
    ({"task_reschedule RowExclusiveLock", "deadline AccessShareLock"}, _CLEAR),
)


def component_of(
    application: str,
    statement: str,
    *,
    advisory: Iterable[int] = (),
    locks: Iterable[str] = (),
    backend: str = "client backend",
) -> Component:
    """Return whose a session is.

    :param application: its ``application_name``.
    :param statement: the shape of what it does, or did last.
    :param advisory: the keys of advisory locks that it holds.
    :param locks: tables that its transaction has locked, each with a space and the mode.
    :param backend: its ``backend_type``.
    """
    if backend != "client backend":
        return Component("PostgreSQL", backend)
    if application == APPLICATION_NAME:
        return OURS
    for key in advisory:
        if key in _BY_ADVISORY_LOCK:
            return _BY_ADVISORY_LOCK[key]
    for beginning, component in _BY_SHAPE:
        if beginning.match(statement):
            return component
    held = set(locks)
    return next((component for needed, component in _BY_LOCKS if needed <= held), UNKNOWN)
