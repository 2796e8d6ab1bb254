"""More is asked than the database connections can serve: who waits, who goes first, who is refused."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from app import metrics, patience
from app.server import admission
from app.server.admission import Door, Kind
from app.server.event_loop import TICK, Lag
from tests.contract.cases.setups import SETUPS
from tests.faults.conftest import InProcess

PROCESS = {"hostname": "worker", "pid": 42}
RUN = {"state": "running", "unixname": "u", "start_date": "2026-01-01T00:00:01Z", **PROCESS}
END = {"state": "success", "end_date": "2026-01-01T00:05:00Z"}


@asynccontextmanager
async def no_room(ours: InProcess) -> AsyncIterator[None]:
    """Hold every connection and every place in the line for one, until the block ends."""
    slots, done = ours.service.database.slots, asyncio.Event()

    async def hold() -> None:
        async with slots.held():
            await done.wait()

    holding = [asyncio.create_task(hold()) for _ in range(slots.room)]
    await asyncio.sleep(0)
    assert slots.room == 0
    try:
        yield
    finally:
        done.set()
        await asyncio.gather(*holding)


async def test_who_waits_at_the_door_costs_nothing_and_heartbeats_do_not_wait_there(ours: InProcess) -> None:
    ti, slots = await SETUPS["running"](ours.world), ours.service.database.slots
    async with ours.client(ti) as client:
        async with no_room(ours):
            ours.statements.clear()
            asked = asyncio.create_task(client.get("/variables/any", headers={"Authorization": "Bearer not looked at yet"}))
            beating = asyncio.create_task(client.put(f"/task-instances/{ti}/heartbeat", json=PROCESS))
            for _ in range(100):  # as far as they come
                await asyncio.sleep(0)
            assert slots.waiting(urgent=True) == 1
            assert (await client.get("/health")).status_code == 200
            assert not asked.done()
            assert ours.statements == []
        assert (await beating).status_code == 204
        assert (await asked).status_code == 403
    assert (slots.used(), slots.waiting(urgent=False), slots.waiting(urgent=True)) == (0, 0, 0)


async def test_who_was_not_let_in_in_time_is_refused_counted_and_told_of(
    ours: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "DOOR", 0.05)
    monkeypatch.setattr(admission, "TOLD_AFTER", 0.05)
    ti = await SETUPS["running"](ours.world)
    counter = metrics.NOT_LET_IN.labels("running")._value
    before = counter.get()
    with capture_logs() as logs:
        async with no_room(ours), ours.client(ti) as client:
            refused = await asyncio.gather(*(client.get("/variables/any") for _ in range(20)))
            assert (await client.get("/variables/any")).status_code == 503
    assert {answer.status_code for answer in refused} == {503}
    assert {answer.json()["detail"]["reason"] for answer in refused} == {"pool_exhausted"}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    assert counter.get() - before == 21
    assert [line["running"] for line in logs if line["event"].startswith("requests were refused")] in ([20], [20, 1], [21])


async def test_a_burst_after_long_waits_is_served_whole(ours: InProcess) -> None:
    """What was waited for before says nothing about now: no round of reads is refused after one that waited in vain."""
    ti = await SETUPS["running"](ours.world)
    async with ours.client(ti) as client:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(patience, "DOOR", 0.05)
            async with no_room(ours):
                assert (await client.get("/variables/any")).status_code == 503
        for _ in range(3):
            answers = await asyncio.gather(*(client.get("/variables/any") for _ in range(128)))
            assert {answer.status_code for answer in answers} == {404}


async def test_started_tasks_go_before_new_ones_once_not_all_can_be_served(
    ours: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "HOPELESS", 0)
    running, kinds, waiting = await SETUPS["running"](ours.world), list[Kind](), asyncio.Semaphore(0)
    new = [await ours.world.ti("d", f"new{n}") for n in range(5)]
    let_in = Door.let_in

    async def watched(self: Door, kind: Kind, client: bytes) -> bool:
        waiting.release()
        is_let_in = await let_in(self, kind, client)
        kinds.append(kind)
        return is_let_in

    async def ask(ti: uuid.UUID, method: str, path: str, body: object = None) -> int:
        async with ours.client(ti) as client:
            return (await client.request(method, path, json=body)).status_code

    monkeypatch.setattr(Door, "let_in", watched)
    requests = [
        *((ti, "PATCH", f"/task-instances/{ti}/run", RUN) for ti in new),
        (running, "GET", "/variables/any"),
        (running, "PATCH", f"/task-instances/{running}/state", END),
    ]
    async with no_room(ours):
        asked = []
        for request in requests:
            asked.append(asyncio.create_task(ask(*request)))
            await waiting.acquire()
    assert await asyncio.gather(*asked) == [200] * 5 + [404, 204]
    assert kinds == [Kind.REPORT, Kind.RUNNING] + [Kind.START] * 5


async def test_the_lag_of_an_event_loop() -> None:
    lag = Lag()
    assert lag.seconds == 0, "nothing is measured before it is started"
    lag.start()
    asyncio.get_running_loop().call_soon(time.sleep, TICK + 0.2)  # nothing else runs meanwhile: that is what is measured
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert lag.seconds >= 0.2
    await asyncio.sleep(TICK / 2)
    assert lag.seconds < 0.2
    lag.stop()
