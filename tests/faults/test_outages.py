"""The database goes away, falls silent or fails over under tasks that run, and no task that was started is lost.

Most workers are modelled on the Task SDK (``tests/history.py``), with its attempts, pauses and time-outs, and write down all
that they hear; beside them some have its real client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import asyncpg
import pytest

from app.commands.embedded import EmbeddedPostgres
from tests.conftest import reachable
from tests.history import History, Worker, queue, violations
from tests.relay import Relay, relay
from tests.servers import Server, our_server
from tests.standby import promote, standby_of
from tests.task_sdk.living import sdk_clients

pytestmark = pytest.mark.slow

TASKS = 24  # more than connections
CLIENTS = 4  # of the real Task SDK, with a task each
AWAY = 20.0  # seconds that PostgreSQL is away
RIGHT_AGAIN = 2.0  # seconds after the primary is back


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(reachable(tmp_path_factory.mktemp("outages"))) as server:
        server.create_metadata_database("airflow", "3.3")
        yield server


@dataclass
class Running:
    """Tasks that run on our server, which reaches its database through a relay.

    :param reached: the PostgreSQL that holds the truth at the end.
    """

    between: Relay
    server: Server
    history: History
    reached: EmbeddedPostgres


@asynccontextmanager
async def tasks_running(cluster: EmbeddedPostgres, folder: Path) -> AsyncIterator[Running]:
    """Run tasks during the block, and to their end after it; none is lost, and nothing that they were told is wrong."""
    queued = await queue(cluster.url(), TASKS + CLIENTS)
    real = dict(islice(queued.items(), CLIENTS))
    async with relay(cluster.url()) as between:
        async with served_through(between, cluster.url(), folder) as server:
            running = Running(between, server, History(), cluster)
            over = asyncio.Event()
            lives = [
                asyncio.create_task(Worker(running.history, [server.base_url], ti, name).live(over=over))
                for name, ti in queued.items()
                if name not in real
            ]
            while sum(each.operation == "heartbeat" for each in running.history.exchanges) < 2 * TASKS:
                await asyncio.wait(lives, timeout=0.1)
            async with sdk_clients(server.base_url, real, folder, interval=0.5) as told:
                yield running
            over.set()
            await asyncio.gather(*lives)
        assert "Traceback" not in server.log.read_text()
    assert told.errors == {}
    assert running.history.lost == {}
    assert {end for end, _ in running.history.ends.values()} == {"done"}
    assert await violations(running.history, running.reached.url()) == []
    connection = await asyncpg.connect(running.reached.url())
    assert await connection.fetch("SELECT id FROM task_instance WHERE state <> 'success'") == []
    await connection.close()


@asynccontextmanager
async def served_through(between: Relay, url: str, folder: Path) -> AsyncIterator[Server]:
    """Run our server, which reaches its database through the relay: that must forward while it starts."""
    running = our_server(between.url(url), folder)
    server = await asyncio.to_thread(running.__enter__)
    try:
        yield server
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)


async def ping(server: Server) -> tuple[int, float]:
    """Return what ping answers, and after how many seconds."""
    started = time.monotonic()
    async with server.client(timeout=10) as client:
        status = (await client.get("/health/ping")).status_code
    return status, time.monotonic() - started


async def served(server: Server, within: float) -> None:
    """Assert that ping turns good within so many seconds."""
    deadline = time.monotonic() + within
    while (await ping(server))[0] != 200:
        assert time.monotonic() < deadline, f"it does not serve after {within:g} s"
        await asyncio.sleep(0.1)


async def test_every_pooled_connection_falls_silent(cluster: EmbeddedPostgres, tmp_path: Path) -> None:
    async with tasks_running(cluster, tmp_path) as running:
        running.between.silence()
        await asyncio.sleep(12)
        assert (await ping(running.server))[0] == 200
    assert running.history.unanswered(most=1) == {}


async def test_a_silent_network_is_told_by_ping_and_not_by_liveness(cluster: EmbeddedPostgres, tmp_path: Path) -> None:
    async with relay(cluster.url()) as between, served_through(between, cluster.url(), tmp_path) as server:
        assert (await ping(server))[0] == 200
        between.is_accepting_silently = True
        between.silence()
        status, seconds = await ping(server)
        assert (status, seconds < 4) == (500, True)
        async with server.client() as client:
            assert (await client.get("/health")).status_code == 200
        between.is_accepting_silently = False
        await served(server, within=5)


async def test_postgresql_is_away(cluster: EmbeddedPostgres, tmp_path: Path) -> None:
    async with tasks_running(cluster, tmp_path) as running:
        await asyncio.to_thread(cluster.stop)
        started = time.monotonic()
        await asyncio.sleep(AWAY / 2)
        status, seconds = await ping(running.server)
        assert (status, seconds < 4) == (500, True)
        await asyncio.sleep(AWAY - (time.monotonic() - started))
        await asyncio.to_thread(cluster.start)
        running.between.target_port = cluster.port
        await served(running.server, within=4)


async def test_there_and_back_again(cluster: EmbeddedPostgres, tmp_path: Path) -> None:
    """The address leads to a standby for a while, then to the first primary again: a failover that is undone."""
    with standby_of(cluster, reachable(tmp_path) / "standby") as standby:
        async with tasks_running(cluster, tmp_path) as running:
            running.between.target_port = standby.port
            running.between.cut()
            await asyncio.sleep(3)
            assert (await ping(running.server))[0] == 500
            running.between.target_port = cluster.port
            await served(running.server, within=RIGHT_AGAIN)


async def test_a_failover_to_a_standby(cluster: EmbeddedPostgres, tmp_path: Path) -> None:
    """First its address leads to the standby, which reads only; then that is promoted."""
    with standby_of(cluster, reachable(tmp_path) / "standby") as standby:
        async with tasks_running(cluster, tmp_path) as running:
            running.reached = standby
            await asyncio.to_thread(cluster.run, "psql", "-qc", "CHECKPOINT", "postgres")
            running.between.target_port = standby.port
            await asyncio.to_thread(cluster.stop)
            await asyncio.sleep(3)
            assert (await ping(running.server))[0] == 500
            await asyncio.to_thread(promote, standby)
            await served(running.server, within=4)
