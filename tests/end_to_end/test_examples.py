"""Airflow's own example Dags end as they do with Airflow's own server.

What they leave behind with that server is recorded (``tests/end_to_end/records.py``).
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.end_to_end import records
from tests.end_to_end.installation import Airflow
from tests.servers import AIRFLOW, airflow_environment, airflow_server, our_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.releases(1)]

# Those that need nothing but Airflow, are not scheduled by time, and wait neither for a person nor for a time, which
# may have come before a busy machine asks; by file.
CORE = (
    "example_asset_alias",
    "example_asset_alias_with_no_taskflow",
    "example_asset_decorator",
    "example_asset_state_store",
    "example_display_name",
    "example_dynamic_task_mapping",
    "example_dynamic_task_mapping_with_no_taskflow_operators",
    "example_params_trigger_ui",
    "example_setup_teardown",
    "example_setup_teardown_taskflow",
    "example_simplest_dag",
    "example_task_group",
    "example_task_group_decorator",
    "example_task_loops",
    "example_task_state_store",
    "example_task_state_store_async",
    "example_task_state_store_mapped",
    "example_trigger_target_dag",
    "example_xcom",
    "example_xcomargs",
    "tutorial_dag",
    "tutorial_taskflow_api",
)
STANDARD = (
    "example_sensor_decorator",
    "example_short_circuit_decorator",
    "example_short_circuit_operator",
    "example_trigger_controller_dag",
)
RANDOM = "state_store"  # Dags whose values are drawn by chance
NEW_ON_EVERY_RUN = ("trigger_run_id", "_link_TriggerDagRunLink")  # keys of XComs that hold a time
FINISHED_TIMEOUT = 420.0  # seconds; two cores take about 60
UNFINISHED = "SELECT count(*) FROM dag_run WHERE state NOT IN ('success', 'failed')"


def _copy_examples(version: str, folder: Path) -> None:
    folder.mkdir()
    (package,) = airflow_environment(version).glob("lib/python*/site-packages/airflow")
    for place, names in ((package, CORE), (package / "providers" / "standard", STANDARD)):
        for name in names:
            file = place / "example_dags" / f"{name}.py"
            if file.exists():  # not all are in every version
                shutil.copy(file, folder)


async def _run_all(connection: asyncpg.Connection, airflow: Airflow) -> None:
    """Trigger every Dag that no other starts, and wait until all runs have ended."""
    await connection.execute("UPDATE dag SET is_paused = false")
    started = await connection.fetch("SELECT dag_id FROM dag WHERE timetable_type NOT LIKE '%Asset%' ORDER BY dag_id")
    await asyncio.to_thread(airflow.trigger, [row["dag_id"] for row in started if "target" not in row["dag_id"]])
    deadline, quiet = time.monotonic() + FINISHED_TIMEOUT, 0
    while quiet < 10:  # an ended run may start others
        queued = await connection.fetchval("SELECT count(*) FROM asset_dag_run_queue")
        quiet = quiet + 1 if queued + await connection.fetchval(UNFINISHED) == 0 else 0
        if time.monotonic() > deadline:
            left = await connection.fetch("SELECT dag_id, task_id, state FROM task_instance WHERE state <> 'success'")
            raise TimeoutError(f"the examples have not ended: {[tuple(row) for row in left]}")
        await asyncio.sleep(0.5)


def _value(xcom: asyncpg.Record) -> Any:
    """Return a value as it is on every run."""
    if RANDOM in xcom["dag_id"] or xcom["key"] in NEW_ON_EVERY_RUN:
        return None
    value = json.loads(xcom["value"])
    return {what: sorted(tasks) for what, tasks in value.items()} if xcom["key"] == "skipmixin_key" else value


async def _left_behind(connection: asyncpg.Connection) -> dict[str, Any]:
    """Return what the runs left behind, without ids and times."""
    found: dict[str, Any] = {}
    runs = await connection.fetch("SELECT DISTINCT dag_id, run_type, state FROM dag_run ORDER BY 1, 2, 3")
    found["runs"] = [list(row) for row in runs]
    tasks = await connection.fetch("SELECT DISTINCT dag_id, task_id, map_index, state, try_number FROM task_instance")
    found["tasks"] = sorted(list(row) for row in tasks)
    xcoms = await connection.fetch("SELECT DISTINCT dag_id, task_id, map_index, key, value::text FROM xcom")
    told = {json.dumps([*row[:4], _value(row)]) for row in xcoms}  # how many runs an asset starts is no promise
    found["xcoms"] = [json.loads(row) for row in sorted(told)]
    events = await connection.fetch(
        "SELECT DISTINCT uri, source_dag_id, source_task_id, asset_event.extra::text AS said"
        " FROM asset_event JOIN asset ON asset.id = asset_id"
    )
    found["asset events"] = sorted([*row[:3], json.loads(row["said"])] for row in events)
    audit = await connection.fetch(
        "SELECT dag_id, task_id, event FROM log WHERE task_id IS NOT NULL AND run_id LIKE 'manual%'"
    )
    found["audit"] = sorted([*key, count] for key, count in Counter(tuple(row) for row in audit).items())
    return found


@pytest.mark.parametrize("version", AIRFLOW.values())
async def test_the_examples_end_alike(make_migrated: Callable[[str, str], str], tmp_path: Path, version: str) -> None:
    url = await asyncio.to_thread(make_migrated, version, f"examples_{version}")
    _copy_examples(version, tmp_path / "dags")
    airflow = Airflow(version, url, tmp_path / "airflow", AIRFLOW__CORE__DAGS_FOLDER=str(tmp_path / "dags"))
    await asyncio.to_thread(airflow.run, "dags", "reserialize")  # before the Dag processor writes the same rows
    serve = airflow_server(version, url, tmp_path) if records.RECORDING else our_server(url, tmp_path)
    with serve as server, airflow.components(server.base_url):
        connection = await records.connected(url, version)
        try:
            await _run_all(connection, airflow)
            found = await _left_behind(connection)
        finally:
            await connection.close()
    assert len(found["tasks"]) > 100
    records.compare(f"examples-{version}", found)
