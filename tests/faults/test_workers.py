"""A worker process dies while the database is away: its successor waits, the other goes on, and nothing has to be done."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.commands.embedded import EmbeddedPostgres
from tests.api.test_metrics import scrape
from tests.commands.test_workers import alive, lines, root, serving, workers_of
from tests.conditions import until
from tests.conftest import reachable
from tests.servers import our_server


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """Run a PostgreSQL of its own."""
    with EmbeddedPostgres(reachable(tmp_path_factory.mktemp("workers")), options={"fsync": "off"}) as server:
        server.create_metadata_database("airflow", "3.3")
        yield server


async def test_a_worker_dies_while_the_database_is_away(cluster: EmbeddedPostgres, tmp_path: Path) -> None:
    with our_server(cluster.url(), tmp_path, workers=3) as server:
        await until(lambda: len(serving(server)) == 3)
        await asyncio.to_thread(cluster.stop)
        killed, *others = workers_of(server)
        os.kill(killed, signal.SIGKILL)
        await until(lambda: len([line for line in lines(server) if line["event"] == "waiting for the database"]) >= 2)
        assert all(alive(pid) for pid in others)
        (successor,) = set(workers_of(server)) - set(others)
        async with httpx.AsyncClient(base_url=server.base_url, verify=False) as client:
            assert (await client.get("/health")).status_code == 200, "the others answer"
        await asyncio.to_thread(cluster.start)
        await until(lambda: successor in serving(server))
        assert set(workers_of(server)) == {successor, *others}, "one start, no loop of crashes"
        async with httpx.AsyncClient(base_url=root(server), verify=False) as client:
            series = await scrape(client)
        assert series["execution_api_worker_restarts_total", frozenset({("reason", "died")})] == 1
        assert series["execution_api_worker_restarts_total", frozenset({("reason", "failed to start")})] == 0
        assert server.stop() == 0
