"""What happens when a reported state cannot be recorded."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest

from app import errors
from app.db.audit import AuditLog
from app.db.session import Database, Session
from app.server.key_set import KeySet
from tests.contract.cases.setups import SETUPS
from tests.faults.conftest import InProcess
from tests.previews import revision
from tests.servers import SECRET, token

__all__ = ["revision"]

SUCCESS = {"state": "success", "end_date": "2026-01-01T00:05:00Z"}


def failing(error: Exception, *, times: int = 1) -> Callable[..., Any]:
    """Return what raises ``error`` so often, and then does what the audit does."""
    left = [times]
    original = AuditLog.transition

    def record(*args: Any, **kwargs: Any) -> dict[str, Any]:
        if left[0]:
            left[0] -= 1
            raise error
        return original(*args, **kwargs)

    return record


async def test_a_defect_fails_the_task_in_a_session_of_its_own_and_says_so(
    ours: InProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ti = await SETUPS["running"](ours.world)
    monkeypatch.setattr(AuditLog, "transition", failing(RuntimeError("a defect")))
    async with ours.client(ti) as client:
        answer = await client.patch(f"/task-instances/{ti}/state", json=SUCCESS)
    assert answer.status_code == 409
    detail = answer.json()["detail"]
    assert (detail["reason"], detail["previous_state"], detail["current_state"]) == (
        "state_not_recorded",
        "running",
        "failed",
    )
    row = await ours.world.connection.fetchrow("SELECT * FROM task_instance WHERE id = $1", ti)
    assert row["state"] == "failed"
    assert row["duration"] == (row["end_date"] - row["start_date"]).total_seconds()
    audited = await ours.world.connection.fetch("SELECT event, extra FROM log")
    assert [(r["event"], json.loads(r["extra"])) for r in audited] == [("failed", {"host_name": "worker"})]


async def test_a_defect_in_a_fail_fast_dag_stops_the_others(ours: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    ti = await SETUPS["fail_fast"](ours.world)
    monkeypatch.setattr(AuditLog, "transition", failing(RuntimeError("a defect")))
    async with ours.client(ti) as client:
        assert (await client.patch(f"/task-instances/{ti}/state", json=SUCCESS)).status_code == 409
    rows = await ours.world.connection.fetch("SELECT task_id, state FROM task_instance")
    assert {row["task_id"]: row["state"] for row in rows} == {
        "job": "failed",
        "busy": "failed",
        "waiting": "skipped",
        "planned": "skipped",
        "done": "success",
        "broken": "failed",
        "clean": None,
    }


RETRYABLE = sorted(errors.RetryableDatabaseError.__subclasses__(), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", RETRYABLE, ids=lambda kind: kind.__name__)
async def test_a_retryable_error_is_never_a_reason_to_fail(
    ours: InProcess, monkeypatch: pytest.MonkeyPatch, kind: type[errors.RetryableDatabaseError]
) -> None:
    ti = await SETUPS["running"](ours.world)
    monkeypatch.setattr(AuditLog, "transition", failing(kind("injected"), times=1000))
    async with ours.client(ti) as client:
        answer = await client.patch(f"/task-instances/{ti}/state", json=SUCCESS, headers={"correlation-id": "abc"})
        monkeypatch.undo()
        assert answer.status_code == 503
        assert kind.delay <= int(answer.headers["retry-after"]) <= kind.delay + 2
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["correlation-id"] == "abc"
        assert answer.json()["detail"]["reason"] == kind.reason
        assert answer.json()["detail"]["message"]
        assert await ours.state(ti) == "running"
        assert await ours.world.connection.fetchval("SELECT count(*) FROM log") == 0
        assert (await client.patch(f"/task-instances/{ti}/state", json=SUCCESS)).status_code == 204
    assert await ours.state(ti) == "success"


async def test_a_key_set_that_cannot_be_read_fails_no_task(ours: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that starts while its key set is away cannot tell a good token from a bad one: a 403 would end the task."""
    ti = await SETUPS["running"](ours.world)
    monkeypatch.setattr(ours.service.tokens, "_key_set", KeySet("/nowhere/jwks.json"))
    claims = jwt.decode(token(ti), options={"verify_signature": False})
    good = jwt.encode(claims, SECRET, "HS512", headers={"kid": "known"})
    async with ours.client(ti) as client:
        path, headers = f"/task-instances/{ti}/state", {"Authorization": f"Bearer {good}"}
        answer = await client.patch(path, json=SUCCESS, headers=headers)
    assert (answer.status_code, answer.json()["detail"]["reason"]) == (503, "key_set_unavailable")
    assert "retry-after" in answer.headers
    assert await ours.state(ti) == "running"


async def test_a_retryable_error_in_the_fallback_writes_nothing(ours: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    ti = await SETUPS["running"](ours.world)
    original = AuditLog.transition
    calls = iter([RuntimeError("a defect"), errors.DeadlockDetected("injected")])

    def record(*args: Any, **kwargs: Any) -> dict[str, Any]:
        if (error := next(calls, None)) is not None:
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(AuditLog, "transition", record)
    async with ours.client(ti) as client:
        assert (await client.patch(f"/task-instances/{ti}/state", json=SUCCESS)).status_code == 503
        assert await ours.state(ti) == "running"
        assert (await client.patch(f"/task-instances/{ti}/state", json=SUCCESS)).status_code == 204


async def test_a_task_that_no_longer_runs_is_not_failed(ours: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    ti = await SETUPS["running"](ours.world)
    original = ours.service.database.fallback

    @asynccontextmanager
    async def fallback(self: Database) -> AsyncIterator[Session]:
        await ours.world.connection.execute("UPDATE task_instance SET state = 'skipped' WHERE id = $1", ti)
        async with original() as session:
            yield session

    monkeypatch.setattr(AuditLog, "transition", failing(RuntimeError("a defect")))
    monkeypatch.setattr(Database, "fallback", fallback)
    async with ours.client(ti) as client:
        answer = await client.patch(f"/task-instances/{ti}/state", json=SUCCESS)
    detail = answer.json()["detail"]
    assert (answer.status_code, detail["reason"], detail["previous_state"]) == (409, "invalid_state", "skipped")
    assert await ours.state(ti) == "skipped"


async def test_a_lock_that_is_held_is_a_503_and_the_next_try_succeeds(ours: InProcess) -> None:
    ti = await SETUPS["queued"](ours.world)
    start = {"state": "running", "hostname": "w", "unixname": "u", "pid": 1, "start_date": "2026-01-01T00:00:00Z"}
    async with ours.client(ti) as client:
        async with ours.world.connection.transaction():
            await ours.world.connection.execute("SELECT 1 FROM task_instance WHERE id = $1 FOR UPDATE", ti)
            answer = await client.patch(f"/task-instances/{ti}/run", json=start)
            assert (answer.status_code, answer.json()["detail"]["reason"]) == (503, "lock_timeout")
            beat = await client.put(f"/task-instances/{ti}/heartbeat", json={"hostname": "w", "pid": 1})
            assert beat.status_code == 409, "a heartbeat that changes nothing waits for nothing"
        assert (await client.patch(f"/task-instances/{ti}/run", json=start)).status_code == 200
    assert await ours.state(ti) == "running"


@pytest.mark.parametrize("setup", ["fail_fast", "downstream"])
async def test_rows_that_somebody_holds_are_not_forgotten(ours: InProcess, setup: str) -> None:
    """While a sibling is held, the others are stopped; the answer is 503, and the repeated request finishes the rest."""
    ti = await SETUPS[setup](ours.world)
    held, path, body = {
        "fail_fast": ("waiting", "state", {**SUCCESS, "state": "failed"}),
        "downstream": ("t0", "skip-downstream", {"tasks": ["t0", "t1", "t2"]}),
    }[setup]
    index = "region_index" if ours.world.keeps_tries else "map_index"
    states = f"SELECT task_id, state FROM task_instance WHERE {index} < 0"
    async with ours.client(ti) as client:
        async with ours.world.connection.transaction():
            await ours.world.connection.execute("SELECT 1 FROM task_instance WHERE task_id = $1 FOR UPDATE", held)
            answer = await client.patch(f"/task-instances/{ti}/{path}", json=body)
            assert (answer.status_code, answer.json()["detail"]["reason"]) == (503, "lock_timeout")
            found = {row["task_id"]: row["state"] for row in await ours.world.connection.fetch(states)}
            assert found[held] is None
            assert found["planned" if setup == "fail_fast" else "t1"] == "skipped"
        again = await client.patch(f"/task-instances/{ti}/{path}", json=body)
        assert again.status_code in (200, 204)
    found = {row["task_id"]: row["state"] for row in await ours.world.connection.fetch(states)}
    assert found[held] == "skipped"


@pytest.mark.parametrize(
    ("setup", "method", "path", "body"),
    [
        ("running", "PATCH", "state", SUCCESS),
        ("retried_before", "PATCH", "state", {**SUCCESS, "state": "up_for_retry"}),
        ("running", "PATCH", "state", {"state": "deferred", "classpath": "T", "next_method": "m"}),
        (
            "outlets",
            "PATCH",
            "state",
            {**SUCCESS, "task_outlets": [{"name": "first", "uri": "s3://bucket/first", "type": "Asset"}]},
        ),
        (
            "queued",
            "PATCH",
            "run",
            {"state": "running", "hostname": "w", "unixname": "u", "pid": 1, "start_date": "2026-01-01T00:00:00Z"},
        ),
        ("downstream", "PATCH", "skip-downstream", {"tasks": ["t0", "t1"]}),
        ("fail_fast", "PATCH", "state", {**SUCCESS, "state": "failed"}),
    ],
    ids=["success", "retry", "deferred", "assets", "run", "skip", "fail fast"],
)
async def test_a_replay_is_answered_alike_and_writes_nothing(
    ours: InProcess, setup: str, method: str, path: str, body: dict[str, Any]
) -> None:
    ti = await SETUPS[setup](ours.world)

    async def everything() -> list[str]:
        tables = ["task_instance", "log", "trigger", "asset_event", "asset_dag_run_queue", "task_reschedule"]
        tables += [] if ours.world.keeps_tries else ["task_instance_history"]
        query = " UNION ALL ".join(f"SELECT to_jsonb(t)::text AS row FROM {table} t" for table in tables)
        return sorted(record["row"] for record in await ours.world.connection.fetch(query))

    async with ours.client(ti) as client:
        first = await client.request(method, f"/task-instances/{ti}/{path}", json=body)
        assert first.status_code in (200, 204)
        before = await everything()
        again = await client.request(method, f"/task-instances/{ti}/{path}", json=body)
    assert again.status_code in (200, 204)
    assert again.text == first.text
    assert await everything() == before
