"""Whatever SQLSTATE the database answers with, wherever a task's life meets it: what the worker hears, what is written.

The rule is :func:`tests.sqlstates.fault`. What the request itself can cause is refused with a 4xx, what is the database's
condition is a 503: neither writes anything, so that the task runs on. A statement that is wrong in itself is our defect: a
start and a heartbeat are a 500 then, and a reported state, which the worker cannot report again, leaves ``failed``.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from dataclasses import dataclass
from typing import Any
from unittest.mock import Mock

import httpx
import pytest

from app.server import metrics, middleware
from bench.driver import Task
from bench.inside import ask
from tests.contract.cases.setups import SETUPS
from tests.faults.conftest import InProcess
from tests.garbage import collected_by_hand, garbage
from tests.rows import rows
from tests.sqlstates import fault, reason, sqlstates

END = {"end_date": "2026-01-01T00:05:00Z"}
START = {"state": "running", "hostname": "worker", "unixname": "u", "pid": 42, "start_date": "2026-01-01T00:00:00Z"}
OUTLET = {"name": "first", "uri": "s3://bucket/first", "type": "Asset"}
ALWAYS = 1_000_000  # times

# nextval is not rolled back with the transaction that called it: so an error can be raised so often and no more.
PLANTED = """
CREATE TABLE planted (sqlstate text, times int);
INSERT INTO planted VALUES (NULL, 0);
CREATE SEQUENCE raised;
CREATE FUNCTION raise_planted() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE wanted planted;
BEGIN
    SELECT * INTO wanted FROM planted;
    IF wanted.sqlstate IS NOT NULL AND nextval('raised') <= wanted.times THEN
        RAISE EXCEPTION 'planted' USING ERRCODE = wanted.sqlstate;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER planted BEFORE UPDATE ON task_instance FOR EACH ROW EXECUTE FUNCTION raise_planted();
"""
ROOTED_OUT = "DROP FUNCTION raise_planted CASCADE; DROP TABLE planted; DROP SEQUENCE raised"


@dataclass(frozen=True)
class Request:
    """A request of a task's life."""

    setup: str
    path: str
    body: dict[str, Any]
    method: str = "PATCH"

    @property
    def reports_state(self) -> bool:
        return self.path == "state"

    async def send(self, ours: InProcess, ti: Any) -> httpx.Response:
        async with ours.client(ti) as client:
            return await client.request(self.method, f"/task-instances/{ti}/{self.path}", json=self.body)


REQUESTS = {
    "run": Request("queued", "run", START),
    "heartbeat": Request("running", "heartbeat", {"hostname": "worker", "pid": 42}, "PUT"),
    "success": Request("running", "state", {"state": "success", **END}),
    "success with outlets": Request("outlets", "state", {"state": "success", **END, "task_outlets": [OUTLET]}),
    "retry": Request("with_tries", "state", {"state": "up_for_retry", **END}),
    "deferral": Request("running", "state", {"state": "deferred", "classpath": "T", "next_method": "m"}),
    "reschedule": Request(
        "running", "state", {"state": "up_for_reschedule", **END, "reschedule_date": "2026-01-01T01:00:00Z"}
    ),
    "awaiting input": Request("running", "state", {"state": "awaiting_input", "next_method": "m"}),
    "failed": Request("running", "state", {"state": "failed", **END}),
    "failed in a fail-fast Dag": Request("fail_fast", "state", {"state": "failed", **END}),
    "skipped": Request("running", "state", {"state": "skipped", **END}),
}
EACH = pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
QUICK = ("heartbeat", "success")  # the hot path; the others are for the slow tier
EACH_HOT_QUICKLY = pytest.mark.parametrize(
    "request_",
    [
        pytest.param(request_, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, request_ in REQUESTS.items()
    ],
)


@pytest.fixture(scope="module")
def revision() -> str:
    """Return the revision that has every kind of report."""
    return "3.3"


@pytest.fixture
async def planted(ours: InProcess) -> Any:
    """Return what makes the database answer the next updates of task instances with a SQLSTATE."""
    connection = ours.world.connection
    await connection.execute(PLANTED)

    async def plant(sqlstate: str | None, times: int = ALWAYS) -> None:
        await connection.execute("SELECT setval('raised', 1, false)")
        await connection.execute("UPDATE planted SET sqlstate = $1, times = $2", sqlstate, times)

    yield plant
    await connection.execute(ROOTED_OUT)


async def everything(ours: InProcess) -> Counter[str]:
    found = await rows(ours.world.connection)
    return Counter({row: count for row, count in found.items() if not row.startswith("planted:")})


def told(answer: httpx.Response) -> tuple[int, str]:
    """Return the status and, where one is told, the reason."""
    detail = answer.json()["detail"]
    return answer.status_code, detail["reason"] if isinstance(detail, dict) else ""


@EACH_HOT_QUICKLY
async def test_what_is_not_our_defect_writes_nothing_and_the_task_runs_on(
    ours: InProcess, planted: Any, request_: Request
) -> None:
    ti = await SETUPS[request_.setup](ours.world)
    before = await everything(ours)
    expected = {code: (503, reason(code)) for code in sqlstates() if fault(code) == "database"}
    expected |= {code: (422, "") for code in sqlstates() if fault(code) == "request"}
    expected |= {"23503": (404, "not_found"), "23505": (409, "already_exists")}
    found = {}
    for code in expected:
        await planted(code)
        found[code] = told(await request_.send(ours, ti))
    assert found == expected
    assert await everything(ours) == before
    await planted(None)
    assert (await request_.send(ours, ti)).status_code in (200, 204)


@EACH_HOT_QUICKLY
async def test_a_failure_leaves_the_garbage_collector_nothing(ours: InProcess, planted: Any, request_: Request) -> None:
    """It looks seldom: an error that referred to itself would keep the body of its request until then."""
    task = Task.of(await SETUPS[request_.setup](ours.world), "", "")
    with collected_by_hand():
        for code in ("53100", "55P03", "22001"):  # the database's condition, a lock, a value
            for is_first in (True, False):  # which makes what is kept
                await planted(code)
                gc.collect()
                asked = request_.method, f"/task-instances/{task.id}/{request_.path}", request_.body
                assert await ask(ours.application, task, asked) in (422, 503)
                assert is_first or garbage() == [], code


async def test_a_batch_of_heartbeats_that_fails_leaves_the_garbage_collector_nothing(ours: InProcess, planted: Any) -> None:
    """Those that wait for it hear one error, in each of their requests; for a value each goes alone after all."""
    beat = REQUESTS["heartbeat"]
    running = [await SETUPS[beat.setup](ours.world), *[await ours.world.running("d", f"t{n}") for n in range(3)]]
    tasks = [Task.of(ti, "", "") for ti in running]
    with collected_by_hand():
        for code in ("53100", "22001"):
            for is_first in (True, False):  # which makes what is kept
                await planted(code)
                gc.collect()
                counted = metrics.BATCH._sum.get()
                asked = [
                    ask(ours.application, t, (beat.method, f"/task-instances/{t.id}/{beat.path}", beat.body)) for t in tasks
                ]
                assert set(await asyncio.gather(*asked)) <= {422, 503}
                assert metrics.BATCH._sum.get() > counted, "the first goes alone, the others behind it"
                assert is_first or garbage() == [], code


@EACH
async def test_a_defect_of_ours_fails_what_cannot_be_reported_again(
    ours: InProcess, planted: Any, request_: Request
) -> None:
    ti = await SETUPS[request_.setup](ours.world)
    before = await everything(ours)
    defects = sorted(code for code in sqlstates() if fault(code) == "ours")
    for code in defects[:: len(defects) - 1] if request_.reports_state else defects:  # each writes many rows
        await planted(code, times=1)
        answer = await request_.send(ours, ti)
        if not request_.reports_state:
            assert answer.status_code == 500
            assert await everything(ours) == before
            continue
        assert told(answer) == (409, "state_not_recorded")
        assert await ours.state(ti) == "failed"
        await planted(None)
        await ours.world.connection.execute("UPDATE task_instance SET state = 'running' WHERE id = $1", ti)


@EACH
async def test_a_defect_in_the_fallback_too_writes_nothing(ours: InProcess, planted: Any, request_: Request) -> None:
    ti = await SETUPS[request_.setup](ours.world)
    before = await everything(ours)
    await planted("42601")
    assert (await request_.send(ours, ti)).status_code == 500
    assert await everything(ours) == before


@pytest.mark.parametrize("request_", [pytest.param(each, id=n) for n, each in REQUESTS.items() if each.reports_state])
@pytest.mark.parametrize("code", ["23503", "23505"])
async def test_what_a_race_made_is_not_there_the_second_time(
    ours: InProcess, planted: Any, request_: Request, code: str
) -> None:
    ti = await SETUPS[request_.setup](ours.world)
    await planted(code, times=1)
    assert (await request_.send(ours, ti)).status_code == 204


async def test_the_log_tells_the_code_of_what_is_no_class_of_its_own(
    ours: InProcess, planted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ti = await SETUPS["running"](ours.world)
    log = Mock()
    monkeypatch.setattr(middleware, "log", log)
    await planted("53100")
    assert told(await REQUESTS["success"].send(ours, ti)) == (503, "database_unavailable")
    assert log.warning.call_args.kwargs["sqlstate"] == "53100"
