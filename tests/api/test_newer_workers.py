"""What a worker of Task SDK 1.4 says to a database of 3.2 or 3.3: workers may be upgraded first."""

from __future__ import annotations

from typing import Any

import pytest

from tests.servers import Server
from tests.world import World

pytestmark = pytest.mark.parametrize("revision", ["3.2", "3.3"], indirect=True)

END = {"end_date": "2026-01-01T00:05:00Z"}
SELF = {"hostname": "worker", "pid": 42}
NEWER = {"Airflow-API-Version": "2026-10-30"}


@pytest.mark.parametrize(
    "report",
    [
        {"state": "success", "loop_decision": None},
        {"state": "failed", "retry_reason": None, **SELF},
        {"state": "failed", "retry_reason": "no use", "loop_decision": None},
        {"state": "skipped", "retry_reason": None, **SELF},
    ],
    ids=str,
)
async def test_fields_that_say_nothing_here_are_taken(server: Server, world: World, report: dict[str, Any]) -> None:
    ti = await world.one_running("newer")
    async with server.client(ti, headers=NEWER) as client:
        answer = await client.patch(f"/task-instances/{ti}/state", json={**report, **END})
    assert answer.status_code == 204, answer.text
    assert await world.connection.fetchval("SELECT state FROM task_instance") == report["state"]


@pytest.mark.parametrize(
    "report", [{"state": "success", "loop_decision": {"stop": True}}, {"state": "success", **SELF}], ids=str
)
async def test_what_would_be_lost_is_refused(server: Server, world: World, report: dict[str, Any]) -> None:
    ti = await world.one_running("newer")
    async with server.client(ti, headers=NEWER) as client:
        answer = await client.patch(f"/task-instances/{ti}/state", json={**report, **END})
    assert answer.status_code == 422
    assert await world.connection.fetchval("SELECT state FROM task_instance") == "running"


async def test_a_retry_of_a_newer_worker_is_taken(server: Server, world: World) -> None:
    """Since Task SDK 1.3 it says always whether a policy chose its delay; a database of 3.2 has no column for that."""
    ti = await world.one_running("newer", max_tries=1)
    report = {"state": "up_for_retry", "retry_delay_seconds": None, "retry_reason": None, **END}
    async with server.client(ti, headers=NEWER) as client:
        answer = await client.patch(f"/task-instances/{ti}/state", json=report)
    assert answer.status_code == 204, answer.text
    assert await world.connection.fetchval("SELECT state FROM task_instance") == "up_for_retry"


@pytest.mark.parametrize(
    ("change", "report", "status"),
    [
        ("state = 'running'", SELF, 409),
        ("state = 'restarting'", SELF, 409),
        ("state = 'running'", {}, 409),
        ("state = 'running', hostname = 'other'", SELF, 204),
        ("state = 'running', pid = 43", SELF, 204),
        ("state = 'failed'", SELF, 204),
        ("state = NULL", SELF, 204),
    ],
)
async def test_a_terminated_process_is_acknowledged_once_its_task_is_not_its_own(
    server: Server, world: World, change: str, report: dict[str, Any], status: int
) -> None:
    ti = await world.one_running("newer")
    await world.connection.execute(f"UPDATE task_instance SET {change}")
    before = await world.connection.fetchrow("SELECT * FROM task_instance")
    async with server.client(ti, headers=NEWER) as client:
        answer = await client.patch(f"/task-instances/{ti}/state", json={"state": "server_terminated", **report, **END})
    assert answer.status_code == status, answer.text
    assert await world.connection.fetchrow("SELECT * FROM task_instance") == before


async def test_a_terminated_process_of_an_earlier_try_is_acknowledged(server: Server, world: World) -> None:
    ti = await world.one_running("newer", max_tries=1)
    async with server.client(ti, headers=NEWER) as client:
        path = f"/task-instances/{ti}/state"
        assert (await client.patch(path, json={"state": "up_for_retry", **END})).status_code == 204
        assert (await client.patch(path, json={"state": "server_terminated", **SELF, **END})).status_code == 204
    async with server.client("01920000-0000-7000-8000-000000000000", headers=NEWER) as client:
        path = "/task-instances/01920000-0000-7000-8000-000000000000/state"
        assert (await client.patch(path, json={"state": "server_terminated", **SELF, **END})).status_code == 404
