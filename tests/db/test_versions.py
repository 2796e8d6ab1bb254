"""The PostgreSQLs that are supported: a task's life on those older than the embedded one, on which all else runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from app.commands.embedded import EmbeddedPostgres
from bench.driver import Task, life
from tests.conftest import reachable
from tests.postgres_majors import OLDER, use
from tests.servers import beside_the_loop, our_server
from tests.world import World

pytestmark = pytest.mark.slow


@pytest.fixture(params=OLDER)
def major(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def postgres(major: str, tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """Run an older PostgreSQL."""
    with pytest.MonkeyPatch.context() as patch:
        use(major, patch)
        with EmbeddedPostgres(reachable(tmp_path) / "cluster", options={"fsync": "off"}) as server:
            yield server


async def test_a_task_lives_on_it(postgres: EmbeddedPostgres, major: str, tmp_path: Path) -> None:
    postgres.create_metadata_database("metadata", "3.3")
    connection = await asyncpg.connect(postgres.url("metadata"))
    try:
        assert connection.get_server_version().major == int(major)
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
