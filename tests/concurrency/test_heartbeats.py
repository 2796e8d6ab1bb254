"""Heartbeats that come at once: how many statements they take, who waits for whom, and what each is told."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy import text

from app.schemas.task_instances import TIHeartbeatInfo
from app.server import metrics
from app.tasks import reporting
from app.tasks.heartbeats import Heartbeats
from app.tasks.service import Service
from app.tasks.transitions import Refuse
from tests.faults.conftest import InProcess
from tests.world import ti_id

ALIVE = {"hostname": "worker", "pid": 42}
HEARTBEAT = TIHeartbeatInfo(hostname="worker", pid=42)
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


async def beat(ours: InProcess, ti: Any, body: dict[str, Any] = ALIVE) -> httpx.Response:
    async with ours.client(ti) as client:
        return await client.put(f"/task-instances/{ti}/heartbeat", json=body)


async def together(ours: InProcess, tasks: Sequence[Any]) -> list[int]:
    return [answer.status_code for answer in await asyncio.gather(*(beat(ours, ti) for ti in tasks))]


async def running(ours: InProcess, count: int) -> list[Any]:
    """Make that many running task instances whose last heartbeat is old."""
    tasks = [await ours.world.one_running("d"), *[await ours.world.running("d", f"t{n}") for n in range(count - 1)]]
    await ours.world.connection.execute("UPDATE task_instance SET last_heartbeat_at = $1", LONG_AGO)
    return tasks


async def recorded(ours: InProcess) -> set[Any]:
    rows = await ours.world.connection.fetch("SELECT id FROM task_instance WHERE last_heartbeat_at > $1", LONG_AGO)
    return {row["id"] for row in rows}


@asynccontextmanager
async def held(
    url: str, tasks: Sequence[Any], statement: str = "SELECT FROM task_instance WHERE id = ANY($1::uuid[]) FOR UPDATE"
) -> AsyncIterator[None]:
    """Hold task instances as the scheduler does while it decides on them, or what a statement locks."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute(statement, *([tasks] if tasks else []))
            yield
    finally:
        await connection.close()


async def test_those_that_come_together_are_one_statement(ours: InProcess) -> None:
    tasks = await running(ours, 50)
    ours.statements.clear()
    ours.controls.clear()
    counted = metrics.BATCH._sum.get()
    assert await together(ours, tasks) == [204] * 50
    assert len(ours.statements) == 2, "the first alone, the others together"
    assert metrics.BATCH._sum.get() - counted == 49
    assert not ours.controls, "each statement is a transaction of its own"
    assert await recorded(ours) == set(tasks)


async def test_whose_row_is_held_keeps_nobody_waiting(ours: InProcess, url: str) -> None:
    """The first alone and two in the batch are held: the others are recorded meanwhile, and these once they are let go."""
    tasks = await running(ours, 12)
    waiting = [tasks[0], tasks[3], tasks[7]]
    async with held(url, waiting):
        beats = {ti: asyncio.create_task(beat(ours, ti)) for ti in tasks}
        others = [beats[ti] for ti in tasks if ti not in waiting]
        assert [answer.status_code for answer in await asyncio.gather(*others)] == [204] * 9
        assert not any(beats[ti].done() for ti in waiting)
        assert await recorded(ours) == set(tasks) - set(waiting)
    assert [(await beats[ti]).status_code for ti in waiting] == [204] * 3
    assert await recorded(ours) == set(tasks)


async def test_each_of_a_batch_hears_what_is_its_own(ours: InProcess) -> None:
    tasks = await running(ours, 6)
    await ours.world.connection.execute("UPDATE task_instance SET state = 'success' WHERE id = $1", tasks[4])
    answers = await asyncio.gather(
        beat(ours, tasks[0]),
        beat(ours, tasks[1]),
        beat(ours, tasks[1], {"hostname": "elsewhere", "pid": 42}),
        beat(ours, tasks[2], {"hostname": "worker", "pid": 43}),
        beat(ours, tasks[3]),
        beat(ours, tasks[4]),
        beat(ours, ti_id("unknown")),
        beat(ours, tasks[5]),
    )
    assert [answer.status_code for answer in answers] == [204, 204, 409, 409, 204, 409, 404, 204]
    assert [answers[n].json()["detail"]["reason"] for n in (2, 3, 5)] == [
        "running_elsewhere",
        "running_elsewhere",
        "not_running",
    ]
    assert await recorded(ours) == {tasks[0], tasks[1], tasks[3], tasks[5]}


async def test_a_value_that_postgresql_does_not_take_refuses_its_own_heartbeat_only(ours: InProcess) -> None:
    tasks = await running(ours, 4)
    unstorable = {"hostname": "a\0b", "pid": 42}
    assert (await beat(ours, tasks[0], unstorable)).status_code == 409
    answers = await asyncio.gather(
        *(beat(ours, ti) for ti in tasks[:2]), beat(ours, tasks[2], unstorable), beat(ours, tasks[3])
    )
    assert [answer.status_code for answer in answers] == [204, 204, 409, 204]
    assert await recorded(ours) == {tasks[0], tasks[1], tasks[3]}


async def test_a_batch_that_cannot_be_recorded_now_is_told_to_come_back(ours: InProcess, url: str) -> None:
    tasks = await running(ours, 5)
    async with held(url, [], "LOCK TABLE task_instance"):
        answers = await asyncio.gather(*(beat(ours, ti) for ti in tasks))
    assert [answer.status_code for answer in answers] == [503] * 5
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers)
    assert await recorded(ours) == set()
    assert await together(ours, tasks) == [204] * 5, "and then it goes on"


@pytest.mark.parametrize("count", [1, 3], ids=["one alone", "a batch"])
async def test_who_comes_behind_one_that_hangs_goes_without_it(ours: InProcess, count: int) -> None:
    """Its connection says nothing any more, as after a failover: PostgreSQL's process is stopped while it serves it."""
    tasks = await running(ours, 6)
    database = ours.service.database
    async with database.autocommit() as session:
        pid = await session.scalar(text("SELECT pg_backend_pid()"))
    os.kill(pid, signal.SIGSTOP)
    try:
        first = asyncio.create_task(beat(ours, tasks[0]))  # it goes alone, and the others of its batch behind it
        while not ours.statements:  # noqa: ASYNC110  # it is sent within a few turns of the loop
            await asyncio.sleep(0)
        assert await together(ours, tasks[1 : 1 + count]) == [204] * count
        assert not first.done()
        assert await together(ours, tasks[4:]) == [204, 204], "who comes later does not wait for it at all"
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (await first).status_code == 204
    assert await recorded(ours) == {tasks[0], *tasks[1 : 1 + count], *tasks[4:]}


INTERVAL = 30


@pytest.fixture
def sparing(ours: InProcess) -> Service:
    """Return the service with ``[execution_api_service] heartbeat_write_interval`` set."""
    return replace(ours.service, heartbeats=Heartbeats(ours.service.database, write_interval=INTERVAL))


async def age(ours: InProcess, ti: Any) -> timedelta:
    found = await ours.world.connection.fetchval("SELECT now() - last_heartbeat_at FROM task_instance WHERE id = $1", ti)
    assert isinstance(found, timedelta)
    return found


async def passes(ours: InProcess, seconds: float) -> None:
    """Let time pass, as the rows tell it."""
    statement = "UPDATE task_instance SET last_heartbeat_at = last_heartbeat_at - $1::interval"
    await ours.world.connection.execute(statement, timedelta(seconds=seconds))


@pytest.mark.parametrize("every", [5, 7, 29, 30, 31, 100])
async def test_sparing_heartbeats_the_scheduler_sees_the_living_alive(ours: InProcess, sparing: Service, every: int) -> None:
    """Airflow's scheduler ends a task whose last heartbeat is older than 300 s; a living one's never is older than both."""
    (ti,) = await running(ours, 1)
    oldest, written, not_written = timedelta(), 0, metrics.NOT_WRITTEN._value.get()
    for _ in range(40):
        assert await reporting.heartbeat(sparing, ti_id=ti, payload=HEARTBEAT) is None
        recorded_before = await age(ours, ti)
        assert recorded_before < timedelta(seconds=INTERVAL), "a task that falls silent now is ended so much earlier at most"
        written += recorded_before < timedelta(seconds=1)
        await passes(ours, every)
        oldest = max(oldest, await age(ours, ti))
    assert oldest < timedelta(seconds=INTERVAL + every + 1)
    assert written == -(-40 // max(1, -(-INTERVAL // every))), "one in an interval"
    assert metrics.NOT_WRITTEN._value.get() - not_written == 40 - written


async def test_sparing_heartbeats_go_together(ours: InProcess, sparing: Service, url: str) -> None:
    """Those that are due are written, the others verified, all of them by one statement; who is held only if it is due."""
    tasks = await running(ours, 50)
    fresh = "UPDATE task_instance SET last_heartbeat_at = now() - interval '5 s' WHERE id = ANY($1::uuid[])"
    await ours.world.connection.execute(fresh, tasks[:40])
    versions = "SELECT id, xmin::text FROM task_instance ORDER BY id"
    before = await ours.world.connection.fetch(versions)
    ours.statements.clear()
    async with held(url, tasks[:20]):
        said = await asyncio.gather(*(reporting.heartbeat(sparing, ti_id=ti, payload=HEARTBEAT) for ti in tasks))
    assert said == [None] * 50
    assert len(ours.statements) == 2, "the first alone, the others together"
    changed = {row["id"] for row, was in zip(await ours.world.connection.fetch(versions), before, strict=True) if row != was}
    assert changed == set(tasks[40:]), "nothing of the others was written"


async def test_sparing_heartbeats_refuses_as_ever(ours: InProcess, sparing: Service) -> None:
    """A heartbeat that would not be written is verified all the same: the worker hears at once that it must stop."""
    (ti,) = await running(ours, 1)
    assert await reporting.heartbeat(sparing, ti_id=ti, payload=HEARTBEAT) is None
    other = TIHeartbeatInfo(hostname="worker", pid=43)
    refusal = await reporting.heartbeat(sparing, ti_id=ti, payload=other)
    assert isinstance(refusal, Refuse) and refusal.status == 409
    await ours.world.connection.execute("UPDATE task_instance SET state = 'failed' WHERE id = $1", ti)
    refusal = await reporting.heartbeat(sparing, ti_id=ti, payload=HEARTBEAT)
    assert isinstance(refusal, Refuse) and refusal.detail["reason"] == "not_running"
    refusal = await reporting.heartbeat(sparing, ti_id=ti_id("unknown"), payload=HEARTBEAT)
    assert isinstance(refusal, Refuse) and refusal.status == 404
