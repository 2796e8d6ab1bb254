"""Every Dag of ``dags/contract_dags.py``, run once: what they read, and which rows may differ from what is recorded."""

from __future__ import annotations

import asyncio
import time

import asyncpg
from cryptography.fernet import Fernet

from tests.end_to_end.installation import Airflow
from tests.servers import FERNET_KEY

# Rows that differ on purpose: docs/compatibility.md has the reasons.
DIFFERS = {
    ("xcom", "triggering", "recall"),  # another Dag's prior XComs are those up to the asking run
}
# Rows that differ by chance: it may not have started when its sibling fails.
DIFFERS |= {(table, "fail_fast", "slow") for table in ("task_instance", "log", "rendered_task_instance_fields")}
TRIGGERED = [
    "long_runner",
    "chain",
    "variables_and_connections",
    "retries_then_succeeds",
    "fails_for_good",
    "branches",
    "rescheduled_sensor",
    "deferred",
    "mapped",
    "setup_and_teardown",
    "fail_fast",
    "observed_group",
    "group_observer",
    "producer",
    "triggering",
]
STARTED_BY_THEM = ["consumer", "triggered"]
PARSED_TIMEOUT, FINISHED_TIMEOUT = 120.0, 420.0  # seconds; two cores take about 20 and 100
# What the server itself mints lasts 10 s, without leeway: a task of 25 s needs at least two refreshes.
SERVER_SETTINGS = {
    "AIRFLOW__EXECUTION_API__JWT_EXPIRATION_TIME": "10",
    "AIRFLOW__API_AUTH__JWT_LEEWAY": "0",
    "AIRFLOW_VAR_FROM_ENVIRONMENT": "environment",
    "AIRFLOW_CONN_ENVIRONMENT_CONNECTION": "http://user:pw@example.com",
}


async def run_everything(connection: asyncpg.Connection, airflow: Airflow) -> None:
    """Trigger every Dag once and wait for the end of all runs."""
    await _store(connection)
    await _wait(connection, PARSED_TIMEOUT, f"SELECT count(*) >= {len(TRIGGERED + STARTED_BY_THEM)} FROM serialized_dag")
    await asyncio.to_thread(airflow.trigger, TRIGGERED)
    everything = f"""
        SELECT count(*) FILTER (WHERE state IN ('success', 'failed')) >= {len(TRIGGERED + STARTED_BY_THEM)}
           AND count(*) FILTER (WHERE state NOT IN ('success', 'failed')) = 0 FROM dag_run
    """
    await _wait(connection, FINISHED_TIMEOUT, everything)


async def _store(connection: asyncpg.Connection) -> None:
    """Store the variable and the connection that the Dags read."""
    hidden = Fernet(FERNET_KEY)
    variable = "INSERT INTO variable (key, val, is_encrypted) VALUES ('from_database', $1, true)"
    await connection.execute(variable, hidden.encrypt(b"stored").decode())
    stored = (
        "INSERT INTO connection (conn_id, conn_type, host, password, extra, is_encrypted, is_extra_encrypted)"
        " VALUES ('stored_connection', 'http', 'db.example.com', $1, $2, true, true)"
    )
    await connection.execute(stored, hidden.encrypt(b"s3cret").decode(), hidden.encrypt(b'{"a": 1}').decode())


async def _wait(connection: asyncpg.Connection, seconds: float, question: str) -> None:
    deadline = time.monotonic() + seconds
    while not await connection.fetchval(question):
        if time.monotonic() > deadline:
            open_runs = await connection.fetch(
                "SELECT dag_id, task_id, state, try_number FROM task_instance WHERE state IS DISTINCT FROM 'success'"
            )
            raise TimeoutError(f"still waiting for {question}: {[tuple(row) for row in open_runs]}")
        await asyncio.sleep(0.5)
