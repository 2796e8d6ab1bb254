"""Real schedulers take every asset event into one run, also when it comes while they hold their transaction."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.end_to_end.installation import Airflow
from tests.servers import AIRFLOW, Server, our_server
from tests.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.releases(1)]

DAGS = """
from datetime import UTC, datetime
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, PartitionedAssetTimetable

START = datetime(2026, 1, 1, tzinfo=UTC)
with DAG("hears_whole", schedule=[Asset("whole", "s3://bucket/whole")], start_date=START):
    EmptyOperator(task_id="nothing")
with DAG("hears_parts", schedule=PartitionedAssetTimetable(assets=Asset("parts", "s3://bucket/parts")), start_date=START):
    EmptyOperator(task_id="nothing")
"""
# Whoever has made runs of asset events waits, with its transaction, for a lock that the test may hold.
PLUGIN = """
import functools, sys
from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin
from sqlalchemy import text

def held(original):
    @functools.wraps(original)
    def make_runs(self, *args, session=None, **kwargs):
        if session is None:
            (session,) = args
        made = original(self, session=session, **kwargs)
        if made or kwargs:
            session.flush()
            session.execute(text("SELECT pg_advisory_xact_lock({lock})"))
        return made
    return make_runs

class Listener:
    @hookimpl
    def on_starting(self, component):
        if runner := getattr(sys.modules.get("airflow.jobs.scheduler_job_runner"), "SchedulerJobRunner", None):
            for name in ("_create_dag_runs_asset_triggered", "_create_dagruns_for_partitioned_asset_dags"):
                setattr(runner, name, held(getattr(runner, name)))

class Held(AirflowPlugin):
    name = "held"
    listeners = [Listener()]
"""
PATIENCE = 30.0  # seconds; the scheduler looks every second or two
LOCK = 27_000_000  # an advisory lock of this test's own
WAITS = "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND NOT granted"
IN_ONE_RUN = """
    SELECT count(*) FROM asset_event e WHERE 1 = (
        SELECT count(*) FROM dagrun_asset_event d JOIN dag_run r ON r.id = d.dag_run_id
        WHERE d.event_id = e.id AND r.dag_id IN ('hears_whole', 'hears_parts'))
"""
HELD = 1.0  # seconds for which the scheduler holds its transaction; a success comes back for 1.5 s


@dataclass
class Scheduled:
    """A running scheduler beside our server, and tasks to report on."""

    server: Server
    connection: asyncpg.Connection
    world: World
    reported: int = 0

    async def task(self, run_id: str) -> UUID:
        """Write one more running task instance of the producing Dag."""
        self.reported += 1
        return await self.world.running("d", f"task_{self.reported}", run_id, last_heartbeat_at=datetime.now(UTC))

    async def succeed(self, asset: str, ti: UUID) -> int:
        """Report that a task which emits ``asset`` succeeded; return the status."""
        outlet = {"name": asset, "uri": f"s3://bucket/{asset}", "type": "Asset"}
        body = {"state": "success", "end_date": datetime.now(UTC).isoformat(), "task_outlets": [outlet]}
        async with self.server.client(ti, timeout=10) as client:
            return (await client.patch(f"/task-instances/{ti}/state", json=body)).status_code

    async def until(self, question: str, *arguments: Any, expected: object = True) -> None:
        deadline = time.monotonic() + PATIENCE
        while (found := await self.connection.fetchval(question, *arguments)) != expected:
            assert time.monotonic() < deadline, (question, found, expected)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def scheduled(version: str, url: str, folder: Path) -> AsyncIterator[Scheduled]:
    for name, content in (("dags/hear.py", DAGS), ("airflow/plugins/held.py", PLUGIN.format(lock=LOCK))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    airflow = Airflow(version, url, folder / "airflow", AIRFLOW__CORE__DAGS_FOLDER=str(folder / "dags"))
    await asyncio.to_thread(airflow.run, "dags", "reserialize")
    with our_server(url, folder) as server, airflow.component("scheduler", server.base_url):
        connection = await asyncpg.connect(url)
        world = World(connection, version[:3])
        await world.dag("d")
        for run_id, key in (("whole", None), ("part", "p1")):
            await world.run("d", run_id, logical_date=None, state="success", partition_key=key)
        yield Scheduled(server, connection, world)
        await connection.close()


@pytest.mark.parametrize("version", AIRFLOW.values())
async def test_every_event_is_in_one_run(version: str, make_migrated: Callable[[str, str], str], tmp_path: Path) -> None:
    url = await asyncio.to_thread(make_migrated, version, f"asset_events_{version}")
    async with scheduled(version, url, tmp_path) as airflow:
        for asset, run_id in (("whole", "whole"), ("parts", "part")):
            for _ in range(3):  # shortly after one another
                assert await airflow.succeed(asset, await airflow.task(run_id)) == 204
            await airflow.until(IN_ONE_RUN, expected=airflow.reported)
            waits = version < "3.4"  # since then the row of the queue, or of the partition, is one event's
            assert await _while_it_holds(airflow, asset, run_id, waits=waits) == [204, 204, 204]
            await airflow.until(IN_ONE_RUN, expected=airflow.reported)
        extras = await airflow.connection.fetch("SELECT extra FROM asset_event")
        assert [json.loads(row["extra"]) for row in extras] == [{}] * airflow.reported


async def _while_it_holds(airflow: Scheduled, asset: str, run_id: str, *, waits: bool) -> Sequence[int]:
    """Report one success, and two more while the scheduler holds the transaction in which it made a run of the first.

    :param waits: whether these need rows that it has, and come back for them.
    """
    ti, *later = [await airflow.task(run_id) for _ in range(3)]
    await airflow.connection.execute("SELECT pg_advisory_lock($1)", LOCK)
    first = await airflow.succeed(asset, ti)
    await airflow.until(WAITS, LOCK)
    async with asyncio.TaskGroup() as others:
        tasks = [others.create_task(airflow.succeed(asset, ti)) for ti in later]
        done, _ = await asyncio.wait(tasks, timeout=HELD if waits else PATIENCE)
        assert len(done) == (0 if waits else len(tasks))
        await airflow.connection.execute("SELECT pg_advisory_unlock($1)", LOCK)
    return [first, *(task.result() for task in tasks)]
