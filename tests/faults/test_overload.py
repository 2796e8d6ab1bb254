"""More is asked than the database connections can serve: who waits, who goes first, who is refused."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
from starlette.types import Message, Scope
from structlog.testing import CapturingLogger

from app.server import admission, metrics, middleware, patience
from app.server.admission import Door, Kind
from app.server.event_loop import TICK, Lag
from tests.conditions import until
from tests.contract.cases.setups import SETUPS
from tests.faults.conftest import InProcess
from tests.history import History, Worker, queue, violations
from tests.relay import relay
from tests.servers import Server, beside_the_loop, our_server, token

PROCESS = {"hostname": "worker", "pid": 42}
RUN = {"state": "running", "unixname": "u", "start_date": "2026-01-01T00:00:01Z", **PROCESS}
END = {"state": "success", "end_date": "2026-01-01T00:05:00Z"}
RIGHT_AGAIN = 2.0  # seconds after the load has ended


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
    monkeypatch.setattr(patience, "DOOR", 0.5)
    monkeypatch.setattr(admission, "TOLD_AFTER", 0.05)
    monkeypatch.setattr(admission, "TOGETHER", 0.0)
    ti = await SETUPS["running"](ours.world)
    counters = [metrics.NOT_LET_IN.labels(kind)._value for kind in ("running", "beside")]
    before = [counter.get() for counter in counters]
    told = CapturingLogger()
    monkeypatch.setattr(admission, "log", told)
    async with no_room(ours), ours.client(ti) as client:
        refused = await asyncio.gather(*(client.get("/variables/any") for _ in range(20)))
        assert (await client.get("/variables/any")).status_code == 503
    assert {answer.status_code for answer in refused} == {503}
    assert {answer.json()["detail"]["reason"] for answer in refused} == {"pool_exhausted"}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    assert [counter.get() - value for counter, value in zip(counters, before, strict=True)] == [2, 19]
    await until(lambda: sum((Counter(call.kwargs) for call in told.calls), Counter()) == {"running": 2, "beside": 19})
    assert len(told.calls) < 21, "they are summed up"


async def test_for_a_client_that_has_gone_nothing_is_begun(ours: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is it an unexpected error that somebody leaves."""
    ti = await SETUPS["running"](ours.world)
    sent = list[Message]()

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    path = "/execution/xcoms/d/manual__1/t/k"
    headers = [(b"authorization", f"Bearer {token(ti)}".encode())]
    scope: Scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers, "root_path": ""}
    unexpected = CapturingLogger()
    monkeypatch.setattr(middleware, "log", unexpected)
    async with no_room(ours):
        ours.statements.clear()
        waiting = asyncio.create_task(ours.application(dict(scope), receive, send))
        await asyncio.sleep(0)
    await waiting
    assert [message["status"] for message in sent if "status" in message] == [499]
    assert unexpected.calls == []
    assert ours.statements == []


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


@pytest.fixture
async def small(make_database: Callable[[str], str], tmp_path: Path) -> AsyncIterator[Server]:
    """Run a server process with one connection, 50 ms from its database: it can serve some twenty statements a second."""
    url = make_database("3.3")
    async with relay(url) as between:
        one = {"AIRFLOW__EXECUTION_API_SERVICE__POOL_SIZE": "1"}
        async with beside_the_loop(our_server(between.url(url), tmp_path, **one)) as server:
            server.database_url = url
            between.latency = 0.025
            yield server


def worker(history: History, server: Server, ti: uuid.UUID, name: str) -> Worker:
    """Return a worker that spares the loop, in which the relay runs too, the loading of certificates."""
    plain = partial(httpx.AsyncHTTPTransport, verify=False)
    return Worker(history, [server.base_url], ti, name, beats=2, interval=0, transport=plain)


@pytest.mark.slow
async def test_what_was_started_is_carried_to_its_end(small: Server) -> None:
    """Many times as many tasks as can be served: who is refused is refused at its start, and nobody in the middle.

    When the load has ended, so has its effect.
    """
    history, queued = History(), await queue(small.database_url, 123)
    late = dict(queued.popitem() for _ in range(3))
    living = {ti: asyncio.create_task(worker(history, small, ti, name).live()) for name, ti in queued.items()}
    await asyncio.sleep(2 * patience.CLIENT)
    started = {each.ti for each in history.exchanges if each.operation == "run" and each.is_acknowledged}
    for ti in living.keys() - started:
        living[ti].cancel()
    await asyncio.gather(*living.values(), return_exceptions=True)
    refused = Counter(each.operation for each in history.exchanges if each.status == 503)
    assert history.lost == {}
    assert started
    assert refused["run"] > 0
    assert set(refused) == {"run"}
    assert set(history.statuses()) <= {200, 201, 204, 503}, "and nobody gave up waiting"
    assert await violations(history, small.database_url) == []
    await asyncio.sleep(RIGHT_AGAIN)
    afterwards = History()
    await asyncio.gather(*(worker(afterwards, small, ti, name).live() for name, ti in late.items()))
    assert set(afterwards.ends.values()) == {("done", "")}
    assert set(afterwards.statuses()) <= {200, 201, 204}


@pytest.mark.slow
async def test_one_that_asks_for_much_keeps_nobody_out(small: Server) -> None:
    """A task that keeps sixty requests under way, beside others that live their lives."""
    history, queued = History(), await queue(small.database_url, 4)
    *modest, (_, greedy) = queued.items()
    answers, done = Counter[int](), asyncio.Event()

    async def ask_on(client: httpx.AsyncClient) -> None:
        while not done.is_set():
            answers[(await client.get("/variables/any")).status_code] += 1

    limits = httpx.Limits(max_connections=None)
    async with small.client(greedy, timeout=30, limits=limits) as client:
        asking = [asyncio.create_task(ask_on(client)) for _ in range(60)]
        await asyncio.gather(*(worker(history, small, ti, name).live() for name, ti in modest))
        done.set()
        await asyncio.gather(*asking)
    assert set(history.ends.values()) == {("done", "")}
    assert [(each.operation, each.status) for each in history.exchanges if not each.is_acknowledged] == []
    assert answers[404] > 0, "it is served too"
