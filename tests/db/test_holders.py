"""Who holds what: rows really held, by sessions that are known, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from app.commands.embedded import EmbeddedPostgres
from app.db.components import CRITICAL_SECTION, OURS, UNKNOWN
from app.db.holders import Held, Picture, Place, holders_of, look
from app.db.session import Database
from app.settings import DatabaseSettings
from app.settings.database_url import async_url
from tests.conftest import empty, reachable
from tests.pgbouncer import pgbouncer
from tests.world import World

FOREVER = 0.0  # seconds: a transaction is told of however short it is
LOCK = "SELECT FROM task_instance WHERE task_id = '{}' FOR NO KEY UPDATE"


@pytest.fixture(scope="module")
def url(make_database: Callable[[str], str]) -> str:
    return make_database("3.3")


@pytest.fixture
async def world(url: str) -> AsyncIterator[World]:
    connection = await asyncpg.connect(url)
    await empty(connection)
    world = World(connection, "3.3")
    await world.one_running("d")
    yield world
    await connection.close()


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = Database(DatabaseSettings(async_url(url, setting="the tests")))
    yield database
    await database.close()


@asynccontextmanager
async def session(url: str, name: str = "") -> AsyncIterator[asyncpg.Connection]:
    """Open a session in a transaction; what it does is undone."""
    connection = await asyncpg.connect(url, server_settings={"application_name": name})
    try:
        await connection.execute("BEGIN")
        yield connection
    finally:
        connection.terminate()


@asynccontextmanager
async def waiting(url: str, statement: str, *, name: str = "") -> AsyncIterator[int]:
    """Run a statement that waits for a lock until the block ends; yield its pid once PostgreSQL says that it waits."""
    async with session(url, name) as connection, session(url) as watching:
        pid = connection.get_server_pid()
        running = asyncio.create_task(connection.execute(statement))
        while not await watching.fetchval("SELECT count(*) FROM pg_locks WHERE pid = $1 AND NOT granted", pid):
            assert not running.done(), running.result()
        try:
            yield pid
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def one(picture: Picture) -> Held:
    (held,) = picture.held
    return held


async def test_nobody_holds_anything(world: World, database: Database) -> None:
    assert await look(database, since=FOREVER) == Picture()


async def test_a_row_of_a_living_task_that_nobody_waits_for(world: World, database: Database, url: str) -> None:
    """As it is for our own requests: they come back, and PostgreSQL does not know of them."""
    async with session(url, "company's cron") as holder:
        await holder.execute(LOCK.format("job"))
        held = one(await look(database, since=FOREVER))
        assert (held.kind, held.table) == ("row", "task_instance")
        assert {key: held.row[key] for key in ("dag_id", "run_id", "task_id", "map_index", "state")} == {
            "dag_id": "d", "run_id": "manual__1", "task_id": "job", "map_index": -1, "state": "running",
        }  # fmt: skip
        (found,) = held.holders
        assert (found.pid, found.component, found.application) == (holder.get_server_pid(), UNKNOWN, "company's cron")
        assert (found.role, found.client, found.state) == ("postgres", "127.0.0.1", "idle in transaction")
        assert found.statement == "SELECT FROM task_instance WHERE task_id = ? FOR NO KEY UPDATE"
        assert found.in_transaction is not None
        assert found.idle is not None
        assert not held.waiting
        assert not (await look(database, since=3600.0)).held, "it is not told of for as long as it is short"


async def test_what_was_written_is_held_too(world: World, database: Database, url: str) -> None:
    async with session(url) as holder:
        await holder.execute("SAVEPOINT inside")
        await holder.execute("UPDATE task_instance SET queue = 'moved'")
        held = one(await look(database, since=FOREVER))
        assert held.row["task_id"] == "job"
        assert held.holders[0].pid == holder.get_server_pid()


async def test_many_wait_in_one_line(world: World, database: Database, url: str) -> None:
    """Who stands first waits for the holder, the others for who stands before them: all wait for one row, held by one."""
    async with session(url, "holder") as holder, AsyncExitStack() as stack:
        await holder.execute(LOCK.format("job"))
        line = [await stack.enter_async_context(waiting(url, LOCK.format("job"))) for _ in range(4)]
        held = one(await look(database, since=FOREVER))
    assert held.row["task_id"] == "job"
    assert [each.application for each in held.holders] == ["holder"]
    assert [each.pid for each in held.waiting] == line, "who has waited longest is told first"
    assert all(each.waits is not None and each.state == "active" for each in held.waiting)
    assert held.seconds == held.waiting[0].waits


async def test_who_waits_may_hold(world: World, database: Database, url: str) -> None:
    await world.running("d", "other")
    async with session(url, "first") as first, session(url, "second") as second:
        await first.execute(LOCK.format("job"))
        await second.execute(LOCK.format("other"))
        async with waiting(url, LOCK.format("other"), name="third"):
            second_waits = asyncio.create_task(second.execute(LOCK.format("job")))
            while len((picture := await look(database, since=FOREVER)).held[-1].waiting) != 1:
                assert not second_waits.done()
            told = {each.row["task_id"]: (each.holders[0].application, each.waiting[0].application) for each in picture.held}
            second_waits.cancel()
            await asyncio.gather(second_waits, return_exceptions=True)
    assert told == {"job": ("first", "second"), "other": ("second", "third")}


async def test_a_row_that_several_have_locked(world: World, database: Database, url: str) -> None:
    """The row's header has a number for both of them; who only refers to it keeps nobody from it."""
    async with session(url, "referring") as referring, session(url, "holder") as holder:
        await referring.execute("SELECT FROM task_instance FOR KEY SHARE")
        await holder.execute(LOCK.format("job"))
        held = one(await look(database, since=FOREVER))
    assert [each.application for each in held.holders] == ["holder"]


async def test_a_key_that_others_insert_too(world: World, database: Database, url: str) -> None:
    insert = "INSERT INTO variable (key, val, is_encrypted) VALUES ('k', 'a secret', false)"
    async with session(url, "first") as first:
        await first.execute(insert)
        async with waiting(url, insert, name="second"):
            held = one(await look(database, since=FOREVER))
    assert (held.kind, held.table, held.row) == ("transaction", None, {})
    assert [(each.application, each.statement) for each in (*held.holders, *held.waiting)] == [
        ("first", "INSERT INTO variable (key, val, is_encrypted) VALUES (?, ?, false)"),
        ("second", "INSERT INTO variable (key, val, is_encrypted) VALUES (?, ?, false)"),
    ]


async def test_a_whole_table(world: World, database: Database, url: str) -> None:
    """Its rows cannot be read now: who holds it is told all the same."""
    async with session(url, "migrates") as migration, session(url) as other:
        await other.execute("UPDATE dag SET is_paused = true")
        await migration.execute("LOCK TABLE task_instance")
        async with waiting(url, "DELETE FROM task_instance"):
            held = one(await look(database, since=FOREVER))
    assert (held.kind, held.table, held.row) == ("table", "task_instance", {})
    assert [each.application for each in held.holders] == ["migrates"]


@pytest.mark.parametrize("statement", ["ALTER TABLE variable ADD COLUMN x int", "CREATE INDEX x ON variable (val)"])
async def test_a_table_that_nobody_waits_for(world: World, database: Database, url: str, statement: str) -> None:
    async with session(url) as migration:
        await migration.execute(statement)
        held = one(await look(database, since=FOREVER))
        assert not (await look(database, since=3600.0)).held
    assert (held.kind, held.table, held.waiting, held.holders[0].component.name) == ("table", "variable", (), "migration")


async def test_an_advisory_lock_of_airflows(world: World, database: Database, url: str) -> None:
    async with session(url) as scheduler:
        await scheduler.execute("SELECT pg_try_advisory_xact_lock(2)")
        await scheduler.execute(LOCK.format("job"))
        held = one(await look(database, since=FOREVER))
    assert held.holders[0].component == CRITICAL_SECTION


async def test_a_prepared_transaction_has_no_session(world: World, database: Database, url: str) -> None:
    async with session(url) as holder:
        await holder.execute(LOCK.format("job"))
        await holder.execute("PREPARE TRANSACTION 'left behind'")
    async with waiting(url, LOCK.format("job")):
        held = one(await look(database, since=FOREVER))
    await world.connection.execute("ROLLBACK PREPARED 'left behind'")
    assert [(each.pid, str(each.component)) for each in held.holders] == [(0, "prepared transaction")]


async def test_one_row_by_its_place(world: World, database: Database, url: str) -> None:
    place = Place.of("task_instance", await world.connection.fetchval("SELECT ctid::text FROM task_instance"))
    assert not (await holders_of(database, place)).held
    async with session(url, "execution-api") as holder:
        await holder.execute(LOCK.format("job"))
        held = one(await holders_of(database, place))
    assert (held.row["task_id"], held.holders[0].component) == ("job", OURS)


@pytest.mark.parametrize(
    ("context", "place"),
    [
        ('while locking tuple (0,7) in relation "task_instance"', Place("task_instance", 0, 7)),
        ("beim Sperren von Tupel (12,34) in Relation »dag_run«", Place("dag_run", 12, 34)),
        ('while inserting index tuple (0,7) in relation "variable_key_uq"', None),
        (None, None),
    ],
)
def test_the_row_in_an_errors_context(context: str | None, place: Place | None) -> None:
    assert Place.in_context(context) == place


async def test_postgresql_names_the_row_in_its_error(world: World, url: str) -> None:
    async with session(url) as holder, session(url) as other:
        await holder.execute(LOCK.format("job"))
        await other.execute("SET lock_timeout = 1")
        with pytest.raises(asyncpg.LockNotAvailableError) as raised:
            await other.execute(LOCK.format("job"))
    where = await world.connection.fetchval("SELECT ctid::text FROM task_instance")
    assert Place.in_context(raised.value.context) == Place.of("task_instance", where)


async def test_a_role_that_may_not_see_what_others_do(world: World, url: str) -> None:
    """It is told who holds and who waits all the same; that the rest is hidden is said."""
    await world.connection.execute("DO $$ BEGIN CREATE ROLE blind LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    await world.connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO blind")
    blind = Database(DatabaseSettings(async_url(url.replace("postgres@", "blind@"), setting="the tests")))
    async with session(url, "holder") as holder:
        await holder.execute(LOCK.format("job"))
        picture = await look(blind, since=FOREVER)
    await blind.close()
    (held,) = picture.held
    assert not picture.is_whole
    assert (held.row["task_id"], held.holders[0].application, held.holders[0].statement) == ("job", "holder", "")


async def test_a_long_line(world: World, database: Database, url: str) -> None:
    async with session(url) as holder, AsyncExitStack() as stack:
        await holder.execute(LOCK.format("job"))
        pids = {await stack.enter_async_context(waiting(url, LOCK.format("job"))) for _ in range(20)}
        held = one(await look(database, since=FOREVER))
    assert {each.pid for each in held.waiting} == pids


@pytest.mark.slow
async def test_behind_a_pgbouncer(world: World, postgres: EmbeddedPostgres, url: str, tmp_path: Path) -> None:
    """It is asked through one, and so does the holder."""
    reachable(tmp_path)
    with pgbouncer(postgres, tmp_path / "pgbouncer") as port:
        through = url.replace(f":{postgres.port}/", f":{port}/")
        database = Database(DatabaseSettings(async_url(through, setting="the tests"), pgbouncer=True))
        async with session(through) as holder:
            await holder.execute(LOCK.format("job"))
            async with waiting(url, LOCK.format("job"), name="waits"):
                held = one(await look(database, since=FOREVER))
        await database.close()
    assert held.row["task_id"] == "job"
    assert [each.statement for each in held.holders] == ["SELECT FROM task_instance WHERE task_id = ? FOR NO KEY UPDATE"]
    assert [each.application for each in held.waiting] == ["waits"]
