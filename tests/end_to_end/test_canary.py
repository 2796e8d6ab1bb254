"""Tasks live through each proxy of ``deploy/canary``, while ours is killed and stopped; no client hears an error.

With the Task SDK's own client, beside Airflow 3.2.1's own server: the one that refuses what is reported twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from app.commands.embedded import EmbeddedPostgres, free_port
from tests.proxies import FILES, proxy
from tests.servers import ROOT, Server, airflow_environment, airflow_server, our_server, token
from tests.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

VERSION, REVISION = "3.2.1", "3.2"
LIVES = ROOT / "tests" / "task_sdk" / "lives.py"
TASKS = 36
# Each proxy has every share if that is asked for, and one if not.
SHARES = {} if os.environ.get("EVERY_SHARE") else {"nginx.conf": (50,), "haproxy.cfg": (5,), "traefik.yaml": (100,)}


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


@pytest.mark.parametrize(("file", "share"), [(file, share) for file in FILES for share in SHARES.get(file, (5, 50, 100))])
async def test_ours_is_killed_and_stopped_meanwhile(both: Both, file: str, share: int, tmp_path: Path) -> None:
    run_id = f"manual__{file}_{share}"
    await both.world.run("sdk", run_id, logical_date=None)
    tasks = []
    for number in range(TASKS):
        task_id = f"task_{number}"
        ti = await both.world.ti("sdk", task_id, run_id)
        tasks.append({"id": str(ti), "token": token(ti), "dag_id": "sdk", "run_id": run_id, "task_id": task_id})
    port = free_port()
    at = {"ours": port, "airflow": int(both.airflow.base_url.split(":")[2].partition("/")[0]), "share": share}
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
    served = ours.log.read_text().count("/task-instances/")
    assert errors == [None] * TASKS
    states = "SELECT state, count(*) FROM task_instance WHERE run_id = $1 GROUP BY state"
    assert [tuple(row) for row in await both.world.connection.fetch(states, run_id)] == [("success", TASKS)]
    xcoms = "SELECT task_id, value FROM xcom WHERE run_id = $1"
    values = {row["task_id"]: json.loads(row["value"]) for row in await both.world.connection.fetch(xcoms, run_id)}
    assert values == {task["task_id"]: {"task": task["id"]} for task in tasks}
    if share > 5:
        assert served > TASKS


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
