"""Several hosts, sockets and poolers in front of a database: where connections go, and what holds on them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
import uvloop
from sqlalchemy import text

from app import errors, releases
from app.commands.embedded import EmbeddedPostgres, free_port
from app.db.session import Database
from app.settings import DatabaseSettings
from app.settings.database_url import async_url
from tests.conftest import reachable
from tests.pgbouncer import pgbouncer
from tests.relay import relay
from tests.standby import promote, standby_of

slow = pytest.mark.slow
PORT = text("SELECT current_setting('port')::int")


@asynccontextmanager
async def opened(url: str, **settings: object) -> AsyncIterator[Database]:
    database = Database(DatabaseSettings(url=async_url(url, setting="url"), **settings))  # type: ignore[arg-type]
    yield database
    await database.close()


async def port(database: Database) -> int:
    async with database.autocommit() as session:
        return int(await session.scalar(PORT))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return reachable(tmp_path)


@pytest.fixture
def sockets(folder: Path) -> Path:
    """Make a folder that every user may write to."""
    (folder / "sockets").mkdir()
    (folder / "sockets").chmod(0o777)
    return folder / "sockets"


def both(first: int, second: int) -> str:
    return f"postgresql://postgres@/postgres?host=127.0.0.1:{first}&host=127.0.0.1:{second}"


@slow
async def test_of_two_hosts_the_one_that_writes(folder: Path) -> None:
    with (
        EmbeddedPostgres(folder / "primary", options={"fsync": "off"}) as primary,
        standby_of(primary, folder / "standby") as standby,
    ):
        for asked in ("", "&target_session_attrs=primary", "&target_session_attrs=any"):
            async with opened(both(standby.port, primary.port) + asked) as database:
                assert await port(database) == primary.port
        async with opened(both(primary.port, standby.port)) as database:
            assert await port(database) == primary.port
            primary.stop()
            promote(standby)
            database.forget_connections()
            assert await port(database) == standby.port


async def test_a_host_that_is_silent_or_refuses_keeps_nobody_from_the_other(postgres: EmbeddedPostgres) -> None:
    async with relay(postgres.url("postgres")) as silent:
        silent.is_accepting_silently = True
        for other in (silent.port, free_port()):
            async with opened(both(other, postgres.port)) as database:
                assert await port(database) == postgres.port


async def test_when_no_host_takes_it_a_server_is_heard_before_the_network(postgres: EmbeddedPostgres) -> None:
    url = both(free_port(), postgres.port).replace("/postgres?", "/nowhere?")
    database = Database(DatabaseSettings(url=async_url(url, setting="url")), is_patient=False)
    with pytest.raises(errors.RetryableDatabaseError) as raised:
        await port(database)
    assert isinstance(raised.value.__cause__, asyncpg.InvalidCatalogNameError)


@pytest.mark.parametrize("loop", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_sockets_are_kept_alive(postgres: EmbeddedPostgres, loop: Callable[[], object] | None) -> None:
    url = postgres.url("postgres") + "?keepalives_idle=61&keepalives_interval=7&keepalives_count=3&tcp_user_timeout=9000"
    asked = [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
    ]

    async def told(url: str) -> list[int]:
        async with opened(url) as database:
            connection = await database._pool.connect()
            found = connection._transport.get_extra_info("socket")
            values = [found.getsockopt(level, option) for level, option in asked]
            connection.terminate()
            return values

    async def ask() -> None:
        assert await told(url) == [1, 61, 7, 3, 9000]
        plain = await told(postgres.url("postgres"))
        assert plain[0] == 1
        assert await told(url + "&keepalives=0") == [0, *plain[1:4], 9000]

    with asyncio.Runner(loop_factory=loop) as runner:  # type: ignore[arg-type]
        runner.run(ask())


@slow
async def test_a_socket_in_the_file_system(folder: Path, sockets: Path) -> None:
    with EmbeddedPostgres(folder / "server", options={"unix_socket_directories": str(sockets), "fsync": "off"}) as server:
        async with opened(f"postgresql://postgres@/postgres?host={sockets}&port={server.port}&keepalives=1") as database:
            assert await port(database) == server.port


@pytest.fixture
async def schema(make_database: Callable[[str], str]) -> str:
    """Make a metadata database as Airflow's migration does with a schema of its own: ``alembic_version`` stays outside."""
    url = make_database("3.3")
    connection = await asyncpg.connect(url)
    await connection.execute(
        """
        ALTER SCHEMA public RENAME TO "Air flow";
        CREATE SCHEMA public;
        ALTER TABLE "Air flow".alembic_version SET SCHEMA public;
        """
    )
    await connection.close()
    return url


WHERE = text("SELECT count(*) FROM slot_pool")


@pytest.mark.parametrize("behind", [False, pytest.param(True, marks=slow)], ids=["direct", "pgbouncer"])
async def test_another_schema(schema: str, postgres: EmbeddedPostgres, folder: Path, behind: bool) -> None:
    async def ask(url: str) -> None:
        async with opened(url, schema="Air flow", pgbouncer=behind, pool_size=2) as database:
            assert (await releases.of(database)).name == "3.3"
            for way in (database.autocommit, database.transaction, database.fallback):
                async with way() as session:
                    assert await session.scalar(WHERE) == 1
                    assert await session.scalar(text("SHOW lock_timeout")) == "1ms"

    if not behind:
        return await ask(schema)
    with pgbouncer(postgres, folder / "pgbouncer") as at:
        await ask(schema.replace(str(postgres.port), str(at)))
