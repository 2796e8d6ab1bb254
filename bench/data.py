"""A metadata database of a given size: one Dag, runs of a hundred task instances, written as Airflow writes them."""

from __future__ import annotations

import json
import pickle
from typing import Any

import asyncpg
from cryptography.fernet import Fernet

from bench.driver import Task
from tests.servers import FERNET_KEY
from tests.world import World

PER_RUN = 100  # task instances
ENDED = 10_000  # of them have ended, and left an XCom each, and their rendered fields as far as those are kept
OF_NEWEST_RUNS = "run_id IN (SELECT run_id FROM dag_run ORDER BY run_after DESC LIMIT 30)"
RUNNING = 500  # of them run already, for heartbeats; all others are queued


async def fill(connection: asyncpg.Connection, revision: str, *, task_instances: int) -> None:
    """Write the Dag ``bench`` with so many task instances, a variable, a connection and their indexes' statistics."""
    world = World(connection, revision)
    await world.dag("bench")
    await world.serialized("bench", [{"__var": {"task_id": f"t{n}"}, "__type": "operator"} for n in range(PER_RUN)])
    cipher = Fernet(FERNET_KEY)
    await world.insert("variable", key="v", val=cipher.encrypt(b"value").decode(), is_encrypted=True)
    secrets = {"password": cipher.encrypt(b"password").decode(), "extra": cipher.encrypt(b'{"a": 1}').decode()}
    kept: dict[str, Any] = {"conn_type": "postgres", "host": "db", "login": "me", "port": 5432}
    await world.insert("connection", conn_id="c", is_encrypted=True, is_extra_encrypted=True, **kept, **secrets)
    await connection.execute(
        "INSERT INTO dag_run (dag_id, run_id, state, run_type, logical_date, data_interval_start, data_interval_end,"
        " run_after, start_date, conf, queued_at, triggered_by, clear_number)"
        " SELECT 'bench', 'scheduled__' || n, 'running', 'scheduled', at, at, at, at, at, '{}', at, 'TIMETABLE', 0"
        " FROM (SELECT n, timestamptz '2020-01-01' + n * interval '1 hour' AS at FROM generate_series(1, $1::int) n)",
        max(1, task_instances // PER_RUN),
    )
    index = "region_index" if world.keeps_tries else "map_index"
    empty = {"__var": {}, "__type": "dict"}
    await connection.execute(
        f"INSERT INTO task_instance (id, dag_id, task_id, run_id, {index}, state, try_number, max_tries, pool, pool_slots,"
        " queue, priority_weight, operator, custom_operator_name, hostname, unixname, queued_dttm, scheduled_dttm,"
        " executor_config, context_carrier, task_display_name, updated_at, dag_version_id)"
        " SELECT uuidv7(), 'bench', 't' || n % $2, 'scheduled__' || 1 + n / $2, -1, 'queued', 1, 0, 'default_pool', 1,"
        " 'default', 1, 'PythonOperator', '@task', '', 'airflow', now(), now(), $3, $4, 't' || n % $2, now(),"
        " (SELECT id FROM dag_version) FROM generate_series(0, $1::int - 1) n",
        task_instances,
        PER_RUN,
        pickle.dumps(empty, protocol=5),
        json.dumps(empty),
        timeout=600,
    )
    await connection.execute(
        "UPDATE task_instance SET state = 'running', hostname = 'worker', pid = 42, start_date = now(),"
        " last_heartbeat_at = now() WHERE id IN (SELECT id FROM task_instance ORDER BY id LIMIT $1)",
        RUNNING,
    )
    await connection.execute(
        "UPDATE task_instance SET state = 'success' WHERE id IN (SELECT id FROM task_instance ORDER BY id DESC LIMIT $1)",
        ENDED,
    )
    await push(connection, world, "task_instance.state = 'success'")
    if world.keeps_tries:
        await connection.execute(
            "INSERT INTO rtif_v2 (id, task_instance_id, rendered_fields, k8s_pod_yaml) SELECT uuidv7(), id, '{}', 'null'"
            f" FROM task_instance WHERE state = 'success' AND {OF_NEWEST_RUNS}"
        )
    else:
        await connection.execute(
            "INSERT INTO rendered_task_instance_fields (dag_id, task_id, run_id, map_index, rendered_fields, k8s_pod_yaml)"
            " SELECT dag_id, task_id, run_id, map_index, '{}', 'null' FROM task_instance WHERE state = 'success'"
            f" AND {OF_NEWEST_RUNS}"
        )
    await connection.execute("VACUUM ANALYZE", timeout=600)


async def push(connection: asyncpg.Connection, world: World, which: str) -> None:
    """Push an XCom of each task instance for which a condition holds."""
    if world.keeps_tries:
        statement = (
            "INSERT INTO xcom_v2 (id, task_instance_id, key, value, timestamp)"
            " SELECT uuidv7(), id, 'return_value', '1', now() FROM task_instance"
        )
    else:
        statement = (
            "INSERT INTO xcom (dag_run_id, task_id, map_index, key, dag_id, run_id, value, timestamp)"
            " SELECT dag_run.id, task_id, map_index, 'return_value', dag_id, run_id, '1', now()"
            " FROM task_instance JOIN dag_run USING (dag_id, run_id)"
        )
    await connection.execute(f"{statement} WHERE {which}", timeout=600)


async def tasks(connection: asyncpg.Connection, state: str, limit: int) -> list[Task]:
    """Return task instances in a state, in the order in which they were made."""
    rows = await connection.fetch(
        "SELECT id, task_id, run_id FROM task_instance WHERE state = $1 ORDER BY id LIMIT $2", state, limit
    )
    return [Task.of(*row) for row in rows]
