"""What workers asked and heard, and whether the database agrees.

A :class:`Worker` lives a task as the Task SDK's supervisor does, its attempts, pauses and time-outs included, and writes
every request down. Afterwards :func:`violations` holds what it was told against the rows: each rule is something that must
be true whatever happened in between.
"""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx

from tests.conftest import empty
from tests.servers import token
from tests.world import World

ATTEMPTS = 5  # the Task SDK's, for every request
TIME_OUT = 5.0  # seconds that it waits for an answer
PAUSES = ((1, 1), (1, 2), (1, 4), (1, 8))  # seconds before each further attempt: random between the two
FAILED_HEARTBEATS = 3  # in a row, each with all its attempts, end a task of Task SDK 1.0 to 1.3
XCOMS = "SELECT task_id, key, value::text FROM xcom"
KEEPS_TRIES = "SELECT to_regclass('xcom_v2') IS NOT NULL"
XCOMS_OF_TRIES = """
    SELECT 1 AS part, task_id, key, value::text FROM xcom_v1 UNION ALL
    SELECT 2, task_id, key, value::text FROM xcom_v2 JOIN task_instance t ON t.id = task_instance_id AND working_set
    ORDER BY part  -- what was written anew counts
"""
CLOCK_SLACK = timedelta(seconds=1)  # between when a worker asked and what the server dates it


@dataclass(frozen=True, slots=True)
class Process:
    """Who runs a task instance."""

    hostname: str
    pid: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what was heard of it.

    :param operation: ``run``, ``heartbeat``, ``rtif``, ``xcom``, ``state``.
    :param about: the key of an XCom.
    :param asked: when it was sent.
    :param status: None when there was no answer.
    """

    process: Process
    ti: uuid.UUID
    operation: str
    about: str
    body: Any
    asked: datetime
    status: int | None

    @property
    def is_acknowledged(self) -> bool:
        return self.status is not None and self.status < 300

    @property
    def is_refused(self) -> bool:
        return self.status is not None and 400 <= self.status < 500


@dataclass
class History:
    """Every exchange of all workers, and how their tasks ended.

    :param ends: by task instance: ``done``, ``refused`` by an answer below 500, or ``lost`` for want of one, and at what.
    """

    exchanges: list[Exchange] = field(default_factory=list)
    ends: dict[uuid.UUID, tuple[str, str]] = field(default_factory=dict)

    @property
    def lost(self) -> dict[uuid.UUID, str]:
        """The tasks that were started and could not be carried to their end, with the request that nobody answered."""
        started = {each.ti for each in self.exchanges if each.operation == "run" and each.is_acknowledged}
        return {ti: at for ti, (end, at) in self.ends.items() if end == "lost" and ti in started}

    def statuses(self) -> Counter[int | None]:
        return Counter(each.status for each in self.exchanges)

    def unanswered(self, *, most: int) -> dict[uuid.UUID, int]:
        """Return the tasks that heard more than ``most`` failures (no answer, or one of 500 and more)."""
        failures = Counter(each.ti for each in self.exchanges if each.status is None or each.status >= 500)
        return {ti: n for ti, n in failures.items() if n > most}


class _Ended(Exception):
    """A task cannot go on."""


class Worker:
    """Runs one task instance of run ``manual__1`` of Dag ``d``, as its supervisor does.

    :param urls: of servers that may serve it; a request goes to the first, and to the next one after a failure.
    :param beats: how many heartbeats it lives.
    :param interval: seconds between them.
    """

    def __init__(
        self,
        history: History,
        urls: Sequence[str],
        ti: uuid.UUID,
        task_id: str,
        *,
        process: Process = Process("worker", 42),
        beats: int = 6,
        interval: float = 0.5,
        transport: Callable[[], httpx.AsyncBaseTransport] = httpx.AsyncHTTPTransport,
    ) -> None:
        self.history, self.ti, self.task_id, self.process = history, ti, task_id, process
        self._urls, self._beats, self._interval, self._transport = list(urls), beats, interval, transport
        self._headers = {"Authorization": f"Bearer {token(ti)}", "Content-Type": "application/json"}
        self._clients: list[httpx.AsyncClient] = []

    async def live(self, *, started: asyncio.Barrier | None = None, over: asyncio.Event | None = None) -> None:
        """Run the task from ``queued`` to ``success``.

        :param started: where it waits once it runs.
        :param over: it sends heartbeats until this is set, ``beats`` of them at least.
        """
        async with AsyncExitStack() as stack:
            for url in self._urls:
                client = httpx.AsyncClient(
                    base_url=url, headers=self._headers, timeout=TIME_OUT, transport=self._transport(), trust_env=False
                )
                self._clients.append(await stack.enter_async_context(client))
            try:
                await self._steps(started, over)
                self.history.ends[self.ti] = ("done", "")
            except _Ended as ended:
                end, at = ended.args
                self.history.ends[self.ti] = (end, at)

    async def _steps(self, started: asyncio.Barrier | None, over: asyncio.Event | None) -> None:
        who = {"hostname": self.process.hostname, "pid": self.process.pid}
        start = {"state": "running", "unixname": "u", "start_date": "2026-01-01T00:00:01Z", **who}
        await self._must("PATCH", "run", start)
        if started is not None:
            await started.wait()
        await self._must("PUT", "rtif", {"command": "echo"})
        number = failed = 0
        while number < self._beats or (over is not None and not over.is_set()):
            failed = 0 if await self._ask("PUT", "heartbeat", who) else failed + 1
            if failed == FAILED_HEARTBEATS:
                raise _Ended("lost", "heartbeat")
            await self._must("POST", "xcom", [number], about=f"k{number % 3}")
            number += 1
            await asyncio.sleep(self._interval)
        await self._must("POST", "xcom", {"beats": number}, about="return_value")
        await self._must("PATCH", "state", {"state": "success", "end_date": "2026-01-01T00:05:00Z"})

    async def _must(self, method: str, operation: str, body: Any, *, about: str = "") -> None:
        if not await self._ask(method, operation, body, about=about):
            raise _Ended("lost", operation)

    async def _ask(self, method: str, operation: str, body: Any, *, about: str = "") -> bool:
        """Ask until there is an answer below 500, as often as the Task SDK does; return whether there was one.

        :raises _Ended: it was refused.
        """
        path = f"/xcoms/d/manual__1/{self.task_id}/{about}" if about else f"/task-instances/{self.ti}/{operation}"
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(random.uniform(*PAUSES[attempt - 1]))
                self._clients.append(self._clients.pop(0))
            asked, status = datetime.now(UTC), None
            with suppress(httpx.TransportError):
                status = (await self._clients[0].request(method, path, content=json.dumps(body))).status_code
            self.history.exchanges.append(Exchange(self.process, self.ti, operation, about, body, asked, status))
            if status is not None and status < 500:
                if status >= 400:
                    raise _Ended("refused", f"{operation}: {status}")
                return True
        return False


async def queue(url: str, count: int, *, revision: str = "3.3") -> dict[str, uuid.UUID]:
    """Empty a metadata database and queue tasks ``t0``, ``t1`` ... in it for workers; return their ids by name."""
    async with _connected(url) as connection:
        await empty(connection)
        world = World(connection, revision)
        await world.dag("d")
        await world.run("d")
        return {f"t{n}": await world.ti("d", f"t{n}") for n in range(count)}


async def violations(history: History, url: str) -> list[str]:
    """Return what contradicts what workers were told, a sentence each; nothing when all is as it was promised.

    :param url: of the database that the servers used, which have nothing under way any more.
    """
    async with _connected(url) as connection:
        return await _violations(history, connection)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def _violations(history: History, connection: asyncpg.Connection) -> list[str]:
    rows = {row["id"]: row for row in await connection.fetch("SELECT * FROM task_instance")}
    found = [sentence for ti, exchanges in _by_task(history) for sentence in _of_task(exchanges, rows.get(ti), str(ti))]
    found += [f"xcom: {sentence}" for sentence in await _wrong_xcoms(history, connection, rows)]
    events = "SELECT ti.id, log.event, count(*) FROM log JOIN task_instance ti USING (dag_id, task_id, run_id)"
    twice = await connection.fetch(f"{events} GROUP BY ti.id, log.event HAVING count(*) > 1")
    return found + [f"once: {row['id']} has {row['count']} audit rows '{row['event']}'" for row in twice]


def _by_task(history: History) -> Iterator[tuple[uuid.UUID, list[Exchange]]]:
    by_task: dict[uuid.UUID, list[Exchange]] = defaultdict(list)
    for exchange in history.exchanges:
        by_task[exchange.ti].append(exchange)
    return iter(by_task.items())


def _of_task(exchanges: list[Exchange], row: asyncpg.Record | None, ti: str) -> Iterator[str]:
    """Yield what is wrong with one task instance."""
    if row is None:
        yield f"kept: {ti} is gone"
        return
    owners = {each.process for each in exchanges if each.operation == "run" and each.is_acknowledged}
    if len(owners) > 1:
        yield f"owner: {ti} was given to {len(owners)} processes"
    elif owners and {Process(row["hostname"], row["pid"])} != owners:
        yield f"owner: {ti} was given to {owners}, and the row says ({row['hostname']}, {row['pid']})"
    reported = [each for each in exchanges if each.operation == "state"]
    for each in reported:
        if each.is_acknowledged and row["state"] != each.body["state"]:
            yield f"final: {ti} was told that {each.body['state']} is recorded, and the row says {row['state']}"
    if owners and row["state"] not in {"running", *(each.body["state"] for each in reported)}:
        yield f"state: {ti} is {row['state']}, which its worker never reported"
    for each in exchanges:
        if each.is_refused and owners == {each.process}:
            yield f"refused: {ti} was told {each.status} at {each.operation}, though it is its only owner"
    beats = [each.asked for each in exchanges if each.operation == "heartbeat" and each.is_acknowledged]
    if beats and (row["last_heartbeat_at"] is None or row["last_heartbeat_at"] < max(beats) - CLOCK_SLACK):
        yield f"heartbeat: {ti} was heard at {max(beats)}, and the row says {row['last_heartbeat_at']}"


async def _wrong_xcoms(
    history: History, connection: asyncpg.Connection, tasks: dict[uuid.UUID, asyncpg.Record]
) -> list[str]:
    """Return the acknowledged XComs that are missing, or hold what nobody wrote since."""
    stored = {
        (row["task_id"], row["key"]): json.loads(row["value"])
        for row in await connection.fetch(XCOMS_OF_TRIES if await connection.fetchval(KEEPS_TRIES) else XCOMS)
    }
    possible: dict[tuple[uuid.UUID, str], list[Any]] = {}
    for each in history.exchanges:
        if each.operation == "xcom":
            values = possible.setdefault((each.ti, each.about), [])
            if each.is_acknowledged:
                values[:] = [each.body]
            elif values:  # it may have been written before its answer was lost
                values.append(each.body)
    missing = object()
    return [
        f"{tasks[ti]['task_id']} {key} should hold one of {values}, and holds {stored.get((tasks[ti]['task_id'], key))}"
        for (ti, key), values in possible.items()
        if values and ti in tasks and stored.get((tasks[ti]["task_id"], key), missing) not in values
    ]
