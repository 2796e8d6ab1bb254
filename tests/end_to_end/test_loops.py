"""Airflow's own example Dags with loops, run by its scheduler and its Task SDK against ours."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from tests.end_to_end.installation import Airflow
from tests.servers import AIRFLOW, airflow_environment, our_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RELEASE = AIRFLOW["3.4"]
LONGEST = 300.0  # seconds for all runs; two idle cores take about 60
# How often each loop goes round, and what its last task returned then: as their code says it.
PASSES = {
    "refine_estimate": ("refine.evaluate", 4),
    "fixed_task_loop": ("accumulate.increment", 3),
    "mapped_task_loop": ("process_batch.process", 2),
    "partial_override_loop": ("accumulate_more.increment", 3),
}
RETURNED = {"accumulate.increment": ["1", "2", "3"], "accumulate_more.increment": ["5", "10", "15"]}
PASS = "coalesce(region.parent_region_index, task_instance.region_index)"


async def test_the_example_loops_end(make_migrated: Callable[[str, str], str], tmp_path: Path) -> None:
    url = await asyncio.to_thread(make_migrated, RELEASE, "loops")
    (package,) = airflow_environment(RELEASE).glob("lib/python*/site-packages/airflow")
    (tmp_path / "dags").mkdir()
    shutil.copy(package / "example_dags" / "example_task_loops.py", tmp_path / "dags")
    airflow = Airflow(RELEASE, url, tmp_path / "airflow", AIRFLOW__CORE__DAGS_FOLDER=str(tmp_path / "dags"))
    await asyncio.to_thread(airflow.run, "dags", "reserialize")  # before the Dag processor writes the same rows
    with our_server(url, tmp_path) as server, airflow.components(server.base_url):
        connection = await asyncpg.connect(url)
        try:
            await connection.execute("UPDATE dag SET is_paused = false")
            await asyncio.to_thread(airflow.trigger, list(PASSES))
            await _ended(connection)
            assert await _counted(connection) == PASSES
            assert dict(await _returned(connection)) == RETURNED
        finally:
            await connection.close()


async def _ended(connection: asyncpg.Connection) -> None:
    deadline = time.monotonic() + LONGEST
    while await connection.fetchval("SELECT count(*) FILTER (WHERE state = 'success') FROM dag_run") < len(PASSES):
        if time.monotonic() > deadline:
            left = await connection.fetch(
                "SELECT task_id, region_index, state, retry_reason FROM task_instance WHERE state <> 'success'"
            )
            raise TimeoutError(f"the loops have not ended: {[tuple(row) for row in left]}")
        await asyncio.sleep(0.5)


async def _counted(connection: asyncpg.Connection) -> dict[str, tuple[str, int]]:
    rows = await connection.fetch(
        f"SELECT task_instance.dag_id, task_id, count(DISTINCT {PASS}) AS passes, min({PASS}) AS first"
        " FROM task_instance JOIN dynamic_region region ON region.id = region_id"
        " WHERE working_set AND task_instance.state = 'success' AND task_id = ANY ($1) GROUP BY 1, 2",
        [task_id for task_id, _ in PASSES.values()],
    )
    assert {row["first"] for row in rows} == {0}
    return {row["dag_id"]: (row["task_id"], row["passes"]) for row in rows}


async def _returned(connection: asyncpg.Connection) -> list[tuple[str, list[str]]]:
    rows = await connection.fetch(
        "SELECT task_id, array_agg(value::text ORDER BY region_index) AS said FROM xcom_v2"
        " JOIN task_instance ON task_instance.id = task_instance_id"
        " WHERE task_id LIKE '%.increment' AND key = 'return_value' GROUP BY 1"
    )
    return [(row["task_id"], row["said"]) for row in rows]
