"""Rows that somebody holds: whoever wants one lets go of its connection and comes back, and keeps nobody else waiting."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest

from app.db.retrying import CROWD, PAUSE, ComingBack
from app.errors import LockTimeout
from tests.contract.cases.setups import SETUPS
from tests.faults.conftest import InProcess
from tests.servers import token

END = {"end_date": "2026-01-01T00:05:00Z"}
START = {"state": "running", "hostname": "worker", "unixname": "u", "pid": 42, "start_date": "2026-01-01T00:00:00Z"}
ALIVE = {"hostname": "worker", "pid": 42}
OUTLET = {"name": "first", "uri": "s3://bucket/first", "type": "Asset"}
ASKED = {"ti_id": "{ti}", "options": ["yes", "no"], "subject": "Well?"}
LONG = 60.0  # seconds for which a request comes back in these tests: until the row is let go
HELD = "SELECT FROM task_instance WHERE id = '{ti}' FOR UPDATE"


@dataclass(frozen=True)
class Held:
    """A request that wants a row, and what holds it.

    :param holder: what another transaction has done and did not commit yet.
    """

    name: str
    setup: str
    method: str
    path: str
    body: Any
    holder: str = HELD


_STATE = ("PATCH", "/task-instances/{ti}/state")
_XCOM = "/xcoms/d/manual__1/job/return_value"
_STORE, _ASSET = "UPDATE task_state_store SET value = '1'", "UPDATE asset_state_store SET value = '1'"
REQUESTS = (
    Held("heartbeat", "running", "PUT", "/task-instances/{ti}/heartbeat", ALIVE),
    Held("run", "queued", "PATCH", "/task-instances/{ti}/run", START),
    Held("success", "running", *_STATE, {"state": "success", **END}),
    Held("failed", "running", *_STATE, {"state": "failed", **END}),
    Held("retry", "with_tries", *_STATE, {"state": "up_for_retry", **END}),
    Held(
        "retry, its history row", "with_tries", *_STATE, {"state": "up_for_retry", **END},
        "INSERT INTO task_instance_history (task_instance_id, dag_id, task_id, run_id, map_index, try_number, max_tries,"
        " pool_slots, pool, queue, task_display_name, updated_at) SELECT id, dag_id, task_id, run_id, map_index, try_number,"
        " max_tries, pool_slots, pool, queue, task_display_name, now() FROM task_instance",
    ),
    Held("deferral", "running", *_STATE, {"state": "deferred", "classpath": "T", "next_method": "m"}),
    Held("reschedule", "running", *_STATE, {"state": "up_for_reschedule", **END, "reschedule_date": END["end_date"]}),
    Held(
        "success, its queue row", "outlets", *_STATE, {"state": "success", **END, "task_outlets": [OUTLET]},
        "INSERT INTO asset_dag_run_queue SELECT a.id, 'c1', now() FROM asset a WHERE name = 'first'",
    ),
    Held(
        "fail fast, a sibling", "fail_fast", *_STATE, {"state": "failed", **END},
        HELD.replace("id = '{ti}'", "task_id = 'waiting'"),
    ),
    Held(
        "skip downstream, a task", "downstream", "PATCH", "/task-instances/{ti}/skip-downstream", {"tasks": ["t0", "t1"]},
        HELD.replace("id = '{ti}'", "task_id = 't0'"),
    ),
    Held("rendered fields", "running", "PUT", "/task-instances/{ti}/rtif", {"a": 1}),
    Held("rendered map index", "running", "PATCH", "/task-instances/{ti}/rendered-map-index", "x"),
    Held("XCom", "with_xcoms", "POST", _XCOM, 1, "UPDATE xcom SET timestamp = now()"),
    Held(
        "XCom of a mapped task", "with_xcoms", "POST", f"{_XCOM}?mapped_length=1", [1],
        "UPDATE xcom SET timestamp = now()",
    ),
    Held("XCom deleted", "with_xcoms", "DELETE", _XCOM, None, "UPDATE xcom SET timestamp = now()"),
    Held("variable", "variables", "PUT", "/variables/secret", {"val": "x"}, "UPDATE variable SET description = 'x'"),
    Held(
        "a new variable", "variables", "PUT", "/variables/new", {"val": "x"},
        "INSERT INTO variable (key, val, is_encrypted) VALUES ('new', '', false)",
    ),
    Held("variable deleted", "variables", "DELETE", "/variables/secret", None, "UPDATE variable SET description = 'x'"),
    Held("a person asked", "asked", "POST", "/hitlDetails/{ti}", ASKED, "UPDATE hitl_detail SET subject = 'x'"),
    Held(
        "a person's answer", "asked", "PATCH", "/hitlDetails/{ti}", {"ti_id": "{ti}", "chosen_options": ["yes"]},
        "UPDATE hitl_detail SET subject = 'x'",
    ),
    Held("a task's value", "state_stores", "PUT", "/store/ti/{ti}/kept", {"value": 1}, _STORE),
    Held("a task's value deleted", "state_stores", "DELETE", "/store/ti/{ti}/kept", None, _STORE),
    Held("a task's values cleared", "state_stores", "DELETE", "/store/ti/{ti}", None, _STORE),
    Held("an asset's value", "state_stores", "PUT", "/store/asset/by-name/value?name=a&key=kept", {"value": 1}, _ASSET),
    Held("an asset's values cleared", "state_stores", "DELETE", "/store/asset/by-name/clear?name=a", None, _ASSET),
    Held(
        "a connection to test", "connection_test_queued", "GET", "/connection-tests/{ti}/connection", None,
        "UPDATE connection_test_request SET updated_at = now()",
    ),
    Held(
        "a connection that was tested", "connection_test_to_save", "PATCH", "/connection-tests/{ti}", {"state": "success"},
        "INSERT INTO connection (conn_id, conn_type, is_encrypted, is_extra_encrypted) VALUES ('tested', 'x', false, false)",
    ),
    Held("a run cleared", "fail_fast", "POST", "/dag-runs/d/manual__1/clear", None, "SELECT FROM dag_run FOR UPDATE"),
    Held("a run cleared, a task of it", "fail_fast", "POST", "/dag-runs/d/manual__1/clear", None),
    Held(
        "a run triggered", "sample", "POST", "/dag-runs/sample/r1", {},
        "INSERT INTO dag_run (dag_id, run_id, state, run_type, queued_at, run_after, clear_number, span_status)"
        " VALUES ('sample', 'r1', 'queued', 'manual', now(), now(), 0, 'not_started')",
    ),
    Held("reading, its table", "with_xcoms", "GET", _XCOM, None, "LOCK TABLE xcom"),
)  # fmt: skip

BY_NAME = {request.name: request for request in REQUESTS}


@asynccontextmanager
async def holding(url: str, statement: str) -> AsyncIterator[None]:
    """Hold what a statement locks until the block ends; what it wrote is undone."""
    connection = await asyncpg.connect(url)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(statement)
        yield
        await transaction.rollback()
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def revision() -> str:
    """Return the revision that has all of these requests."""
    return "3.3"


async def ask(ours: InProcess, request: Held, ti: Any) -> httpx.Response:
    def named(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: named(value) for key, value in part.items()}
        return part.replace("{ti}", str(ti)) if isinstance(part, str) else part

    async with ours.client(ti) as client:
        if "connection-tests" in request.path:
            client.headers["Authorization"] = f"Bearer {token(ti, scope='workload')}"
        options = {} if request.body is None else {"json": named(request.body)}
        return await client.request(request.method, named(request.path), **options)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.name)
async def test_who_meets_a_held_row_keeps_no_connection(ours: InProcess, url: str, request_: Held) -> None:
    """It has asked for the row at least three times, and between two times nobody has a connection."""
    ti = await SETUPS[request_.setup](ours.world)
    database = ours.service.database
    database.coming_back._within = LONG
    came_back, pauses = asyncio.Semaphore(0), []
    sleep = asyncio.sleep

    async def pause(seconds: float) -> None:
        if database.coming_back.away:
            pauses.append((seconds, database.slots.used()))
            came_back.release()
        await sleep(seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "sleep", pause)
        async with holding(url, request_.holder.replace("{ti}", str(ti))):
            asking = asyncio.create_task(ask(ours, request_, ti))
            for _ in range(3):
                reached = asyncio.create_task(came_back.acquire())
                await asyncio.wait({asking, reached}, return_when=asyncio.FIRST_COMPLETED)
                assert not asking.done(), asking.result().text
        answer = await asking
    assert answer.status_code < 300, answer.text
    assert {used for _, used in pauses} == {0}


async def test_held_rows_keep_nobody_else_waiting(ours: InProcess, url: str) -> None:
    """A hundred rows are held; their heartbeats come, and those of a hundred others, and reads, starts and ends of tasks."""
    ours.service.database.coming_back._within = LONG
    world = ours.world
    first = await world.one_running("d")
    held = [first, *[await world.running("d", f"held{n}") for n in range(99)]]
    free = [await world.running("d", f"free{n}") for n in range(100)]
    queued = [await world.ti("d", f"queued{n}", state="queued") for n in range(20)]
    ended = [await world.running("d", f"ended{n}") for n in range(20)]
    ids = ", ".join(f"'{ti}'" for ti in held)
    async with holding(url, f"SELECT FROM task_instance WHERE id IN ({ids}) FOR UPDATE"):
        waiting = [asyncio.create_task(beat(ours, ti)) for ti in held]
        for _ in range(3):
            assert await statuses(beat(ours, ti) for ti in free) == {204}
            for some in range(0, 100, 10):  # no more at once than a slow machine answers before it sheds load
                assert await statuses(read(ours, ti) for ti in free[some : some + 10]) == {200}
        assert await statuses(ask(ours, Held("", "", "PATCH", "/task-instances/{ti}/run", START), ti) for ti in queued) == {
            200
        }
        assert await statuses(ask(ours, Held("", "", *_STATE, {"state": "success", **END}), ti) for ti in ended) == {204}
        assert not any(task.done() for task in waiting)
    assert await statuses(waiting) == {204}, "and they go on when the rows are let go"


async def beat(ours: InProcess, ti: Any) -> httpx.Response:
    return await ask(ours, BY_NAME["heartbeat"], ti)


async def read(ours: InProcess, ti: Any) -> httpx.Response:
    return await ask(ours, Held("", "", "GET", "/dag-runs/d/manual__1/state", None), ti)


async def statuses(answers: Any) -> set[int]:
    return {answer.status_code for answer in await asyncio.gather(*answers)}


async def test_what_stays_held_is_a_503_within_the_lock_timeout(ours: InProcess, url: str) -> None:
    ti = await SETUPS["running"](ours.world)
    async with holding(url, HELD.replace("{ti}", str(ti))):
        answer = await beat(ours, ti)
    assert (answer.status_code, answer.json()["detail"]["reason"]) == (503, "lock_timeout")


async def test_a_crowd_comes_back_no_more_often_than_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred, each pauses ten times as long as of ten, and a newcomer no less; who is alone then, as ever."""
    coming_back, pauses = ComingBack(within=LONG), []
    everybody = asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await everybody.wait()

    met = Counter[int]()

    async def work(number: int) -> None:
        met[number] += 1
        if met[number] == 1:
            raise LockTimeout

    monkeypatch.setattr(asyncio, "sleep", pause)
    monkeypatch.setattr(random, "uniform", lambda *bounds: sum(bounds) / 2)
    crowd = [asyncio.create_task(coming_back(work, number=number)) for number in range(100)]
    while len(pauses) < len(crowd):
        await asyncio.wait(crowd, timeout=0)
    mean = sum(PAUSE) / 2
    assert pauses[CROWD - 1] == mean
    assert pauses[-1] == pytest.approx(mean * len(crowd) / CROWD)
    everybody.set()
    await asyncio.gather(*crowd)
    await coming_back(work, number=100)
    assert pauses[-1] == mean
