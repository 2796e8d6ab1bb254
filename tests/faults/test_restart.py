"""PostgreSQL is restarted, or crashes, under tasks that run: 503 meanwhile, and nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.commands.embedded import EmbeddedPostgres
from tests.conftest import reachable
from tests.servers import Server, our_server
from tests.world import World

SUCCESS = {"state": "success", "end_date": "2026-01-01T00:05:00Z"}
START = {"state": "running", "hostname": "worker", "unixname": "u", "pid": 42, "start_date": "2026-01-01T00:00:00Z"}
BEAT = {"hostname": "worker", "pid": 42}
TASKS = 12


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """Run a PostgreSQL of its own, which keeps what it acknowledged (``synchronous_commit`` is on)."""
    with EmbeddedPostgres(reachable(tmp_path_factory.mktemp("restarted"))) as server:
        server.create_metadata_database("airflow", "3.3")
        yield server


def crash(cluster: EmbeddedPostgres) -> None:
    """End the server at once, without a checkpoint, as a crash would."""
    os.kill(int((cluster.data / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
    cluster.stop()


@pytest.mark.parametrize("end", [EmbeddedPostgres.stop, crash], ids=["restart", "crash"])
async def test_a_restart_under_load(
    cluster: EmbeddedPostgres, tmp_path: Path, end: Callable[[EmbeddedPostgres], None]
) -> None:
    connection = await asyncpg.connect(cluster.url())
    world = World(connection)
    await world.dag("d")
    await world.run("d")
    tasks = [await world.ti("d", f"t{n}") for n in range(TASKS)]
    await connection.close()
    with our_server(cluster.url(), tmp_path) as server:
        started, restarted = asyncio.Barrier(TASKS + 1), asyncio.Event()
        lives = [asyncio.create_task(live(server, ti, started, restarted)) for ti in tasks]
        await started.wait()
        await asyncio.to_thread(end, cluster)
        async with server.client(tasks[0]) as client:
            refused = await client.put(f"/task-instances/{tasks[0]}/heartbeat", json=BEAT)
        assert (refused.status_code, refused.json()["detail"]["reason"]) == (503, "connection_lost")
        assert int(refused.headers["retry-after"]) >= 2
        await asyncio.to_thread(cluster.start)
        restarted.set()
        statuses = {status for life in await asyncio.gather(*lives) for status in life}
    assert statuses == {200, 204, 503}
    connection = await asyncpg.connect(cluster.url())
    states = await connection.fetch("SELECT state, count(*) FROM task_instance GROUP BY state")
    events = await connection.fetch("SELECT event, count(*) FROM log GROUP BY event")
    await connection.close()
    assert {row["state"]: row["count"] for row in states} == {"success": TASKS}
    assert {row["event"]: row["count"] for row in events} == {"running": TASKS, "success": TASKS}


async def live(server: Server, ti: Any, started: asyncio.Barrier, restarted: asyncio.Event) -> list[int]:
    """Start, send heartbeats until one succeeds after the restart, and succeed; return every status."""
    statuses: list[int] = []
    async with server.client(ti, timeout=20) as client:

        async def ask(method: str, path: str, body: dict[str, Any]) -> int:
            answer = await client.request(method, f"/task-instances/{ti}/{path}", json=body)
            statuses.append(answer.status_code)
            return answer.status_code

        assert await ask("PATCH", "run", START) == 200
        await started.wait()
        while await ask("PUT", "heartbeat", BEAT) == 503 or not restarted.is_set():
            pass  # an answer takes its time: this is no busy loop
        while await ask("PATCH", "state", SUCCESS) == 503:
            pass
    return statuses
