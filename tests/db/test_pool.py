"""Connections that are lost, in each way that networks and servers have: who hears of it, and what is used afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text

from app import errors
from app.commands.embedded import EmbeddedPostgres
from app.db import pool
from app.db.session import Database
from app.server import patience
from app.settings import DatabaseSettings
from app.settings.database_url import async_url
from tests.conditions import until
from tests.conftest import reachable
from tests.relay import Relay, relay

SIZE = 5
ONE = text("SELECT 1")
PID = text("SELECT pg_backend_pid()")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """Run a PostgreSQL of its own, which these tests stop, and whose settings they change."""
    with EmbeddedPostgres(reachable(tmp_path_factory.mktemp("pool")), options={"fsync": "off"}) as server:
        server.create_metadata_database("airflow", "3.3")
        yield server


@pytest.fixture
async def between(cluster: EmbeddedPostgres) -> AsyncIterator[Relay]:
    async with relay(cluster.url()) as running:
        yield running


@pytest.fixture
async def database(cluster: EmbeddedPostgres, between: Relay) -> AsyncIterator[Database]:
    url = between.url(cluster.url())
    settings = DatabaseSettings(url=async_url(url, setting="url"), pool_size=SIZE, lock_timeout=0.2, statement_timeout=0.4)
    database = Database(settings)
    yield database
    await database.close()


def sql(cluster: EmbeddedPostgres, *statements: str) -> str:
    """Execute statements as an administrator; the event loop stands still meanwhile, so nothing is noticed before."""
    return cluster.run("psql", "-qAtX", *(f"-c{statement}" for statement in statements), "airflow")


OTHERS = "FROM pg_stat_activity WHERE application_name = 'execution-api'"


async def one(database: Database) -> int:
    async with database.autocommit() as session:
        return int(await session.scalar(ONE))


async def filled(database: Database) -> set[int]:
    """Fill the pool; return the server's process of each connection."""
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(database.autocommit()) for _ in range(SIZE)]
        pids = {int(await session.scalar(PID)) for session in sessions}
    assert len(pids) == len(database._pool._idle) == SIZE
    return pids


async def test_silence_is_heard_of_by_those_who_meet_it_and_by_nobody_after(database: Database, between: Relay) -> None:
    await filled(database)
    between.silence()
    bound = database.settings.statement_timeout + pool.ANSWER_MARGIN
    started = time.monotonic()
    met = await asyncio.gather(one(database), one(database), return_exceptions=True)
    assert [type(each) for each in met] == [errors.ConnectionLost] * 2
    assert time.monotonic() - started < bound + 1
    assert await asyncio.gather(*(one(database) for _ in range(SIZE))) == [1] * SIZE


async def test_silence_that_is_met_later_does_not_throw_new_connections_away(database: Database, between: Relay) -> None:
    async with AsyncExitStack() as stack:
        early = await stack.enter_async_context(database.autocommit())
        late = await stack.enter_async_context(database.autocommit())
        await early.scalar(ONE)
        await late.scalar(ONE)
        between.silence()
        hanging = asyncio.create_task(early.scalar(ONE))
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await hanging
        early._pool.lose(early._pooled)
        fresh = await one(database), database._pool._idle[-1].connection
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await late.scalar(ONE)
        late._pool.lose(late._pooled)
    assert not fresh[1].is_closed()
    assert [pooled.connection for pooled in database._pool._idle] == [fresh[1]]


@pytest.mark.parametrize("command", ["BEGIN", "COMMIT", "ROLLBACK"])
async def test_what_controls_a_transaction_has_a_bound_too(database: Database, between: Relay, command: str) -> None:
    await one(database)
    started = time.monotonic()

    async def work() -> None:
        if command == "BEGIN":
            between.silence()
        async with database.transaction() as session:
            await session.scalar(ONE)
            between.silence()
            if command == "ROLLBACK":
                raise ZeroDivisionError

    with pytest.raises(errors.ConnectionLost):
        await work()
    assert time.monotonic() - started < 2 * (database.settings.statement_timeout + pool.ANSWER_MARGIN)
    assert await one(database) == 1


async def test_a_login_that_is_never_answered_has_a_bound(database: Database, between: Relay) -> None:
    between.is_accepting_silently = True
    database._is_patient = False
    with pytest.raises(errors.ConnectionLost):
        await one(database)


async def test_the_fallback_has_a_bound(database: Database, between: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    async with database.fallback() as session:  # what it needs is imported and connected to first
        await session.execute(ONE)
    monkeypatch.setattr("app.db.session.FALLBACK_TIMEOUT", 0.3)
    started = time.monotonic()
    with pytest.raises(errors.ConnectionLost):
        async with database.fallback() as session:
            await session.execute(ONE)
            between.silence()
            await session.execute(ONE)
    assert time.monotonic() - started < database.settings.statement_timeout + pool.ANSWER_MARGIN


class TestNobodyHears:
    """What ended while nobody used it is replaced before anybody notices."""

    async def test_idle_sessions_that_time_out(self, cluster: EmbeddedPostgres, database: Database) -> None:
        sql(cluster, "ALTER DATABASE airflow SET idle_session_timeout = '500ms'")
        try:
            await asyncio.gather(*(one(database) for _ in range(SIZE)))
            await until(lambda: sql(cluster, f"SELECT count(*) {OTHERS}") == "0\n")
            assert await asyncio.gather(*(one(database) for _ in range(SIZE))) == [1] * SIZE
        finally:
            sql(cluster, "ALTER DATABASE airflow RESET idle_session_timeout")

    @pytest.mark.parametrize("is_noticed", [False, True])
    async def test_idle_sessions_that_are_terminated(
        self, cluster: EmbeddedPostgres, database: Database, is_noticed: bool
    ) -> None:
        """Also before the driver has heard of it: the first statement finds it dead, and is sent once more."""
        await filled(database)
        connections = [pooled.connection for pooled in database._pool._idle]
        sql(cluster, f"SELECT pg_terminate_backend(pid, 5000) {OTHERS}")
        await until(lambda: not is_noticed or all(connection.is_closed() for connection in connections))
        assert not is_noticed or connections[-1].is_closed()
        async with database.transaction() as session:
            assert await session.scalar(ONE) == 1
        assert await asyncio.gather(*(one(database) for _ in range(SIZE))) == [1] * SIZE

    async def test_idle_sessions_whose_end_has_not_come_yet(
        self, cluster: EmbeddedPostgres, database: Database, between: Relay
    ) -> None:
        """The server's last word is there, and the connection still open: nothing can be sent, and nothing was."""
        await filled(database)
        connections = [pooled.connection for pooled in database._pool._idle]
        between.is_hiding_ends = True
        sql(cluster, f"SELECT pg_terminate_backend(pid, 5000) {OTHERS}")
        await until(lambda: between.hidden == SIZE)
        await asyncio.sleep(0.05)  # what was passed on before lies in the driver's socket: it is read meanwhile
        assert not any(connection.is_closed() for connection in connections)
        assert await asyncio.gather(*(one(database) for _ in range(SIZE))) == [1] * SIZE

    async def test_a_restart(self, cluster: EmbeddedPostgres, database: Database, between: Relay) -> None:
        await filled(database)
        cluster.stop()
        cluster.start()
        between.target_port = cluster.port
        assert await asyncio.gather(*(one(database) for _ in range(SIZE))) == [1] * SIZE


async def test_a_session_that_is_ended_after_its_first_statement_is_not_repeated(
    cluster: EmbeddedPostgres, database: Database
) -> None:
    with pytest.raises(errors.ConnectionLost):
        async with database.autocommit() as session:
            await session.scalar(ONE)
            sql(cluster, f"SELECT pg_terminate_backend(pid, 5000) {OTHERS}")
            await session.scalar(ONE)


async def test_who_needs_a_connection_waits_for_the_database(
    database: Database, between: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One prober tries for all of them; who is told later than the others is told no less."""
    attempts = []
    connect = database._pool._connect

    async def counted(url: object) -> asyncpg.Connection:
        attempts.append(url)
        return await connect(url)  # type: ignore[arg-type]

    monkeypatch.setattr(database._pool, "_connect", counted)
    await between.refuse()
    between.cut()
    waiting = [asyncio.create_task(one(database)) for _ in range(SIZE)]
    await until(lambda: len(attempts) >= SIZE + 3)
    assert not any(task.done() for task in waiting)
    assert len(database._pool._waiting) == SIZE
    await between.listen()
    assert await asyncio.gather(*waiting) == [1] * SIZE
    assert len(attempts) <= 2 * SIZE + 6


async def test_patience_ends(database: Database, between: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    await between.refuse()
    monkeypatch.setattr(patience, "CONNECTION", 0.3)
    started = time.monotonic()
    with pytest.raises(errors.ConnectionLost):
        await one(database)
    assert time.monotonic() - started >= 0.3
    await until(lambda: database._pool._prober is None)  # nobody waits, so nobody probes


async def test_who_loses_a_connection_hears_it_when_there_is_another(database: Database, between: Relay) -> None:
    """So the client's next attempt meets a database that is there."""
    in_statement = asyncio.Event()

    async def lose() -> None:
        async with database.autocommit() as session:
            await session.scalar(ONE)
            in_statement.set()
            await session.scalar(text("SELECT pg_sleep(10)"))

    losing = asyncio.create_task(lose())
    await in_statement.wait()
    await between.refuse()
    between.cut()
    await until(lambda: database._pool._prober is not None)
    assert not losing.done()
    await between.listen()
    with pytest.raises(errors.ConnectionLost):
        await losing
    assert len(database._pool._idle) == 1


async def test_a_connection_that_comes_back_goes_to_who_waits_while_no_other_can_be_made(
    database: Database, between: Relay
) -> None:
    async with database.autocommit() as session:
        await session.scalar(ONE)
        await between.refuse()
        waiting = asyncio.create_task(one(database))
        await until(lambda: len(database._pool._waiting) == 1)
    assert await waiting == 1


async def test_a_server_that_stops_writing_is_left_and_its_connections_too(
    cluster: EmbeddedPostgres, database: Database
) -> None:
    await filled(database)
    write = text("UPDATE slot_pool SET slots = slots")
    try:
        sql(cluster, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        await until(lambda: sql(cluster, "SHOW default_transaction_read_only") == "on\n")
        with pytest.raises(errors.ReadOnlyServer):
            await database.ping()
        assert not database._pool._idle, "what leads to it is not used again, and no other is taken"
        database._is_patient = False
        with pytest.raises(errors.ReadOnlyServer):
            async with database.autocommit() as session:
                await session.execute(write)
    finally:
        sql(cluster, "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")
    database._is_patient = True
    async with database.autocommit() as session:
        await session.execute(write)


async def test_ping_has_a_bound(database: Database, between: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.db.session.PING_TIMEOUT", 0.1)
    await filled(database)
    between.silence()
    with pytest.raises(errors.ConnectionLost):
        await database.ping()


class TestRotatedPasswords:
    """The database refuses the login: what its URL came from is asked again."""

    @pytest.fixture
    async def rotated(self, cluster: EmbeddedPostgres, between: Relay) -> AsyncIterator[Callable[[str], str]]:
        """Have a role log in by password; return what gives it another one, and tells the URL."""
        rules = cluster.data / "pg_hba.conf"
        before = rules.read_text()
        rules.write_text(f"host all rotated all scram-sha-256\n{before}")
        sql(cluster, "SELECT pg_reload_conf()", "CREATE ROLE rotated LOGIN")

        def rotate(password: str) -> str:
            sql(cluster, f"ALTER ROLE rotated PASSWORD '{password}'")
            return between.url(cluster.url()).replace("postgres@", f"rotated:{password}@")

        yield rotate
        rules.write_text(before)
        sql(cluster, "SELECT pg_reload_conf()", "DROP ROLE rotated")

    async def test_the_new_one_is_asked_for_and_nobody_hears(
        self, cluster: EmbeddedPostgres, rotated: Callable[[str], str], tmp_path: Path
    ) -> None:
        urls = [rotated("first")]
        asked = []

        def ask() -> object:
            asked.append(1)
            return async_url(urls[-1], setting="url")

        settings = DatabaseSettings(url=async_url(urls[0], setting="url"), pool_size=SIZE, ask=ask)  # type: ignore[arg-type]
        database = Database(settings)
        await filled(database)
        urls.append(rotated("second"))
        assert await one(database) == 1, "who is in stays in"
        sql(cluster, f"SELECT pg_terminate_backend(pid, 5000) {OTHERS}")
        assert await asyncio.gather(*(one(database) for _ in range(SIZE))) == [1] * SIZE
        assert len(asked) == 1
        await database.close()

    async def test_one_that_comes_late_is_waited_for(
        self, cluster: EmbeddedPostgres, rotated: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool, "ASK_EVERY", 0.05)
        urls = [rotated("first")]
        ask = lambda: async_url(urls[-1], setting="url")  # noqa: E731
        database = Database(DatabaseSettings(url=ask(), pool_size=SIZE, ask=ask))
        new = rotated("second")
        waiting = asyncio.create_task(one(database))
        await until(lambda: database._pool._prober is not None)
        urls.append(new)
        assert await waiting == 1
        await database.close()

    @pytest.mark.parametrize("error", [errors.ConfigurationError("away"), OSError("away"), RuntimeError("away")], ids=repr)
    async def test_what_tells_it_may_fail_and_is_asked_again(
        self, rotated: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        monkeypatch.setattr(pool, "ASK_EVERY", 0.05)
        old = rotated("first")
        new = rotated("second")
        asked = []

        def ask() -> Any:
            asked.append(1)
            if len(asked) < 3:
                raise error
            return async_url(new, setting="url")

        database = Database(DatabaseSettings(url=async_url(old, setting="url"), pool_size=SIZE, ask=ask))
        assert await one(database) == 1
        assert len(asked) == 3
        await database.close()
