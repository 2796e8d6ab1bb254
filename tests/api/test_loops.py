"""Loops: a gate begins the next pass or says why not, and what is read in and outside of a loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.contract.cases.loops import looping
from tests.servers import Server
from tests.world import World

pytestmark = pytest.mark.parametrize("revision", ["3.4"], indirect=True)

ENDED = {"state": "success", "end_date": "2026-01-01T00:05:00Z"}
X = "/xcoms/d/manual__1"


async def _ask(server: Server, asker: Any, method: str, path: str, body: Any = None) -> Any:
    async with server.client(asker) as client:
        return await client.request(method, path, json=body)


async def _tries(world: World, task_id: str) -> list[tuple[Any, ...]]:
    rows = await world.connection.fetch(
        "SELECT region_index, try_number, state, retry_reason FROM task_instance"
        " WHERE task_id = $1 AND working_set ORDER BY region_index",
        task_id,
    )
    return [tuple(row) for row in rows]


async def test_a_gate_goes_on_once(server: Server, world: World) -> None:
    gate = (await looping(world))["again.enough", 1]
    report = {**ENDED, "loop_decision": {"stop": False, "reason": "not yet"}}
    answers = await asyncio.gather(*(_ask(server, gate, "PATCH", f"/task-instances/{gate}/state", report) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 204]
    assert [row[:3] for row in await _tries(world, "again.numbers")] == [(0, 1, "success"), (1, 1, "success"), (2, 0, None)]
    regions = await world.connection.fetch(
        "SELECT node_id FROM dynamic_region WHERE parent_region_index = 2 AND encode(path, 'hex') LIKE '%0002' ORDER BY 1"
    )
    assert [row["node_id"] for row in regions] == ["again.double", "again.literal"]
    said = await world.connection.fetch("SELECT key, value FROM xcom_v2 WHERE key LIKE '\\_airflow%'")
    assert [tuple(row) for row in said] == [("_airflow_loop_decision_reason", '"not yet"')]


@pytest.mark.parametrize(
    ("decision", "why"),
    [({}, "Successful loop gate requires a decision"), ({"stop": False}, "Loop cannot continue beyond its iteration limit")],
)
async def test_a_decision_that_cannot_be_is_no_success(
    server: Server, world: World, decision: dict[str, Any], why: str
) -> None:
    gate = (await looping(world, passes=(0, 1, 2)))["again.enough", 2]
    report = {**ENDED, **({"loop_decision": decision} if decision else {})}
    assert (await _ask(server, gate, "PATCH", f"/task-instances/{gate}/state", report)).status_code == 204
    assert (await _tries(world, "again.enough"))[2] == (2, 1, "failed", f"Loop gate success rejected: {why}")
    assert len(await _tries(world, "again.numbers")) == 3, "no pass begins"


async def test_who_asks_decides_which_pass_is_meant(server: Server, world: World) -> None:
    found = await looping(world)
    path = f"{X}/again.numbers/return_value"
    for number in (0, 1):
        told = await _ask(server, found["again.enough", number], "GET", path)
        assert told.json()["value"] == ["again.numbers", number]
    before = await _ask(server, found["again.enough", 1], "GET", f"{path}?previous_iteration=true")
    assert before.json()["value"] == ["again.numbers", 0]
    outside = found["after", -1]
    assert (await _ask(server, outside, "GET", path)).status_code == 400
    passes = await _ask(server, outside, "GET", f"{path}/slice")
    assert passes.json() == [["again.numbers", 0], ["again.numbers", 1]]


async def test_a_cleared_run_goes_back_to_the_first_pass(server: Server, world: World) -> None:
    found = await looping(world)
    await world.connection.execute("UPDATE task_instance SET state = 'success' WHERE task_id = 'again.enough'")
    assert (await _ask(server, found["after", -1], "POST", "/dag-runs/d/manual__1/clear")).status_code == 204
    assert [row[:3] for row in await _tries(world, "again.numbers")] == [(0, 2, None)]
    over = await world.connection.fetchval("SELECT count(*) FROM task_instance WHERE archived_reason = 'superseded'")
    assert over == len([place for place in found if place[0].startswith("again.") and place[1] == 1])
    forks = "SELECT resumes_from_index FROM dynamic_region WHERE forked_from_region_id IS NOT NULL"
    assert await world.connection.fetchval(forks) == 1
