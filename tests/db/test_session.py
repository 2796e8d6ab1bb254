"""Sessions on a real PostgreSQL: isolation, timeouts, and what each error of the database becomes."""

from __future__ import annotations

import asyncio
import gc
import uuid
import weakref
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import asyncpg
import pytest
from sqlalchemy import Integer, bindparam, column, literal, select, text

from app import errors
from app.db.session import Database
from app.releases import AIRFLOW_3_3
from app.server import patience
from app.settings import DatabaseSettings
from app.settings.database_url import async_url
from tests.world import World, ti_id


@pytest.fixture(scope="module")
def url(make_database: Callable[[str], str]) -> str:
    return make_database("3.3")


@pytest.fixture
async def admin(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


@pytest.fixture(params=[False, True], ids=["direct", "pgbouncer"])
async def database(request: pytest.FixtureRequest, url: str) -> AsyncIterator[Database]:
    settings = DatabaseSettings(
        url=async_url(url, setting="url"),
        pool_size=2,
        lock_timeout=0.3,
        statement_timeout=0.6,
        pgbouncer=request.param,
    )
    database = Database(settings)
    yield database
    await database.close()


@pytest.fixture
async def ti(admin: asyncpg.Connection) -> uuid.UUID:
    world = World(admin)
    if await admin.fetchval("SELECT count(*) FROM dag") == 0:
        await world.one_running("d")
    return ti_id("d/manual__1/job/-1")


async def test_every_session_is_bounded(database: Database) -> None:
    for opened in (database.transaction, database.autocommit, database.fallback):
        async with opened() as session:
            assert await session.scalar(text("SHOW lock_timeout")) == "1ms", "no statement waits for a lock"
            assert await session.scalar(text("SHOW statement_timeout")) == "600ms"
            assert await session.scalar(text("SHOW transaction_isolation")) == "read committed"


async def test_a_transaction_is_committed_or_leaves_no_trace(database: Database, admin: asyncpg.Connection) -> None:
    await admin.execute("DELETE FROM variable")
    insert = text("INSERT INTO variable (key, val, is_encrypted) VALUES (:key, 'v', false)")
    async with database.transaction() as session:
        await session.execute(insert, {"key": "kept"})
    with pytest.raises(RuntimeError):
        async with database.transaction() as session:
            await session.execute(insert, {"key": "lost"})
            raise RuntimeError
    async with database.transaction() as session:
        await session.execute(insert, {"key": "abandoned"})
        await database.abandon(session)
    assert [row["key"] for row in await admin.fetch("SELECT key FROM variable")] == ["kept"]


async def test_an_error_at_commit_is_translated_too(database: Database, admin: asyncpg.Connection) -> None:
    await admin.execute(
        "CREATE TABLE IF NOT EXISTS parent (id int PRIMARY KEY);"
        "CREATE TABLE IF NOT EXISTS child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
    )
    with pytest.raises(errors.MissingReference):
        async with database.transaction() as session:
            await session.execute(text("INSERT INTO child VALUES (1)"))


async def test_lock_timeout(database: Database, admin: asyncpg.Connection, ti: uuid.UUID) -> None:
    async with admin.transaction():
        await admin.execute("SELECT 1 FROM task_instance WHERE id = $1 FOR UPDATE", ti)
        with pytest.raises(errors.LockTimeout) as raised:
            async with database.transaction() as session:
                await AIRFLOW_3_3.storage.task_instances.lock(session, ti_id=ti)
    assert raised.value.__cause__ is not None


async def test_statement_timeout(database: Database) -> None:
    with pytest.raises(errors.StatementTimeout):
        async with database.autocommit() as session:
            await session.execute(text("SELECT pg_sleep(5)"))


async def test_a_terminated_backend(database: Database, admin: asyncpg.Connection) -> None:
    with pytest.raises(errors.ConnectionLost):
        async with database.transaction() as session:
            pid = await session.scalar(text("SELECT pg_backend_pid()"))
            await admin.execute("SELECT pg_terminate_backend($1, 5000)", pid)
            await session.execute(text("SELECT 1"))
    async with database.autocommit() as session:  # the pool replaces it
        assert await session.scalar(text("SELECT 1")) == 1


async def test_an_exhausted_pool(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "CONNECTION", 0.1)
    async with database.transaction() as first, database.transaction() as second:
        await first.execute(text("SELECT 1"))
        await second.execute(text("SELECT 1"))
        with pytest.raises(errors.PoolExhausted):
            await database.ping()


async def test_a_database_that_is_not_there(database: Database) -> None:
    nowhere = async_url("postgresql://postgres@127.0.0.1:1/none", setting="url")
    with pytest.raises(errors.ConnectionLost):
        await Database(replace(database.settings, url=nowhere)).ping()


async def test_a_serialization_failure(database: Database, admin: asyncpg.Connection, ti: uuid.UUID) -> None:
    with pytest.raises(errors.SerializationFailure):
        async with database.transaction() as session:
            await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            await session.execute(text("SELECT count(*) FROM task_instance"))
            await admin.execute("UPDATE task_instance SET updated_at = now() WHERE id = $1", ti)
            await session.execute(text("UPDATE task_instance SET updated_at = now() WHERE id = :ti"), {"ti": ti})


async def test_too_many_connections(postgres: object, url: str, admin: asyncpg.Connection) -> None:
    await admin.execute(
        "DROP ROLE IF EXISTS limited; CREATE ROLE limited LOGIN CONNECTION LIMIT 0; GRANT SELECT ON dag TO limited"
    )
    limited = Database(DatabaseSettings(url=async_url(url.replace("postgres@", "limited@"), setting="url")))
    with pytest.raises(errors.TooManyConnections):
        await limited.ping()
    await limited.close()


async def test_a_deadlock_in_which_we_are_the_victim(database: Database, admin: asyncpg.Connection, ti: uuid.UUID) -> None:
    """Forced with two rows, as none of our own transactions would lock them; PostgreSQL must choose ours."""
    world = World(admin)
    if await admin.fetchval("SELECT count(*) FROM task_instance") < 2:
        await world.running("d", "other")
    other = ti_id("d/manual__1/other/-1")
    lock = "SELECT 1 FROM task_instance WHERE id = $1 FOR UPDATE"
    await admin.execute("SET deadlock_timeout = '10s'; SET lock_timeout = 0")
    with pytest.raises(errors.DeadlockDetected):
        async with database.transaction() as session:
            for setting in ("deadlock_timeout = '10ms'", "lock_timeout = 0"):
                await session.execute(text(f"SET LOCAL {setting}"))
            await AIRFLOW_3_3.storage.task_instances.lock(session, ti_id=ti)
            async with admin.transaction():
                await admin.execute(lock, other)
                theirs = asyncio.create_task(admin.execute(lock, ti))
                try:
                    while not await _waits(session, admin):
                        pass
                    await AIRFLOW_3_3.storage.task_instances.lock(session, ti_id=other)
                finally:
                    await database.abandon(session)  # what PostgreSQL ended holds no lock any more
                    await theirs


async def _waits(session: object, admin: asyncpg.Connection) -> bool:
    pid = admin.get_server_pid()
    query = text("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = :pid")
    return bool(await session.scalar(query, {"pid": pid}))  # type: ignore[attr-defined]


async def test_many_rows_are_sent_at_once_and_written_together(database: Database, admin: asyncpg.Connection) -> None:
    await admin.execute("CREATE TABLE IF NOT EXISTS many (n int PRIMARY KEY)")
    insert = text("INSERT INTO many VALUES (:n)")
    async with database.autocommit() as session:
        await session.execute(insert, [{"n": 1}, {"n": 2}])
        await session.execute(insert, [])
    with pytest.raises(errors.UniqueViolation):
        async with database.autocommit() as session:
            await session.execute(insert, [{"n": 3}, {"n": 1}])
    assert [row["n"] for row in await admin.fetch("SELECT n FROM many ORDER BY n")] == [1, 2]
    await admin.execute("DROP TABLE many")


async def test_a_session_that_is_cancelled_in_a_statement_gives_its_connection_up(
    database: Database, admin: asyncpg.Connection
) -> None:
    started = asyncio.Event()

    async def sleep() -> None:
        async with database.autocommit() as session:
            await session.scalar(text("SELECT 1"))
            started.set()
            await session.scalar(text("SELECT pg_sleep(60)"))

    sleeping = asyncio.create_task(sleep())
    await started.wait()
    for _ in range(1000):
        if await admin.fetchval("SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'"):
            break
        await asyncio.sleep(0.005)
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    for _ in range(5):
        await database.ping()


async def test_an_in_with_as_many_values_as_there_are(database: Database) -> None:
    values = column("n", Integer)
    source = (
        select(values).select_from(text("generate_series(1, 9) AS n")).where(values.in_(bindparam("some", expanding=True)))
    )
    async with database.autocommit() as session:
        assert await session.scalars(source, {"some": [2, 3]}) == [2, 3]
        assert await session.scalars(source, {"some": []}) == []


async def test_a_statement_that_was_made_for_one_call_is_not_kept(database: Database) -> None:
    """It has its values in it, which may be as large as a body: hundreds of them were kept for good."""
    statement = select(literal("x" * 1000))
    gone = weakref.ref(statement)
    async with database.autocommit() as session:
        assert await session.scalar(statement) == "x" * 1000
    del statement, session
    gc.collect()
    assert gone() is None
