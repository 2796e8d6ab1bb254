"""MySQL's codes, from a real MariaDB through an asynchronous driver: each is a 503 with its reason.

The queries of the service are PostgreSQL's; this shows the classification and the middleware alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.db.retrying import translated
from app.server.middleware import RetryableErrors
from tests.mariadb import mariadb

pytestmark = pytest.mark.slow

Work = Callable[[AsyncConnection], Awaitable[None]]
LOCK = text("UPDATE ti SET n = n + 1 WHERE id = :id")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mariadb(tmp_path_factory.mktemp("mariadb")) as running:
        yield running


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE IF EXISTS ti"))
        await connection.execute(text("CREATE TABLE ti (id int PRIMARY KEY, n int) ENGINE=InnoDB"))
        await connection.execute(text("INSERT INTO ti SELECT seq, 0 FROM seq_1_to_50"))
    yield engine
    await engine.dispose()


async def answer(engine: AsyncEngine, work: Work) -> httpx.Response:
    """Answer one request whose handler does ``work`` in a transaction."""

    async def handler(_: Request) -> Response:
        with translated():
            async with engine.begin() as connection:
                await work(connection)
        return Response(status_code=204)

    application = Starlette(routes=[Route("/", handler)], middleware=[Middleware(RetryableErrors)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://ours") as client:
        return await client.get("/")


def assert_retryable(response: httpx.Response, reason: str) -> None:
    assert (response.status_code, response.json()["detail"]["reason"]) == (503, reason)
    assert int(response.headers["retry-after"]) >= 1


async def test_a_deadlock(engine: AsyncEngine) -> None:
    """InnoDB ends the transaction that changed fewer rows: ours."""
    locked, crossed = asyncio.Event(), asyncio.Event()

    async def other() -> None:
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE ti SET n = n + 1 WHERE id >= 2"))
            await locked.wait()
            crossed.set()
            await connection.execute(LOCK, {"id": 1})

    async def ours(connection: AsyncConnection) -> None:
        await connection.execute(LOCK, {"id": 1})
        locked.set()
        await crossed.wait()
        await connection.execute(LOCK, {"id": 2})

    response, _ = await asyncio.gather(answer(engine, ours), other())
    assert_retryable(response, "deadlock")
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT n FROM ti WHERE id = 1")) == 1, "the other's update alone"


async def test_a_lock_wait_timeout(engine: AsyncEngine) -> None:
    async def ours(connection: AsyncConnection) -> None:
        await connection.execute(text("SET innodb_lock_wait_timeout = 1"))
        await connection.execute(LOCK, {"id": 1})

    async with engine.begin() as other:
        await other.execute(LOCK, {"id": 1})
        assert_retryable(await answer(engine, ours), "lock_timeout")


async def test_a_statement_timeout(engine: AsyncEngine) -> None:
    async def ours(connection: AsyncConnection) -> None:
        await connection.execute(text("SET max_statement_time = 0.05"))
        await connection.execute(text("SELECT count(*) FROM seq_1_to_100000 a JOIN seq_1_to_100000 b ON a.seq <> b.seq"))

    assert_retryable(await answer(engine, ours), "statement_timeout")


async def test_a_killed_connection(engine: AsyncEngine) -> None:
    async def ours(connection: AsyncConnection) -> None:
        own = await connection.scalar(text("SELECT connection_id()"))
        async with engine.connect() as other:
            await other.execute(text(f"KILL {own}"))
        await connection.execute(text("SELECT 1"))

    assert_retryable(await answer(engine, ours), "connection_lost")


async def test_too_many_connections(engine: AsyncEngine) -> None:
    """The server takes ten, and one more from an administrator."""

    async def ours(connection: AsyncConnection) -> None:
        await connection.execute(text("SELECT 1"))

    held = [await engine.connect() for _ in range(11)]
    try:
        assert_retryable(await answer(engine, ours), "too_many_connections")
    finally:
        for connection in held:
            await connection.close()


async def test_a_server_that_is_not_there() -> None:
    async def ours(connection: AsyncConnection) -> None:
        await connection.execute(text("SELECT 1"))

    nowhere = create_async_engine("mysql+aiomysql://root@127.0.0.1:1/test", poolclass=NullPool)
    assert_retryable(await answer(nowhere, ours), "connection_lost")


async def test_what_is_not_retryable_is_not_503(engine: AsyncEngine) -> None:
    async def ours(connection: AsyncConnection) -> None:
        await connection.execute(text("INSERT INTO ti VALUES (1, 1)"))

    with pytest.raises(Exception, match="1062"):
        await answer(engine, ours)
