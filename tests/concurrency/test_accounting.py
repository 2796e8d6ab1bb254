"""Statements and row locks of every operation that changes something: this table is the test.

A statement more, or a second lock on a task instance, fails the build without timing anything.
"""

from __future__ import annotations

import gc
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest

from app.db import direct
from bench.driver import Task
from bench.inside import ask
from tests.conftest import empty
from tests.contract.cases import CASES
from tests.contract.cases.assets import partitioned
from tests.contract.cases.case import ABSENT, Case
from tests.contract.cases.setups import SETUPS
from tests.faults.conftest import InProcess
from tests.garbage import collected_by_hand, garbage
from tests.previews import revision
from tests.world import World

__all__ = ["revision"]

END = {"end_date": "2026-01-01T00:05:00Z"}
START = {"state": "running", "hostname": "worker", "unixname": "u", "pid": 42, "start_date": "2026-01-01T00:00:00Z"}
LOCKS = re.compile(r"FOR (?:NO KEY )?UPDATE OF (?:task_instance\b|dag_run$)")
OUTLETS = [{"name": n, "uri": f"s3://bucket/{n}", "type": "Asset"} for n in ("second", "first")]


@dataclass(frozen=True)
class Row:
    """One operation.

    :param locks: statements that lock rows before they are written (``SELECT ... FOR``); without one, the only UPDATE locks.
    :param statements: that are sent.
    :param trips: round trips: the statements, and what begins and ends their transactions.
    :param of_tries: these three where every try is a row, if they are others there.
    """

    name: str
    setup: str
    method: str
    path: str
    body: Any
    locks: int
    statements: int
    trips: int
    of_tries: tuple[int, int, int] | None = None

    def counts(self, world: World) -> tuple[int, int, int]:
        """Return locks, statements and round trips in the tables of a world."""
        return (self.of_tries if world.keeps_tries else None) or (self.locks, self.statements, self.trips)


TABLE = [
    Row("heartbeat", "running", "PUT", "/task-instances/{ti}/heartbeat", {"hostname": "worker", "pid": 42}, 0, 1, 1),
    Row("heartbeat refused", "success", "PUT", "/task-instances/{ti}/heartbeat", {"hostname": "worker", "pid": 42}, 0, 2, 2),
    Row("run", "queued", "PATCH", "/task-instances/{ti}/run", START, 0, 3, 3),
    Row("run again", "running", "PATCH", "/task-instances/{ti}/run", {**START, "unixname": "airflow"}, 0, 2, 2),
    Row("run refused", "success", "PATCH", "/task-instances/{ti}/run", START, 0, 1, 1),
    Row("success", "running", "PATCH", "/task-instances/{ti}/state", {"state": "success", **END}, 0, 2, 2),
    Row("success again", "success", "PATCH", "/task-instances/{ti}/state", {"state": "success", **END}, 0, 1, 1),
    Row("failed", "running", "PATCH", "/task-instances/{ti}/state", {"state": "failed", **END}, 0, 2, 2),
    Row("retry", "running", "PATCH", "/task-instances/{ti}/state", {"state": "up_for_retry", **END}, 0, 2, 2),
    Row(
        "deferred", "running", "PATCH", "/task-instances/{ti}/state",
        {"state": "deferred", "classpath": "T", "next_method": "m"}, 0, 2, 2,
    ),
    Row(
        "reschedule", "running", "PATCH", "/task-instances/{ti}/state",
        {"state": "up_for_reschedule", **END, "reschedule_date": END["end_date"]}, 0, 2, 2,
    ),
    Row(
        "success with outlets", "outlets", "PATCH", "/task-instances/{ti}/state",
        {"state": "success", **END, "task_outlets": OUTLETS}, 1, 4, 6, (1, 5, 7),
    ),
    Row("fail fast", "fail_fast", "PATCH", "/task-instances/{ti}/state", {"state": "failed", **END}, 1, 3, 3),
    Row(
        "skip downstream", "downstream", "PATCH", "/task-instances/{ti}/skip-downstream",
        {"tasks": ["t0", "t1"]}, 1, 1, 1, (1, 2, 2),
    ),
    Row("clear a run", "fail_fast", "POST", "/dag-runs/d/manual__1/clear", None, 2, 10, 12, (2, 17, 19)),
    Row("triggered run of 50", "wide", "POST", "/dag-runs/wide/manual_1", {}, 0, 2, 2, (0, 3, 3)),
    Row(
        "triggered run, two deadlines", "sample, several deadlines", "POST", "/dag-runs/sample/r1",
        {"logical_date": "2026-02-03T04:05:06Z"}, 0, 4, 6, (0, 5, 7),
    ),
    Row("rtif", "running", "PUT", "/task-instances/{ti}/rtif", {"a": 1}, 0, 2, 2),
    Row("rendered map index", "running", "PATCH", "/task-instances/{ti}/rendered-map-index", "x", 0, 1, 1),
    Row("xcom set", "running", "POST", "/xcoms/d/manual__1/job/k", 1, 0, 1, 1, (0, 2, 2)),
    Row("xcom set mapped", "running", "POST", "/xcoms/d/manual__1/job/return_value?mapped_length=1", [1], 0, 2, 4),
    Row("xcom get", "with_xcoms", "GET", "/xcoms/d/manual__1/job/return_value", None, 0, 1, 1),
    Row("xcom item", "with_xcoms", "GET", "/xcoms/d/manual__1/mapped/return_value/item/0", None, 0, 1, 1),
    Row("xcom delete", "with_xcoms", "DELETE", "/xcoms/d/manual__1/job/return_value", None, 0, 1, 1, (0, 2, 2)),
    Row("variable get", "variables", "GET", "/variables/secret", None, 0, 1, 1),
    Row("variable set", "variables", "PUT", "/variables/secret", {"val": "x"}, 0, 1, 1, (0, 2, 2)),
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
    assert counted == row.counts(ours.world), "\n".join([*ours.statements, *ours.controls])
    assert all(LOCKS.findall(statement) for statement in locking)


@pytest.mark.parametrize("operation", ["fail fast", "skip downstream"])
async def test_a_run_of_many_tasks_takes_as_many(ours: InProcess, operation: str) -> None:
    row = next(row for row in TABLE if row.name == operation)
    ti = await SETUPS[row.setup](ours.world)
    tasks = [f"further{number}" for number in range(120)]
    for task_id in tasks:
        await ours.world.ti("d", task_id, state=None)
    ours.statements.clear()
    ours.controls.clear()
    body = row.body if operation == "fail fast" else {"tasks": [*row.body["tasks"], *tasks]}
    async with ours.client(ti) as client:
        answer = await client.request(row.method, row.path.format(ti=ti), json=body)
    assert answer.status_code == 204
    assert len(ours.statements) + len(ours.controls) == row.counts(ours.world)[2]
    skipped = "SELECT count(*) FROM task_instance WHERE task_id LIKE 'further%' AND state = 'skipped'"
    assert await ours.world.connection.fetchval(skipped) == len(tasks)


def kind(case: Case) -> tuple[Any, ...]:
    """Return what decides which statements a case needs: not the values."""
    path, _, query = case.path.partition("?")
    names = frozenset(part.partition("=")[0] for part in query.split("&"))
    body = (frozenset(case.json), str(case.json.get("state"))) if isinstance(case.json, dict) else ()
    return case.setup, case.method, re.sub(r"[^/]*\d[^/]*", "", path), names, body


@pytest.mark.slow
@pytest.mark.parametrize("revision", ["3.3"], indirect=True)
async def test_no_request_waits_for_a_statement_to_be_made(ours: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of request that the differential test asks, twice: what the second time needs is there, without values."""
    compiled = dict[direct.Compiled, str]()
    compile_ = direct.Compiled.__init__

    def noted(self: direct.Compiled, *arguments: Any) -> None:
        compile_(self, *arguments)
        compiled[self] = self._sql

    monkeypatch.setattr(direct.Compiled, "__init__", noted)
    made = list[str]()
    asked = {kind(case): case for case in CASES if ours.world.revision in case.revisions and case.token == "own"}
    for case in asked.values():
        for _ in range(2):
            await empty(ours.world.connection)
            ti = str(await SETUPS[case.setup](ours.world))
            compiled.clear()
            async with ours.client(ti) as client:
                content = None if case.json is ABSENT else json.dumps(case.json)
                headers = {"Content-Type": "application/json", **case.headers}
                await client.request(case.method, case.path.replace("{ti}", ti), headers=headers, content=content)
        made += compiled.values()
    assert made == []


async def test_a_request_leaves_the_garbage_collector_nothing(ours: InProcess) -> None:
    """It looks seldom (:data:`app.main.COLLECTED_AFTER`): what refers to itself would stay until it does."""
    with collected_by_hand():
        for row in TABLE:
            for is_first in (True, False):  # which makes what is kept
                await empty(ours.world.connection)
                task = Task.of(await SETUPS[row.setup](ours.world), "", "")
                gc.collect()
                assert await ask(ours.application, task, (row.method, row.path.format(ti=task.id), row.body)) < 500
                assert is_first or garbage() == [], row.name


async def test_a_mapper_that_raises_for_a_key_leaves_the_garbage_collector_nothing(ours: InProcess) -> None:
    """The success is recorded, and the error noted: of itself nothing is kept."""
    with collected_by_hand():
        for is_first in (True, False):  # which makes what is kept
            await empty(ours.world.connection)
            task = Task.of(await partitioned(ours.world, "hours", "no hour"), "", "")
            gc.collect()
            asked = "PATCH", f"/task-instances/{task.id}/state", {"state": "success", **END, "task_outlets": OUTLETS}
            assert await ask(ours.application, task, asked) == 204
            assert is_first or garbage() == []
        noted = "SELECT count(*) FROM log WHERE event = 'failed to map partition_key'"
        assert await ours.world.connection.fetchval(noted) == 1


@asynccontextmanager
async def held(connection: asyncpg.Connection, statement: str, *arguments: Any) -> AsyncIterator[None]:
    """Hold what a statement locks until the block ends."""
    async with connection.transaction():
        await connection.execute(statement, *arguments)
        yield


@pytest.mark.parametrize("operation", ["run", "success", "heartbeat", "rtif", "xcom", "retry"])
async def test_nobody_waits_for_the_dag_run_that_the_scheduler_holds(ours: InProcess, operation: str) -> None:
    """The scheduler holds it while it updates task instances; 3.2.1 waits for it with a task instance in hand.

    Where every try is a row, another one refers to the run: it can be made beside the lock that the scheduler takes.
    """
    strength = "NO KEY UPDATE" if operation == "retry" and ours.world.keeps_tries else "UPDATE"
    ti = await SETUPS["queued" if operation == "run" else "running"](ours.world)
    method, path, body = {
        "run": ("PATCH", f"/task-instances/{ti}/run", START),
        "success": ("PATCH", f"/task-instances/{ti}/state", {"state": "success", **END}),
        "retry": ("PATCH", f"/task-instances/{ti}/state", {"state": "up_for_retry", **END}),
        "heartbeat": ("PUT", f"/task-instances/{ti}/heartbeat", {"hostname": "worker", "pid": 42}),
        "rtif": ("PUT", f"/task-instances/{ti}/rtif", {"a": 1}),
        "xcom": ("POST", "/xcoms/d/manual__1/job/k", 1),
    }[operation]
    async with held(ours.world.connection, f"SELECT 1 FROM dag_run FOR {strength}"), ours.client(ti) as client:
        assert (await client.request(method, path, json=body)).status_code < 300


@pytest.mark.parametrize("operation", ["rtif", "xcom"])
async def test_what_refers_to_a_task_instance_does_not_wait_for_its_row_lock(ours: InProcess, operation: str) -> None:
    ti = await SETUPS["running"](ours.world)
    method, path = {"rtif": ("PUT", f"/task-instances/{ti}/rtif"), "xcom": ("POST", "/xcoms/d/manual__1/job/k")}[operation]
    lock = "SELECT 1 FROM task_instance WHERE id = $1 FOR NO KEY UPDATE"
    async with held(ours.world.connection, lock, ti), ours.client(ti) as client:
        assert (await client.request(method, path, json={"a": 1})).status_code == 201


async def test_what_every_clearing_executes_is_made_before_the_first(
    ours: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left are statements that set columns of which the run decides, and those that only some runs need."""
    ti = await SETUPS["fail_fast"](ours.world)
    made = set[str]()
    compile_ = direct.Compiled.__init__

    def noted(self: direct.Compiled, *arguments: Any) -> None:
        compile_(self, *arguments)
        made.add(self._sql)

    monkeypatch.setattr(direct.Compiled, "__init__", noted)
    async with ours.client(ti) as client:
        assert (await client.post("/dag-runs/d/manual__1/clear")).status_code == 204
    ready = [statement for statement in ours.statements if statement not in made]
    read = [statement for statement in ready if statement.startswith("SELECT")]
    assert len(ready) >= 6
    assert sum(len(LOCKS.findall(statement)) for statement in read) == 2
