"""Each of our transactions against each of Airflow's writers, statement by statement, in every order, on PostgreSQL.

Both sides stop before every statement that shares a table with the other side, and before COMMIT; two statements that
share none can be swapped without a difference, so they need no stop of their own. A schedule says whose turn it is. When
the writer's statement waits for a lock, it keeps waiting while we go on; when ours meets one, we let go of everything, and
stop again before the first of our statements.

Of every schedule it must be true that nobody deadlocks, that we answer no 5xx, and that the rows are those that one of the
two serial orders leaves: no update is lost. Where our operation is several transactions (fail-fast, skip-downstream), or the
writer skips what is locked, that must be true of each row. Where the writer itself writes over what it never locked, our own
report must be on record.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import combinations, islice
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event
from sqlalchemy.util import await_only

from app.db import heartbeats, retrying
from app.db.direct import DirectSession
from app.main import create_app
from app.settings import DatabaseSettings, Settings, TokenSettings
from app.settings.database_url import async_url
from app.tasks.service import Service
from tests.concurrency.writers import LOCK_RUN, SINCE_3_4, WORDS, WRITERS, Writer
from tests.conftest import empty
from tests.contract.cases.setups import SETUPS
from tests.contract.cases.tries import DEAD
from tests.faults.conftest import InProcess
from tests.rows import rows
from tests.servers import FERNET_KEY, SECRET
from tests.world import World

pytestmark = [pytest.mark.slow, pytest.mark.releases(1)]

START = {"state": "running", "hostname": "worker", "unixname": "u", "pid": 42, "start_date": "2026-01-01T00:00:00Z"}
END = {"end_date": "2026-01-01T00:05:00Z"}
OUTLET = {"name": "first", "uri": "s3://bucket/first", "type": "Asset"}
TABLES = (
    "dag_run", "trigger", "task_instance", "task_reschedule", "asset_event", "asset_dag_run_queue", "log", "hitl_detail",
    "dagrun_asset_event", "asset_partition_dag_run", "partitioned_asset_key_log",
)  # fmt: skip
CHANGED = re.compile(
    r"task_instance_history|task_instance|\bdag_run\b|trigger\b|asset_dag_run_queue|asset_partition_dag_run"
    r"|partitioned_asset_key_log"
)
LOCK_WAIT = (
    "SELECT count(*) > 0 FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock' AND (application_name = 'execution-api') = $1"
)
TRIGGER = re.compile(r'(^trigger: {"id": |"trigger_id": )(\d+)')
PATIENCE = 20.0  # seconds that one schedule may take; it takes some milliseconds


@dataclass(frozen=True)
class Operation:
    """One request of ours.

    :param event: the audit event that proves it, if it leaves one.
    :param atomic: whether all rows after it are those of one serial order; each row by itself is for several transactions,
        and for one over many rows: a writer that waits for it has picked its rows before.
    :param every: run only every so many-th order; most statements of a long transaction touch what it holds already.
    :param in_batch: whether it is a heartbeat that goes with others.
    :param clears: whether ``[state_store] clear_on_success`` is set.
    :param of: the revision that it is of alone.
    :param begins_try: whether another try begins: where that is another row, a writer that waits for the one before has
        picked its rows before, and comes for the new one in its next round, with Airflow's own server too.
    """

    name: str
    setup: str
    method: str
    path: str
    body: Any
    event: str | None = None
    atomic: bool = True
    every: int = 1
    in_batch: bool = False
    clears: bool = False
    of: str = ""
    begins_try: bool = False


_STATE = ("PATCH", "/task-instances/{ti}/state")
OPERATIONS = (
    Operation("heartbeat", "fail_fast", "PUT", "/task-instances/{ti}/heartbeat", {"hostname": "worker", "pid": 42}),
    Operation(
        "heartbeat in a batch", "fail_fast", "PUT", "/task-instances/{ti}/heartbeat",
        {"hostname": "worker", "pid": 42}, in_batch=True,
    ),
    Operation(
        "success that clears its values", "state_stores", *_STATE, {"state": "success", **END}, "success", clears=True,
    ),
    Operation("run", "queued", "PATCH", "/task-instances/{ti}/run", START, "running"),
    Operation("success", "fail_fast", *_STATE, {"state": "success", **END}, "success"),
    Operation("success with outlets", "outlets", *_STATE, {"state": "success", **END, "task_outlets": [OUTLET]}, "success"),
    Operation("retry", "fail_fast", *_STATE, {"state": "up_for_retry", **END}, "up_for_retry", begins_try=True),
    Operation("deferred", "running", *_STATE, {"state": "deferred", "classpath": "T", "next_method": "m"}, "deferred"),
    Operation(
        "rescheduled", "running", *_STATE,
        {"state": "up_for_reschedule", **END, "reschedule_date": END["end_date"]}, "up_for_reschedule",
    ),
    Operation("fail fast", "fail_fast", *_STATE, {"state": "failed", **END}, "failed", atomic=False, every=6),
    Operation(
        "skip downstream", "downstream", "PATCH", "/task-instances/{ti}/skip-downstream",
        {"tasks": ["t0", "t1"]}, atomic=False,
    ),
    Operation("clear", "fail_fast", "POST", "/dag-runs/d/manual__1/clear", None, atomic=False, every=6),
    Operation("rendered fields", "running", "PUT", "/task-instances/{ti}/rtif", {"a": 1}),
    Operation("a cleared one is dead", "cleared", *_STATE, DEAD, of="3.4", begins_try=True),
    Operation(
        "a loop goes on", "again.enough of pass 1 asks, running", *_STATE,
        {"state": "success", **END, "loop_decision": {"stop": False, "reason": "not yet"}}, "success",
        atomic=False, every=4, of="3.4",
    ),
    Operation(
        "a loop goes back", "after of pass -1 asks, running", "POST", "/dag-runs/d/manual__1/clear", None,
        atomic=False, every=12, of="3.4",
    ),
    Operation(
        "clear what was mapped before", "mapped_before", "POST", "/dag-runs/d/manual__1/clear", None,
        atomic=False, every=24, of="3.4",
    ),
    Operation(
        "a cleared one that was mapped before is dead", "mapped_before_and_cleared", *_STATE, DEAD,
        of="3.4", begins_try=True,
    ),
    Operation(
        "XCom in a loop", "again.numbers of pass 1 asks, running", "POST",
        "/xcoms/d/manual__1/again.double/k?map_index=1", 1, of="3.4",
    ),
    Operation("XCom", "running", "POST", "/xcoms/d/manual__1/job/k", 1),
)  # fmt: skip


class Steps:
    """One side of a schedule: it stops before each step until it is told to go on."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(0)
        self._stopped = asyncio.Event()
        self.count = 0
        self.task: asyncio.Task[Any] | None = None

    async def stop(self) -> None:
        self._stopped.set()
        await self._turns.acquire()

    @property
    def finished(self) -> bool:
        return self.task is not None and self.task.done()

    @property
    def ready(self) -> bool:
        return self._stopped.is_set()

    async def go_on(self, waits: Callable[[], Any]) -> None:
        """Let it take one step; return when it stopped before the next one, ended, or waits for a lock."""
        if self.finished or not self.ready:
            return
        self._stopped.clear()
        self.count += 1
        self._turns.release()
        await self.settle(waits)

    async def settle(self, waits: Callable[[], Any]) -> None:
        assert self.task is not None
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            while not (self.ready or self.finished):
                await asyncio.wait({stopped, self.task}, timeout=0.002, return_when=asyncio.FIRST_COMPLETED)
                if not (self.ready or self.finished) and await waits():
                    return
        finally:
            stopped.cancel()


class Explorer:
    """Runs one operation against one writer, again and again from the same rows."""

    def __init__(
        self, ours: InProcess, writing: asyncpg.Connection, watching: asyncpg.Connection, patch: pytest.MonkeyPatch
    ) -> None:
        self.ours, self.writing, self.watching = ours, writing, watching
        self.tables = (*TABLES, *WORDS[ours.world.revision].tables)
        self.gate: Steps | None = None
        self.shared: set[str] = set()
        self.in_batch = False
        engine = ours.service.database.engine

        @event.listens_for(engine, "before_cursor_execute")
        def before_statement(_: Any, __: Any, statement: str, *___: Any) -> None:
            if self.gate is not None and self.shared & set(CHANGED.findall(statement)):
                await_only(self.gate.stop())

        sent = DirectSession._sent

        async def send(session: DirectSession, way: Callable[..., Any], sql: str, *arguments: Any, **named: Any) -> Any:
            is_step = way is asyncpg.Connection.fetch and self.shared & set(CHANGED.findall(sql))
            if self.gate is not None and (is_step or sql == "COMMIT"):
                await self.gate.stop()
            return await sent(session, way, sql, *arguments, **named)

        beaten = heartbeats.record

        async def beat(session: DirectSession, *, processes: Sequence[Any], now: datetime) -> set[Any]:
            return await beaten(session, processes=[*processes, *processes] if self.in_batch else processes, now=now)

        patch.setattr(heartbeats, "record", beat)
        patch.setattr(retrying, "PAUSE", (0.0, 0.002))  # whose turn it is decides the schedule
        patch.setattr(DirectSession, "_sent", send)

        @event.listens_for(engine, "commit")
        def before_commit(_: Any) -> None:
            if self.gate is not None:
                await_only(self.gate.stop())

    async def prepare(self, setup: str) -> Any:
        """Write the setup's rows and keep a copy to start every schedule from."""
        await empty(self.watching)
        ti = await SETUPS[setup](World(self.watching, self.ours.world.revision))
        for table in self.tables:
            await self.watching.execute(f"DROP TABLE IF EXISTS saved_{table}; CREATE TABLE saved_{table} AS TABLE {table}")
        return ti

    async def restore(self) -> None:
        """Restore the copy; the reporting row last, so that whoever goes through the table holds others before it."""
        moves = "".join(
            f"DELETE FROM {table}; INSERT INTO {table} SELECT * FROM saved_{table}"
            f"{' ORDER BY task_id = $$job$$, id' if table == 'task_instance' else ''};"
            for table in self.tables
        )
        await self.watching.execute(f"SET session_replication_role = replica; {moves} SET session_replication_role = origin")
        await self.watching.execute("SELECT setval(format('%I.%I', schemaname, sequencename), 1000) FROM pg_sequences")

    async def run(self, operation: Operation, ti: Any, writer: Writer, schedule: str) -> tuple[int, Counter[str], int, int]:
        """Run one schedule; return our status, the rows after it, and how many steps each side took.

        :param schedule: ``O`` for a step of ours, ``W`` for one of the writer's; what is left runs to its end after it.
        """
        await self.restore()
        ours, theirs = Steps(), Steps()
        self.gate = ours
        self.in_batch = operation.in_batch
        settings = replace(self.ours.service.settings, clear_state_on_success=operation.clears)
        object.__setattr__(self.ours.service, "settings", settings)
        async with self.ours.client(ti) as client, asyncio.timeout(PATIENCE):
            path = operation.path.format(ti=ti)
            ours.task = asyncio.create_task(client.request(operation.method, path, json=operation.body))
            theirs.task = asyncio.create_task(self._write(writer, theirs))
            sides = {"O": (ours, True), "W": (theirs, False)}
            for steps, mine in sides.values():
                await steps.settle(lambda mine=mine: self._waits(mine))
            for letter in schedule:
                steps, mine = sides[letter]
                await steps.go_on(lambda mine=mine: self._waits(mine))
            while not (ours.finished and theirs.finished):
                for steps, mine in sides.values():
                    await steps.go_on(lambda mine=mine: self._waits(mine))
                    await asyncio.sleep(0)
            answer = await ours.task
            with suppress(*[asyncpg.ForeignKeyViolationError] * writer.stale):  # Airflow's answer is a 500 then
                await theirs.task
        self.gate = None
        return answer.status_code, await self._rows(), ours.count, theirs.count

    async def _waits(self, mine: bool) -> bool:
        return bool(await self.watching.fetchval(LOCK_WAIT, mine))

    async def _rows(self) -> Counter[str]:
        """Return all rows, triggers numbered from 1: an attempt that met a lock may have taken a number of the sequence."""
        found = await rows(self.watching, self.tables)
        taken = sorted({int(number) for row in found for _, number in TRIGGER.findall(row)})
        numbers = {str(number): str(1 + place) for place, number in enumerate(taken)}
        return Counter({TRIGGER.sub(lambda match: match[1] + numbers[match[2]], row): count for row, count in found.items()})

    async def run_passed_over(self, operation: Operation, ti: Any, writer: Writer) -> Counter[str]:
        """Let the writer pass over the reporting row, which somebody holds, and run ours after it; return the rows."""
        await self.restore()
        async with self.watching.transaction():
            await self.watching.execute("SELECT 1 FROM task_instance WHERE id = $1 FOR UPDATE", ti)
            await self._write(writer)
        async with self.ours.client(ti) as client:
            await client.request(operation.method, operation.path.format(ti=ti), json=operation.body)
        return await self._rows()

    async def _write(self, writer: Writer, steps: Steps | None = None) -> None:
        kept: list[Any] = []
        async with self.writing.transaction():
            for statement in writer.statements:
                if steps is not None and "/* at once */" not in statement:
                    await steps.stop()
                found = await self.writing.fetch(statement, *([kept] if "$1" in statement else []))
                if statement == LOCK_RUN and not found:
                    return
                if "/* keep */" in statement:
                    kept = [row["id"] for row in found]
            if steps is not None:
                await steps.stop()


@pytest.fixture(scope="session", params=["3.3", "3.4"])
def revision(request: pytest.FixtureRequest) -> str:
    """Explore the locks of both kinds of tables: those of 3.2 are as they are on 3.3, and so are its writers."""
    return str(request.param)


@pytest.fixture(scope="module")
async def explorer(revision: str, make_database: Callable[[str], str]) -> AsyncIterator[Explorer]:
    url = make_database(revision)
    database = DatabaseSettings(
        url=async_url(url, setting="url"), lock_timeout=10.0, statement_timeout=15.0, preview_releases=(revision,)
    )
    application = create_app(Settings(database=database, tokens=TokenSettings(secret=SECRET), fernet_keys=(FERNET_KEY,)))
    writing, watching = [await asyncpg.connect(url) for _ in range(2)]
    async with application.router.lifespan_context(application):
        service: Service = application.routes[1].app.service  # type: ignore[attr-defined]
        with pytest.MonkeyPatch.context() as patch:
            yield Explorer(InProcess(application, service, World(watching, revision)), writing, watching, patch)
    await writing.close()
    await watching.close()


def schedules(ours: int, theirs: int) -> Iterator[str]:
    """Yield every order of so many steps of each side."""
    for turns in combinations(range(ours + theirs), theirs):
        yield "".join("W" if turn in turns else "O" for turn in range(ours + theirs))


BESIDE = {"outlets": "asset_dag_run_queue", "state_stores": "task_state_store"}  # tables of operations with these setups
PAIRS = [
    pytest.param(operation, writer.name, id=f"{operation.name} / {writer.name}")
    for operation in OPERATIONS
    for writer in (*WRITERS["3.3"], *SINCE_3_4)
    if {"task_instance", BESIDE.get(operation.setup)} & set(CHANGED.findall(" ".join(writer.statements)))
]


@pytest.mark.parametrize(("operation", "name"), PAIRS)
async def test_every_order(explorer: Explorer, revision: str, operation: Operation, name: str) -> None:
    writer = next((writer for writer in WRITERS[revision] if writer.name == name), None)
    if writer is None or operation.of not in ("", revision):
        pytest.skip(f"none of {revision}")
    explorer.shared = set(CHANGED.findall(" ".join(writer.statements)))
    ti = await explorer.prepare(operation.setup)
    ours_first = await explorer.run(operation, ti, writer, "O" * 100)
    theirs_first = await explorer.run(operation, ti, writer, "W" * 100)
    alone = await explorer.run(operation, ti, Writer("nobody", "", ()), "")
    succeeded = alone[0]
    assert succeeded < 300
    serial = [outcome[:2] for outcome in (ours_first, theirs_first)]
    legal = set().union(ours_first[1], theirs_first[1], alone[1])
    if LOCK_RUN in writer.statements:  # it may find the run held, and leave it alone
        serial.append(alone[:2])
    if writer.skips:
        legal |= set(await explorer.run_passed_over(operation, ti, writer))
    for schedule in islice(schedules(ours_first[2], theirs_first[3]), None, None, operation.every):
        status, found, _, _ = await explorer.run(operation, ti, writer, schedule)
        assert status < 500, schedule
        if writer.stale:
            recorded = sum(count for row, count in found.items() if f'"event": "{operation.event}"' in row)
            assert recorded == (status == succeeded and operation.event is not None), schedule
        elif operation.atomic and not writer.skips and not (operation.begins_try and WORDS[revision].live):
            assert (status, found) in serial, schedule
        else:
            assert found.keys() <= legal, (schedule, found.keys() - legal)


SUCCESS = next(operation for operation in OPERATIONS if operation.name == "success with outlets")
CONSUMERS = [
    pytest.param("outlets", "asset-triggered runs", id="the first event"),
    pytest.param("queued already", "asset-triggered runs", id="one more event"),
    pytest.param("partitions, identity", "runs of partitions", id="the first event of a partition"),
    pytest.param("waiting already", "runs of partitions", id="one more event of a partition"),
]
LOST = """
    SELECT e.id, count(r.id) FROM asset_event e
    LEFT JOIN dagrun_asset_event d ON d.event_id = e.id LEFT JOIN dag_run r ON r.id = d.dag_run_id AND r.dag_id = 'c1'
    GROUP BY e.id HAVING count(r.id) <> 1
"""


@pytest.mark.parametrize(("setup", "name"), CONSUMERS)
async def test_every_event_is_in_one_run(explorer: Explorer, revision: str, setup: str, name: str) -> None:
    """However a success and the scheduler come in between each other: what this loop leaves, the next one takes."""
    writer = next(writer for writer in WRITERS[revision] if writer.name == name)
    explorer.shared = set(CHANGED.findall(" ".join(writer.statements)))
    ti = await explorer.prepare(setup)
    ours_first = await explorer.run(SUCCESS, ti, writer, "O" * 100)
    theirs_first = await explorer.run(SUCCESS, ti, writer, "W" * 100)
    for schedule in schedules(ours_first[2], theirs_first[3]):
        status, _, _, _ = await explorer.run(SUCCESS, ti, writer, schedule)
        assert status == 204, schedule
        await explorer._write(writer)
        assert await explorer.watching.fetchval("SELECT count(*) FROM asset_event") > 0
        assert await explorer.watching.fetch(LOST) == [], schedule
