"""Statements and row locks of every operation that changes something: this table is the test.

A statement more, or a second lock on a task instance, fails the build without timing anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from app.db import direct
from tests.conftest import empty
from tests.contract.cases.setups import SETUPS
from tests.faults.conftest import InProcess

END = {"end_date": "2026-01-01T00:05:00Z"}
START = {"state": "running", "hostname": "worker", "unixname": "u", "pid": 42, "start_date": "2026-01-01T00:00:00Z"}
OUTLETS = [{"name": n, "uri": f"s3://bucket/{n}", "type": "Asset"} for n in ("second", "first")]


@dataclass(frozen=True)
class Row:
    """One operation.

    :param locks: statements that lock rows before they are written (``SELECT ... FOR``); without one, the only UPDATE locks.
    :param statements: that are sent.
    :param trips: round trips: the statements, and what begins and ends their transactions.
    """

    name: str
    setup: str
    method: str
    path: str
    body: Any
    locks: int
    statements: int
    trips: int


TABLE = [
    Row("heartbeat", "running", "PUT", "/task-instances/{ti}/heartbeat", {"hostname": "worker", "pid": 42}, 0, 1, 1),
    Row("heartbeat refused", "success", "PUT", "/task-instances/{ti}/heartbeat", {"hostname": "worker", "pid": 42}, 0, 2, 2),
    Row("run", "queued", "PATCH", "/task-instances/{ti}/run", START, 0, 3, 3),
    Row("run again", "running", "PATCH", "/task-instances/{ti}/run", {**START, "unixname": "airflow"}, 0, 2, 2),
    Row("run refused", "success", "PATCH", "/task-instances/{ti}/run", START, 0, 1, 1),
    Row("success", "running", "PATCH", "/task-instances/{ti}/state", {"state": "success", **END}, 0, 2, 2),
    Row("success again", "success", "PATCH", "/task-instances/{ti}/state", {"state": "success", **END}, 0, 1, 1),
    Row("failed", "running", "PATCH", "/task-instances/{ti}/state", {"state": "failed", **END}, 0, 2, 2),
    Row("retry", "running", "PATCH", "/task-instances/{ti}/state", {"state": "up_for_retry", **END}, 1, 6, 8),
    Row(
        "deferred", "running", "PATCH", "/task-instances/{ti}/state",
        {"state": "deferred", "classpath": "T", "next_method": "m"}, 1, 4, 6,
    ),
    Row(
        "reschedule", "running", "PATCH", "/task-instances/{ti}/state",
        {"state": "up_for_reschedule", **END, "reschedule_date": END["end_date"]}, 1, 4, 6,
    ),
    Row(
        "success with outlets", "outlets", "PATCH", "/task-instances/{ti}/state",
        {"state": "success", **END, "task_outlets": OUTLETS}, 1, 7, 9,
    ),
    Row("fail fast", "fail_fast", "PATCH", "/task-instances/{ti}/state", {"state": "failed", **END}, 4, 14, 18),
    Row("skip downstream", "downstream", "PATCH", "/task-instances/{ti}/skip-downstream", {"tasks": ["t0", "t1"]}, 2, 5, 9),
    Row("clear a run", "fail_fast", "POST", "/dag-runs/d/manual__1/clear", None, 2, 14, 16),
    Row("rtif", "running", "PUT", "/task-instances/{ti}/rtif", {"a": 1}, 0, 2, 2),
    Row("rendered map index", "running", "PATCH", "/task-instances/{ti}/rendered-map-index", "x", 0, 1, 1),
    Row("xcom set", "running", "POST", "/xcoms/d/manual__1/job/k", 1, 0, 1, 1),
    Row("xcom set mapped", "running", "POST", "/xcoms/d/manual__1/job/k?mapped_length=1", [1], 0, 2, 4),
    Row("xcom get", "with_xcoms", "GET", "/xcoms/d/manual__1/job/return_value", None, 0, 1, 1),
    Row("xcom item", "with_xcoms", "GET", "/xcoms/d/manual__1/mapped/return_value/item/0", None, 0, 1, 1),
    Row("xcom delete", "with_xcoms", "DELETE", "/xcoms/d/manual__1/job/return_value", None, 0, 1, 1),
    Row("variable get", "variables", "GET", "/variables/secret", None, 0, 1, 1),
    Row("variable set", "variables", "PUT", "/variables/secret", {"val": "x"}, 0, 1, 1),
    Row("connection get", "connections", "GET", "/connections/full", None, 0, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
async def test_statements_and_locks(ours: InProcess, row: Row) -> None:
    ti = await SETUPS[row.setup](ours.world)
    ours.statements.clear()
    ours.controls.clear()
    async with ours.client(ti) as client:
        options = {} if row.body is None else {"json": row.body}
        answer = await client.request(row.method, row.path.format(ti=ti), **options)
    assert answer.status_code < 500
    locking = [s for s in ours.statements if " FOR UPDATE" in s or " FOR NO KEY UPDATE" in s]
    counted = (len(locking), len(ours.statements), len(ours.statements) + len(ours.controls))
    assert counted == (row.locks, row.statements, row.trips), "\n".join([*ours.statements, *ours.controls])
    assert all(statement.rstrip().endswith(("OF task_instance", "OF dag_run", "SKIP LOCKED")) for statement in locking)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
async def test_what_was_asked_once_is_compiled(ours: InProcess, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements that are kept have no values in them: the same operation on another task instance adds none."""
    compiled = list[str]()
    compile_ = direct.Compiled.__init__

    def noted(self: direct.Compiled, statement: Any, names: Any, dialect: Any) -> None:
        compile_(self, statement, names, dialect)
        if names:
            compiled.append(self._compiled.string)

    for _ in range(2):
        await empty(ours.world.connection)
        ti = await SETUPS[row.setup](ours.world)
        compiled.clear()
        monkeypatch.setattr(direct.Compiled, "__init__", noted)
        async with ours.client(ti) as client:
            options = {} if row.body is None else {"json": row.body}
            assert (await client.request(row.method, row.path.format(ti=ti), **options)).status_code < 500
    assert compiled == []


@asynccontextmanager
async def held(connection: asyncpg.Connection, statement: str, *arguments: Any) -> AsyncIterator[None]:
    """Hold what a statement locks until the block ends."""
    async with connection.transaction():
        await connection.execute(statement, *arguments)
        yield


@pytest.mark.parametrize("operation", ["run", "success", "heartbeat", "rtif", "xcom", "retry"])
async def test_nobody_waits_for_the_dag_run_that_the_scheduler_holds(ours: InProcess, operation: str) -> None:
    """The scheduler holds it while it updates task instances; 3.2.1 waits for it with a task instance in hand."""
    ti = await SETUPS["queued" if operation == "run" else "running"](ours.world)
    method, path, body = {
        "run": ("PATCH", f"/task-instances/{ti}/run", START),
        "success": ("PATCH", f"/task-instances/{ti}/state", {"state": "success", **END}),
        "retry": ("PATCH", f"/task-instances/{ti}/state", {"state": "up_for_retry", **END}),
        "heartbeat": ("PUT", f"/task-instances/{ti}/heartbeat", {"hostname": "worker", "pid": 42}),
        "rtif": ("PUT", f"/task-instances/{ti}/rtif", {"a": 1}),
        "xcom": ("POST", "/xcoms/d/manual__1/job/k", 1),
    }[operation]
    async with held(ours.world.connection, "SELECT 1 FROM dag_run FOR UPDATE"), ours.client(ti) as client:
        assert (await client.request(method, path, json=body)).status_code < 300


@pytest.mark.parametrize("operation", ["rtif", "xcom"])
async def test_what_refers_to_a_task_instance_does_not_wait_for_its_row_lock(ours: InProcess, operation: str) -> None:
    ti = await SETUPS["running"](ours.world)
    method, path = {"rtif": ("PUT", f"/task-instances/{ti}/rtif"), "xcom": ("POST", "/xcoms/d/manual__1/job/k")}[operation]
    lock = "SELECT 1 FROM task_instance WHERE id = $1 FOR NO KEY UPDATE"
    async with held(ours.world.connection, lock, ti), ours.client(ti) as client:
        assert (await client.request(method, path, json={"a": 1})).status_code == 201
