"""The PostgreSQLs that are supported: a task's life on those older than the embedded one, on which all else runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from app.commands import embedded
from app.commands.embedded import EmbeddedPostgres
from bench.driver import Task, life
from tests.conftest import reachable
from tests.debian import install
from tests.debian_postgres import LIBRARY
from tests.servers import beside_the_loop, our_server
from tests.world import World

pytestmark = pytest.mark.slow


def _of_debian(patch: pytest.MonkeyPatch) -> None:
    install("postgresql", programs=("pg_ctlcluster",))
    programs = max(LIBRARY.iterdir(), key=lambda each: int(each.name)) / "bin"
    patch.setattr(embedded, "_programs_for", lambda *_: programs)


def _of_the_wheel(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(embedded, "POSTGRES_MAJOR", "")  # the folder without a number has 16


@pytest.fixture(params=[_of_debian, _of_the_wheel], ids=["Debian's 15", "16"])
def postgres(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """Run an older PostgreSQL."""
    with pytest.MonkeyPatch.context() as patch:
        request.param(patch)
        with EmbeddedPostgres(reachable(tmp_path) / "cluster", options={"fsync": "off"}) as server:
            yield server


async def test_a_task_lives_on_it(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    postgres.create_metadata_database("metadata", "3.3")
    connection = await asyncpg.connect(postgres.url("metadata"))
    try:
        assert connection.get_server_version().major in (15, 16)
        world = World(connection, "3.3")
        ti = await world.one("bench")
        await world.insert("variable", key="v", val="value", is_encrypted=False)
        await world.insert("connection", conn_id="c", conn_type="http", is_encrypted=False, is_extra_encrypted=False)
        async with beside_the_loop(our_server(postgres.url("metadata"), tmp_path)) as server, server.client(ti) as client:
            for method, path, body in life(Task.of(ti, "job", "manual__1")):
                answer = await client.request(method, path, json=body)
                assert answer.status_code < 300, (path, answer.text)
            assert (await client.get("/health/ping")).status_code == 200
        assert await connection.fetchval("SELECT state FROM task_instance WHERE id = $1", ti) == "success"
    finally:
        await connection.close()
