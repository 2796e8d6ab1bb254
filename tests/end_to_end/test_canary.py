"""Tasks live through each proxy of ``deploy/canary``, while ours is killed and stopped; no client hears an error.

With the Task SDK's own client, and with every Dag on Celery workers; beside Airflow 3.2.1's own server: the one that refuses
what is reported twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from app.commands.embedded import EmbeddedPostgres, free_port
from tests.end_to_end import records
from tests.end_to_end.everything import DIFFERS, SERVER_SETTINGS, run_everything
from tests.end_to_end.installation import CELERY_WORKER, Airflow, celery_settings
from tests.proxies import FILES, proxy
from tests.servers import ROOT, Server, airflow_environment, airflow_server, our_server, token
from tests.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

VERSION, REVISION = "3.2.1", "3.2"
LIVES = ROOT / "tests" / "task_sdk" / "lives.py"
TASKS = 36
CELLS = pytest.mark.parametrize(("file", "share"), [(file, share) for file in FILES for share in (5, 50, 100)])
# When ours is killed, and when it is there again: as many tasks have ended.
KILLED_AFTER, BACK_AFTER = 12, 20
ENDED = "SELECT count(*) FROM task_instance WHERE end_date IS NOT NULL"


@dataclass
class Both:
    """A database with both servers on it."""

    url: str
    world: World
    airflow: Server
    folder: Path


@pytest.fixture(scope="module")
async def both(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Both]:
    folder = tmp_path_factory.mktemp("canary")
    postgres.create_database("canary", template=f"template_{REVISION}")
    url = postgres.url("canary")
    connection = await asyncpg.connect(url)
    world = World(connection, REVISION)
    await world.dag("sdk")
    await world.insert("variable", key="stored", val="value", is_encrypted=False)
    with airflow_server(VERSION, url, folder) as airflow:
        yield Both(url, world, airflow, folder)
    await connection.close()


@CELLS
@pytest.mark.drawn(1)
async def test_ours_is_killed_and_stopped_meanwhile(both: Both, file: str, share: int, tmp_path: Path) -> None:
    run_id = f"manual__{file}_{share}"
    await both.world.run("sdk", run_id, logical_date=None)
    tasks = []
    for number in range(TASKS):
        task_id = f"task_{number}"
        ti = await both.world.ti("sdk", task_id, run_id)
        tasks.append({"id": str(ti), "token": token(ti), "dag_id": "sdk", "run_id": run_id, "task_id": task_id})
    port = free_port()
    at = {"ours": port, "airflow": _port(both.airflow), "share": share}
    with our_server(both.url, tmp_path, port=port) as ours, proxy(file, tmp_path, **at) as running:
        living = await asyncio.create_subprocess_exec(
            str(airflow_environment(VERSION) / "bin" / "python"), str(LIVES),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**20,
        )  # fmt: skip
        assert living.stdin and living.stdout
        living.stdin.write(json.dumps({"base_url": f"{running.url}/", "tasks": tasks}).encode())
        living.stdin.close()
        errors = []
        while line := await living.stdout.readline():
            if not line.startswith(b"{"):  # the Task SDK's log
                continue
            errors.append(json.loads(line)["error"])
            if len(errors) == TASKS // 3:
                for worker in _children(ours.process.pid):
                    os.kill(worker, signal.SIGKILL)
            elif len(errors) == 2 * TASKS // 3:
                await asyncio.to_thread(ours.stop)
        await living.wait()
    served = _served(ours)
    assert errors == [None] * TASKS
    states = "SELECT state, count(*) FROM task_instance WHERE run_id = $1 GROUP BY state"
    assert [tuple(row) for row in await both.world.connection.fetch(states, run_id)] == [("success", TASKS)]
    xcoms = "SELECT task_id, value FROM xcom WHERE run_id = $1"
    values = {row["task_id"]: json.loads(row["value"]) for row in await both.world.connection.fetch(xcoms, run_id)}
    assert values == {task["task_id"]: {"task": task["id"]} for task in tasks}
    if share > 5:
        assert served > TASKS


@pytest.fixture(scope="module")
def with_dags(make_migrated: Callable[[str, str], str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the name of a database in which Airflow has written every Dag."""
    airflow = Airflow(VERSION, make_migrated(VERSION, "canary_dags"), tmp_path_factory.mktemp("with-dags"))
    airflow.run("dags", "reserialize")
    return "canary_dags"


@CELLS
@pytest.mark.drawn(1)
async def test_every_dag_ends_on_celery_as_with_airflows_alone(
    postgres: EmbeddedPostgres, with_dags: str, file: str, share: int, tmp_path: Path
) -> None:
    """While every process of ours is killed at once, and is away until others have done some of its tasks."""
    database = f"canary_{file.partition('.')[0]}_{share}"
    postgres.create_database(database, template=with_dags)
    url, port = postgres.url(database), free_port()
    with ExitStack() as stack:
        airflow = Airflow(VERSION, url, tmp_path / "airflow", **stack.enter_context(celery_settings(url)))
        theirs = stack.enter_context(airflow_server(VERSION, url, tmp_path, **SERVER_SETTINGS))
        ours = stack.enter_context(our_server(url, tmp_path, port=port, workers=2, **SERVER_SETTINGS))
        running = stack.enter_context(proxy(file, tmp_path, ours=port, airflow=_port(theirs), share=share))
        stack.enter_context(airflow.components(running.url, CELERY_WORKER))
        connection = await asyncpg.connect(url)
        everything = asyncio.create_task(run_everything(connection, airflow))
        watching = await asyncpg.connect(url)
        await _until_ended(KILLED_AFTER, watching, everything)
        ours.stop(signal.SIGKILL)
        served = _served(ours)
        await _until_ended(BACK_AFTER, watching, everything)
        again = stack.enter_context(our_server(url, tmp_path, port=port, workers=2, **SERVER_SETTINGS))
        await everything
        found = await records.left_behind(connection, DIFFERS)
        await watching.close()
        await connection.close()
    for row in found["task_instance"] + found["task_instance_history"]:
        row.pop("external_executor_id", None)  # which executors on one machine have none of
    records.compare(f"dags-{VERSION}", found)
    assert "Failed to send heartbeat" not in (airflow.home / "celery.log").read_text()
    if share > 5:
        assert 0 < served < _served(again)


async def _until_ended(count: int, connection: asyncpg.Connection, everything: asyncio.Task[None]) -> None:
    """Wait until so many tasks have ended, while all goes on."""
    while await connection.fetchval(ENDED) < count:
        assert not everything.done(), everything.exception()
        await asyncio.sleep(0.2)


def _served(server: Server) -> int:
    return server.log.read_text().count("/task-instances/")


def _port(server: Server) -> int:
    return int(server.base_url.split(":")[2].partition("/")[0])


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
