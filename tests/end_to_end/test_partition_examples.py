"""Airflow's own examples of partitions, with its schedulers: the same runs, of the same events, as with its own server.

What they leave behind with that server is recorded (``tests/end_to_end/records.py``).
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.end_to_end import records
from tests.end_to_end.installation import Airflow
from tests.servers import AIRFLOW, airflow_environment, airflow_server, our_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.releases(1)]

HOUR, MONDAY = "2025-06-02T04", "2025-06-02T00:00:00"
# The producers with the partitions that they are triggered for; those since 3.3 that have none find theirs as they run.
PRODUCERS = {
    "3.2.1": [
        f"ingest_team_a_player_stats={HOUR}:00:00",
        f"team_b_player_stats={HOUR}:15:00",
        f"team_c_player_stats={HOUR}:30:00",
        f"ingest_regional_sales=us|{HOUR}:00:00",
        "ingest_region_stats=us",
        "ingest_region_stats=mars",
    ]
}
PRODUCERS["3.3.2"] = [
    *(each for each in PRODUCERS["3.2.1"] if "regional_sales" not in each),
    f"train_weekly_model={MONDAY}",
    "ingest_regional_sales",
    "live_region_player_stats",
    "multi_region_player_stats",
]
PRODUCERS["3.4.0b2"] = PRODUCERS["3.3.2"]
FOUND = {
    "runs": "SELECT dag_id, partition_key, run_type, state FROM dag_run",
    "events": """
        SELECT name, partition_key, source_dag_id, e.extra::text FROM asset_event e JOIN asset ON asset.id = asset_id""",
    "consumed": """
        SELECT r.dag_id, r.partition_key, e.source_dag_id, e.partition_key FROM dagrun_asset_event d
        JOIN dag_run r ON r.id = d.dag_run_id JOIN asset_event e ON e.id = d.event_id""",
    "waiting": "SELECT target_dag_id, partition_key, created_dag_run_id IS NULL FROM asset_partition_dag_run",
    "audit": "SELECT dag_id, task_id, event FROM log WHERE task_id IS NOT NULL AND event NOT IN ('running', 'success')",
}
PATIENCE, QUIET = 300.0, 10.0  # seconds
BUSY = "SELECT count(*) FROM dag_run WHERE state NOT IN ('success', 'failed')"


@pytest.mark.parametrize("version", AIRFLOW.values())
async def test_the_examples_of_partitions(make_migrated: Callable[[str, str], str], tmp_path: Path, version: str) -> None:
    url = await asyncio.to_thread(make_migrated, version, f"partitions_{version}")
    (example,) = airflow_environment(version).glob("lib/*/site-packages/airflow/example_dags/example_asset_partition.py")
    (tmp_path / "dags").mkdir()
    shutil.copy(example, tmp_path / "dags")
    airflow = Airflow(version, url, tmp_path / "airflow", AIRFLOW__CORE__DAGS_FOLDER=str(tmp_path / "dags"))
    await asyncio.to_thread(airflow.run, "dags", "reserialize")
    serve = airflow_server(version, url, tmp_path) if records.RECORDING else our_server(url, tmp_path)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "UPDATE dag SET next_dagrun_create_after = NULL"
        )  # what is made by time is another every hour
        with serve as server, airflow.component("scheduler", server.base_url):
            for together in _waves(PRODUCERS[version]):
                await asyncio.to_thread(airflow.trigger, together)
                await _until_nothing_happens(connection, f"partitions-{version}")
            records.compare(f"partitions-{version}", await _found(connection))
    finally:
        await connection.close()


def _waves(producers: list[str]) -> list[list[str]]:
    """Return what is triggered at once: with Airflow's own server one by one.

    Two events that come to it at once, of one partition, wait for a run each, and so for ever.
    """
    return [[each] for each in producers] if records.RECORDING else [producers]


async def _until_nothing_happens(connection: asyncpg.Connection, record: str) -> None:
    """Wait until all runs have ended and no more come, and until there are as many as are recorded."""
    least = 0 if records.RECORDING else len(records.recorded(record)["runs"])
    deadline, quiet, before = time.monotonic() + PATIENCE, time.monotonic(), None
    while time.monotonic() < min(deadline, quiet + QUIET):
        now = await _found(connection)
        if now != before or len(now["runs"]) < least or await connection.fetchval(BUSY):
            quiet, before = time.monotonic(), now
        await asyncio.sleep(0.5)


async def _found(connection: asyncpg.Connection) -> dict[str, list[Any]]:
    return {name: sorted([list(row) for row in await connection.fetch(query)], key=str) for name, query in FOUND.items()}
