"""What is read of the runs before: what it must be, and in how many pages, of a Dag of few runs and of one of many."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Integer, bindparam, select

from app.db import assets, dag_runs, dags, earlier
from app.db.direct import DirectSession
from app.db.session import Database, Session
from app.db.storage import Storage
from app.db.xcoms import XComKey
from app.releases import REVISIONS
from app.settings import DatabaseSettings
from app.settings.database_url import async_url
from tests.previews import revision
from tests.world import EPOCH, World, ti_id

__all__ = ["revision"]

PAD = "jsonb_build_object('run', run_id, 'pad', repeat('x', 1500))"  # a fifth of a page
# Runs; those of two Dags have no logical date, of mixed every third. Few are more than are walked first, as many are.
DAGS = {"few": 120, "many": 900, "undated": 60, "many undated": 900, "mixed": 60}
STEADY = 5000  # runs before all of these, which have succeeded: fifty and more to a page
# In which runs a task succeeds and pushes an XCom, by its number; the Dag's runs succeed with the first of them.
TASKS: dict[str, Callable[[int], bool]] = {
    "often": lambda number: number % 5 == 0,
    "once": lambda number: number == 2,
    "early": lambda number: number < 20,
    "long": lambda number: number < 870,  # and not in the last thirty of many
    "never": lambda number: False,
}
LARGE = "(SELECT to_jsonb(string_agg(md5(run_id || n), '')) FROM generate_series(1, 3000) n)"  # a dozen pages
MAPPED = 60
KEPT = 15 * 1024  # characters: asyncpg keeps no longer statement prepared
EACH = 18  # pages, at most, to look into a run
AMONG_ALL = 400  # pages of the newest runs of all Dags, five to a page
LEVELS = 20  # pages more, of indexes that have more entries; where each run is read it is 200 and more


def is_dated(dag_id: str, number: int) -> bool:
    return not dag_id.endswith("undated") and (dag_id != "mixed" or number % 3 != 0)


def run_id(number: int) -> str:
    return f"run {number}"


def at(number: int) -> datetime:
    return EPOCH + timedelta(hours=number)


@dataclass(frozen=True)
class Reading:
    """A database of many runs, and who reads it.

    :param connection: that explains.
    """

    database: Database
    storage: Storage
    connection: asyncpg.Connection

    async def asked(self, read: Read, dag_id: str, task_id: str, number: int) -> Any:
        async with self.database.autocommit() as session:
            return await read(self.storage, session, dag_id, task_id, number)

    async def pages(self, monkeypatch: pytest.MonkeyPatch, read: Read, dag_id: str, task_id: str, number: int) -> int:
        """Return how many pages PostgreSQL reads for it, by a plan that is made once for all arguments, as ours are.

        And as of large tables: such a small one is soon read from end to end.
        """
        sent = list[tuple[str, Any]]()
        send = DirectSession._sent

        async def noted(self: DirectSession, way: Any, sql: str, *arguments: Any, **named: Any) -> Any:
            sent.append((sql, arguments))
            return await send(self, way, sql, *arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(DirectSession, "_sent", noted)
            await self.asked(read, dag_id, task_id, number)
        return sum([await self._pages(sql, arguments) for sql, arguments in sent])

    async def _pages(self, sql: str, arguments: Any) -> int:
        assert len(sql) < KEPT
        types = [f"{each.schema}.{each.name}" for each in (await self.connection.prepare(sql)).get_parameters()]
        quoted = ", ".join(f"quote_nullable((${place}::{kind})::text)" for place, kind in enumerate(types, 1))
        values = await self.connection.fetchrow(f"SELECT {quoted}", *arguments)
        async with self.connection.transaction():
            await self.connection.execute("SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off")
            await self.connection.execute(f"PREPARE asked AS {sql}")
            explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE asked({', '.join(values)})"
            ((told, *_),) = [json.loads(row[0]) for row in await self.connection.fetch(explain)]
            await self.connection.execute("DEALLOCATE asked")
        pages: int = told["Plan"]["Shared Hit Blocks"] + told["Plan"]["Shared Read Blocks"]
        return pages


Read = Callable[[Storage, Session, str, str, int], Awaitable[Any]]


@pytest.fixture(scope="module")
def url(revision: str, make_database: Callable[[str], str]) -> str:
    return make_database(revision)


@pytest.fixture
async def reading(revision: str, url: str) -> AsyncIterator[Reading]:
    connection = await asyncpg.connect(url)
    if not await connection.fetchval("SELECT count(*) FROM dag"):
        await fill(World(connection, revision))
    database = Database(DatabaseSettings(url=async_url(url, setting="url")))
    yield Reading(database, next(each.storage for each in REVISIONS if each.name == revision), connection)
    await database.close()
    await connection.close()


async def fill(world: World) -> None:
    """Write runs, of two that follow one another the later one first; their tasks, XComs, events; and versions of Dags.

    Five rows fill a page, a version several.
    """
    for dag_id in DAGS:
        await world.dag(dag_id)
        await world.asset(dag_id)
    in_turn = sorted((number / count, dag_id, number ^ 1) for dag_id, count in DAGS.items() for number in range(count))
    runs = [(dag_id, number) for _, dag_id, number in in_turn]
    dated = [(dag_id, run_id(n), at(n) if is_dated(dag_id, n) else None, at(n), TASKS["often"](n)) for dag_id, n in runs]
    await world.connection.executemany(
        "INSERT INTO dag_run (dag_id, run_id, logical_date, run_after, state, run_type, start_date, end_date, conf,"
        " clear_number) SELECT dag_id, run_id, logical_date, at, CASE WHEN succeeds THEN 'success' ELSE 'failed' END,"
        f" 'manual', at, at, {PAD}, 0 FROM (VALUES ($1, $2, $3::timestamptz, $4::timestamptz, $5::boolean))"
        " run (dag_id, run_id, logical_date, at, succeeds)",
        dated,
    )
    await world.dag("steady")
    await world.connection.execute(
        "INSERT INTO dag_run (dag_id, run_id, logical_date, run_after, state, run_type, conf, clear_number)"
        " SELECT 'steady', 'run ' || n, at, at, 'success', 'manual', '{}', 0"
        " FROM generate_series(1, $1::int) n, CAST($2::timestamptz - n * interval '1 h' AS timestamptz) at",
        STEADY,
        EPOCH,
    )
    index = "region_index" if world.keeps_tries else "map_index"
    tasks = [
        (pk(dag_id, task_id, n), dag_id, task_id, run_id(n), "success" if succeeds(n) else "failed")
        for dag_id, n in runs
        for task_id, succeeds in TASKS.items()
    ]
    await world.connection.executemany(
        f"INSERT INTO task_instance (id, dag_id, task_id, run_id, {index}, state, try_number, max_tries, pool, pool_slots,"
        " queue, priority_weight, executor_config) VALUES ($1, $2, $3, $4, -1, $5, 1, 0, 'default_pool', 1, 'q', 1, '')",
        tasks,
    )
    mapped = [(pk("many", f"mapped {n}", 0), run_id(0), n) for n in range(MAPPED)]
    await world.connection.executemany(
        f"INSERT INTO task_instance (id, dag_id, task_id, run_id, {index}, state, try_number, max_tries, pool, pool_slots,"
        " queue, priority_weight, executor_config) VALUES ($1, 'many', 'mapped', $2, $3, NULL, 1, 0, 'p', 1, 'q', 1, '')",
        mapped,
    )
    if world.keeps_tries:
        pushed = "xcom_v2 (id, task_instance_id, key, value, timestamp) SELECT gen_random_uuid(), task_instance.id"
    else:
        pushed = (
            "xcom (dag_run_id, task_id, map_index, dag_id, run_id, key, value, timestamp)"
            " SELECT dag_run.id, task_id, map_index, dag_id, run_id"
        )
    await world.connection.execute(
        f"INSERT INTO {pushed}, 'return_value', CASE task_id WHEN 'mapped' THEN {LARGE} ELSE {PAD} END, now()"
        " FROM task_instance JOIN dag_run"
        " USING (dag_id, run_id) WHERE task_instance.state = 'success' OR task_id = 'mapped'"
    )
    await world.connection.execute(
        f"INSERT INTO asset_event (asset_id, timestamp, extra, source_map_index) SELECT asset.id, run_after, {PAD}::json, -1"
        " FROM dag_run JOIN asset ON asset.name = dag_id"
    )
    for dag_id, versions in (("few", 3), ("many", 60)):
        await world.serialized(dag_id, [])
        await world.connection.execute(
            "WITH made AS (INSERT INTO dag_version (id, version_number, dag_id, bundle_name, created_at, last_updated)"
            " SELECT gen_random_uuid(), 1 + n, $1, 'dags-folder', now() + n * interval '1 s', now()"
            " FROM generate_series(1, $2::int) n RETURNING *) INSERT INTO serialized_dag (id, dag_id, data, dag_hash,"
            " dag_version_id, created_at, last_updated) SELECT made.id, $1, data::jsonb || jsonb_build_object('pad', pad),"
            " 'h', made.id, made.created_at, made.last_updated FROM made, serialized_dag, (SELECT string_agg(md5(n::text),"
            " '') AS pad FROM generate_series(1, 500) n) padding WHERE serialized_dag.dag_id = $1",
            dag_id,
            versions,
        )
    await world.connection.execute("VACUUM ANALYZE")


def pk(dag_id: str, task_id: str, number: int) -> uuid.UUID:
    return ti_id(f"{dag_id}/{run_id(number)}/{task_id}/-1")


async def prior_xcom(storage: Storage, session: Session, dag_id: str, task_id: str, number: int) -> Any:
    key = XComKey(dag_id, run_id(number), task_id, "return_value")
    row = await storage.xcoms.get(session, key=key, map_index=-1, asker=pk(dag_id, "never", number), is_prior=True)
    return row and json.loads(row.value)["run"]


async def previous(storage: Storage, session: Session, dag_id: str, task_id: str, number: int) -> Any:
    return await _previous(storage, session, dag_id, task_id, number, state="success")


async def previous_in_any_state(storage: Storage, session: Session, dag_id: str, task_id: str, number: int) -> Any:
    return await _previous(storage, session, dag_id, task_id, number)


async def previous_by_date(storage: Storage, session: Session, dag_id: str, task_id: str, number: int) -> Any:
    return await _previous(storage, session, dag_id, task_id, number, state="success", before=at(number))


async def _previous(
    storage: Storage,
    session: Session,
    dag_id: str,
    task_id: str,
    number: int,
    *,
    state: str | None = None,
    before: datetime | None = None,
) -> Any:
    asked: dict[str, Any] = {"dag_id": dag_id, "task_id": task_id, "map_index": -1, "before": before, "state": state}
    row = await storage.queries.previous(session, asker=pk(dag_id, "never", number), **asked)
    return row and row.run_id


async def previous_success(_: Storage, session: Session, dag_id: str, task_id: str, number: int) -> Any:
    row = await dag_runs.previous_successful(session, ti_id=pk(dag_id, task_id, number))
    return row and run_id(round((row.start_date - EPOCH) / timedelta(hours=1)))


async def previous_run(_: Storage, session: Session, dag_id: str, __: str, number: int) -> Any:
    row = await dag_runs.previous(session, dag_id=dag_id, before=at(number), state="success")
    return row and row.run_id


async def previous_queued_run(_: Storage, session: Session, dag_id: str, __: str, number: int) -> Any:
    return await dag_runs.previous(session, dag_id=dag_id, before=at(number), state="queued")


async def average_runtime(_: Storage, session: Session, dag_id: str, __: str, ___: int) -> Any:
    return await dag_runs.average_runtime(session, dag_id=dag_id, of=10, at_least=1, only_successes=False)


async def events(_: Storage, session: Session, dag_id: str, __: str, ___: int) -> Any:
    of_asset = {"name": dag_id, "uri": f"s3://bucket/{dag_id}"}
    found = await assets.events(session, **of_asset, after=None, before=None, ascending=False, limit=3)
    assert len(found) == 3


async def item(storage: Storage, session: Session, dag_id: str, task_id: str, number: int) -> Any:
    key = XComKey(dag_id, run_id(number), task_id, "return_value")
    return await storage.xcoms.at(session, key=key, offset=-1, asker=pk(dag_id, "never", number))


async def prior_slice(storage: Storage, session: Session, dag_id: str, task_id: str, number: int) -> Any:
    key, bounds = XComKey(dag_id, run_id(number), task_id, "return_value"), {"start": 0, "stop": 2, "step": None}
    return await storage.xcoms.sliced(session, key=key, **bounds, asker=pk(dag_id, "never", number), is_prior=True)


async def newest_version(_: Storage, session: Session, dag_id: str, __: str, number: int) -> Any:
    await dags.to_clear(session, dag_id=dag_id)
    await dags.root_task_group(session, dag_id=dag_id)
    await dags.timetables(session, dag_ids=[dag_id])
    await dags.tasks_of_run(session, dag_id=dag_id, run_id=run_id(number))


async def rendered_fields(storage: Storage, session: Session, dag_id: str, task_id: str, _: int) -> Any:
    return await storage.rendered_fields.clean_up(session, dag_id=dag_id, task_id=task_id, keep=5)


async def xcom(storage: Storage, session: Session, dag_id: str, task_id: str, number: int) -> Any:
    key = XComKey(dag_id, run_id(number), task_id, "return_value")
    return await storage.xcoms.get(session, key=key, map_index=-1, asker=pk(dag_id, task_id, number))


async def states(storage: Storage, session: Session, dag_id: str, task_id: str, number: int) -> Any:
    return await storage.queries.states(session, of_dag=dag_id, run_ids=[run_id(number)], task_ids=[task_id])


async def count(storage: Storage, session: Session, dag_id: str, _: str, number: int) -> Any:
    return await storage.queries.count(session, of_dag=dag_id, logical_dates=[at(number)], states=["success"])


async def run_count(_: Storage, session: Session, dag_id: str, __: str, number: int) -> Any:
    return await dag_runs.count(session, dag_id=dag_id, run_ids=[run_id(number)], states=["success"])


@pytest.mark.parametrize("dag_id", DAGS)
async def test_it_is_that_of_the_newest_run_before(reading: Reading, dag_id: str) -> None:
    """In one of the newest runs, in one long before, or in none; asked by the first run, the last, and others."""
    last = DAGS[dag_id] - 1
    for number in (0, 1, 2, 19, 21, 40, last - 1, last):
        earlier = range(number - 1, -1, -1)
        dated = [n for n in earlier if is_dated(dag_id, n)]
        in_order = dated if is_dated(dag_id, number) else earlier
        found = await reading.asked(previous_success, dag_id, "never", number)
        assert found == next((run_id(n) for n in in_order if TASKS["often"](n)), None), number
        found = await reading.asked(previous_run, dag_id, "never", number)
        assert found == next((run_id(n) for n in dated if TASKS["often"](n)), None), number
        for task_id, succeeds in TASKS.items():
            for read, runs in ((prior_xcom, (number, *earlier)), (previous, earlier), (previous_by_date, dated)):
                expected = next((run_id(n) for n in runs if succeeds(n)), None)
                assert await reading.asked(read, dag_id, task_id, number) == expected, (read, task_id, number)


@pytest.mark.parametrize(("few", "recent"), [(5000, 0), (5, 1000), (5, 200), (5, 20)])
async def test_the_newest_runs_of_a_dag_among_those_of_all(
    reading: Reading, monkeypatch: pytest.MonkeyPatch, few: int, recent: int
) -> None:
    """A Dag has few; or all that are wanted are among the newest of all Dags, or too few are, or none is."""
    monkeypatch.setattr(earlier, "FEW", few)
    monkeypatch.setattr(earlier, "RECENT", recent)
    statement = select(earlier.newest_to_start(bindparam("most", type_=Integer)).c.run_id)
    for dag_id, most in (("many", 10), ("few", 10), ("mixed", 100)):
        async with reading.database.autocommit() as session:
            found = await session.scalars(statement, {"dag_id": dag_id, "most": most})
        count = DAGS[dag_id]
        assert sorted(found) == sorted(run_id(n) for n in range(max(count - most, 0), count)), (dag_id, most)


@pytest.mark.parametrize("dag_id", ["many", "many undated", "mixed"])
@pytest.mark.parametrize(("walk", "few"), [(earlier.WALK, earlier.FEW), (2, earlier.FEW), (2, 5)])
async def test_the_newest_run_in_a_state(
    reading: Reading, monkeypatch: pytest.MonkeyPatch, dag_id: str, walk: int, few: int
) -> None:
    """It is one of the newest, or one of few in the state, or another."""
    monkeypatch.setattr(earlier, "WALK", walk)
    monkeypatch.setattr(earlier, "FEW", few)
    before = bindparam("before", type_=earlier.dag_run.c.run_after.type)
    statements = earlier.newest_in_state("success", lambda date: date < before, columns=[earlier.dag_run.c.run_id])
    for number in (0, 1, 6, 40, DAGS[dag_id]):
        async with reading.database.autocommit() as session:
            row = await statements.row(session, {"dag_id": dag_id, "before": at(number)})
        assert (row and row.run_id) == next((run_id(n) for n in range(number - 1, -1, -1) if TASKS["often"](n)), None), (
            number
        )


@pytest.mark.parametrize("read", [
    prior_xcom, previous, previous_in_any_state, previous_by_date, previous_success, previous_run, previous_queued_run,
    average_runtime, rendered_fields, events, newest_version, xcom, states, count, run_count,
])  # fmt: skip
async def test_pages_do_not_grow_with_the_runs(
    reading: Reading, monkeypatch: pytest.MonkeyPatch, read: Read, revision: str
) -> None:
    """Nor do they where none has a logical date, though a run is looked for among those of all Dags there."""
    for pair, more in ((("few", "many"), LEVELS), (("undated", "many undated"), LEVELS + AMONG_ALL)):
        if read is previous_by_date and more > LEVELS:
            continue  # none of the runs counts, but a task that an index lists in few of them is asked for in these
        for task_id in TASKS:
            if task_id == "long" or (read is prior_xcom and revision == "3.4" and task_id != "often"):
                continue  # no index has the key of an XCom there: whether any run has one is asked of each
            few, many = [await reading.pages(monkeypatch, read, dag_id, task_id, DAGS[dag_id] - 1) for dag_id in pair]
            assert 0 < many <= few + more, (pair, task_id, few, many)


async def test_a_state_that_none_of_very_many_runs_has(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    """All runs are in one of two states, so that PostgreSQL expects half of them to be in that one."""
    assert 0 < await reading.pages(monkeypatch, previous_queued_run, "steady", "", 0) < STEADY / 100


@pytest.mark.parametrize("read", [prior_xcom, previous, previous_by_date])
async def test_of_many_runs_that_have_one_those_since_the_last_are_read(
    reading: Reading, monkeypatch: pytest.MonkeyPatch, read: Read
) -> None:
    """As of a task that has succeeded for long, and fails since."""
    pages = await reading.pages(monkeypatch, read, "many", "long", DAGS["many"] - 1)
    assert pages < 75 * EACH, pages  # thirty runs, the first twenty of them twice


@pytest.mark.parametrize("read", [previous, previous_by_date, previous_success, previous_run])
async def test_runs_that_are_later_are_not_read(reading: Reading, monkeypatch: pytest.MonkeyPatch, read: Read) -> None:
    """What one of the first runs asks is nowhere before it, and in many after it."""
    few, many = [await reading.pages(monkeypatch, read, dag_id, "often", 0) for dag_id in ("few", "many")]
    assert 0 < many <= few + LEVELS, (few, many)


@pytest.mark.parametrize("read", [item, prior_slice])
async def test_of_large_values_only_those_are_read_that_are_asked_for(
    reading: Reading, monkeypatch: pytest.MonkeyPatch, read: Read
) -> None:
    assert len(await reading.asked(read, "many", "mapped", 0)) > 0
    assert await reading.pages(monkeypatch, read, "many", "mapped", 0) < MAPPED * 12
