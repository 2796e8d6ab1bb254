"""A request that gave up on a lock leaves a line that says who holds it, and costs no request anything."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from structlog.testing import CapturedCall, CapturingLogger

from app.db import lock_timeouts
from app.db.holders import Picture
from app.db.lock_timeouts import LockTimeouts
from app.errors import LockTimeout
from app.tasks.heartbeats import Heartbeats
from tests.contract.cases.setups import SETUPS
from tests.faults.conftest import InProcess
from tests.faults.test_held_rows import BY_NAME, HELD, ask, beat, holding

HELD_NOW, GONE = "what a request needed is held", "what a request needed was held, and is no more"
PLANTED = "xyzzy-secret"


@pytest.fixture(scope="module")
def revision() -> str:
    """Return the revision that has all of these requests."""
    return "3.3"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[CapturedCall]:
    capturing = CapturingLogger()
    monkeypatch.setattr(lock_timeouts, "log", capturing)
    return capturing.calls


@pytest.fixture
def telling(ours: InProcess) -> LockTimeouts:
    telling = ours.service.database.coming_back.when_given_up
    assert isinstance(telling, LockTimeouts)
    return telling


async def told(telling: LockTimeouts, lines: list[CapturedCall]) -> list[dict[str, Any]]:
    """Return the lines about lock timeouts, once they are written."""
    if telling._task is not None:
        await telling._task
    return [{"event": line.args[0], **line.kwargs} for line in lines if line.args[0] in {HELD_NOW, GONE}]


@pytest.mark.parametrize("name", ["heartbeat", "deferral", "retry"])
async def test_who_holds_the_row_is_told(
    ours: InProcess, url: str, telling: LockTimeouts, lines: list[CapturedCall], name: str
) -> None:
    request = BY_NAME[name]
    ti = await SETUPS[request.setup](ours.world)
    held = HELD.replace("{ti}", str(ti)).replace("WHERE", f"WHERE '{PLANTED}' <> '' AND")
    async with holding(url, held):
        assert (await ask(ours, request, ti)).status_code == 503
        (line,) = await told(telling, lines)
    assert (line["event"], line["table"], line["row_id"], line["waiting"]) == (HELD_NOW, "task_instance", str(ti), 0)
    assert (line["holder"], line["holder_role"], line["holder_client"]) == ("unknown", "postgres", "127.0.0.1")
    assert line["holder_statement"] == "SELECT FROM task_instance WHERE ? <> ? AND id = ? FOR UPDATE"
    assert (line["holder_state"], line["more_held"], line["more_holders"]) == ("idle in transaction", 0, 0)
    assert PLANTED not in str(lines)


async def test_of_many_rows_that_are_held_the_one_that_was_needed(
    ours: InProcess, url: str, telling: LockTimeouts, lines: list[CapturedCall]
) -> None:
    """PostgreSQL's error names it, unless the row was passed over."""
    await SETUPS["running"](ours.world)
    ti = await ours.world.running("d", "second")
    async with (
        holding(url, "SELECT FROM task_instance WHERE task_id = 'job' FOR UPDATE"),
        holding(url, "UPDATE task_instance SET queue = 'moved' WHERE task_id = 'second'"),
    ):
        assert (await ask(ours, BY_NAME["deferral"], ti)).status_code == 503
        (line,) = await told(telling, lines)
    assert (line["row_id"], line["more_held"]) == (str(ti), 0)
    assert line["holder_statement"] == "UPDATE task_instance SET queue = ? WHERE task_id = ?"


async def test_a_heartbeat_that_was_passed_over_tells_its_row(
    ours: InProcess, url: str, telling: LockTimeouts, lines: list[CapturedCall], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is with one of several that go together: PostgreSQL has no error to name the row in."""

    async def pass_over(*_: Any, **__: Any) -> bool:
        return False

    monkeypatch.setattr(Heartbeats, "record", pass_over)
    await SETUPS["running"](ours.world)
    ti = await ours.world.running("d", "second")
    async with (
        holding(url, "SELECT FROM task_instance WHERE task_id = 'job' FOR UPDATE"),
        holding(url, "UPDATE task_instance SET queue = 'moved' WHERE task_id = 'second'"),
    ):
        assert (await beat(ours, ti)).status_code == 503
        (line,) = await told(telling, lines)
    assert (line["row_id"], line["more_held"]) == (str(ti), 0)
    assert line["holder_statement"] == "UPDATE task_instance SET queue = ? WHERE task_id = ?"


async def test_one_line_in_a_while(ours: InProcess, url: str, telling: LockTimeouts, lines: list[CapturedCall]) -> None:
    ti = await SETUPS["running"](ours.world)
    async with holding(url, HELD.replace("{ti}", str(ti))):
        for _ in range(3):
            assert (await beat(ours, ti)).status_code == 503
        assert len(await told(telling, lines)) == 1
        telling._next = 0.0
        await beat(ours, ti)
        assert [line["other_lock_timeouts"] for line in await told(telling, lines)] == [0, 2]


async def test_what_is_let_go_is_said_to_be(telling: LockTimeouts, lines: list[CapturedCall]) -> None:
    telling(LockTimeout())
    assert [line["event"] for line in await told(telling, lines)] == [GONE]


async def test_no_request_waits_for_it(
    ours: InProcess, url: str, telling: LockTimeouts, lines: list[CapturedCall], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes to find out: it has a bound of its own."""
    reached = asyncio.Event()

    async def forever(*_: Any, **__: Any) -> Picture:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(lock_timeouts, "look", forever)
    monkeypatch.setattr(lock_timeouts, "holders_of", forever)
    ti = await SETUPS["running"](ours.world)
    async with holding(url, HELD.replace("{ti}", str(ti))):
        assert (await beat(ours, ti)).status_code == 503
        await reached.wait()
        assert telling._task is not None
        assert not telling._task.done()
    assert not await told(telling, lines), "after its second it gives up, and the log has no line"


async def test_never_on_the_last_connection(ours: InProcess, telling: LockTimeouts, lines: list[CapturedCall]) -> None:
    database = ours.service.database
    async with AsyncExitStack() as stack:
        for _ in range(database.settings.pool_size):
            await stack.enter_async_context(database.slots.held())
        telling(LockTimeout())
        assert telling._task is None
    telling(LockTimeout())
    assert [line["other_lock_timeouts"] for line in await told(telling, lines)] == [1], "and the next tells that it was one"


async def test_a_missing_privilege_is_told_once(
    telling: LockTimeouts, lines: list[CapturedCall], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def blind(*_: Any, **__: Any) -> Picture:
        return Picture(is_whole=False)

    monkeypatch.setattr(lock_timeouts, "look", blind)
    for _ in range(2):
        telling._next = 0.0
        telling(LockTimeout())
        await told(telling, lines)
    assert sum("pg_read_all_stats" in line.args[0] for line in lines) == 1
