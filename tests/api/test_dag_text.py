"""What a Dag's text cannot make a running service do, and what an operator may let it do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from tests.conftest import empty
from tests.contract.cases.setups import SETUPS
from tests.servers import Server, our_server
from tests.world import World

RUN = "/dag-runs/sample/r1"
WHEN = {"logical_date": "2026-02-03T04:05:06Z"}
ODD = {"__type": "tests.unit.foreign.Odd", "__var": {}}
LEAVING = {"__type": "tests.unit.foreign.Leaving", "__var": {}}


async def _change(world: World, part: str, value: Any) -> None:
    statement = "UPDATE serialized_dag SET data = jsonb_set(data::jsonb, $1, $2)"
    await world.connection.execute(statement, ["dag", part], json.dumps(value))


async def _trigger(server: Server, ti: object, body: Any) -> httpx.Response:
    async with server.client(ti, timeout=30) as client:
        return await client.post(RUN, json=body)


async def _runs(world: World) -> int:
    found: int = await world.connection.fetchval("SELECT count(*) FROM dag_run WHERE dag_id = 'sample'")
    return found


@pytest.mark.parametrize(
    ("part", "value", "named"),
    [
        ("timetable", ODD, "tests.unit.foreign.Odd"),
        ("timetable", {"__type": "unittest.__main__.X", "__var": {}}, "unittest.__main__.X"),
        ("timetable", {"__type": "x", "__var": {}}, "the class x "),
    ],
)
async def test_a_class_that_nobody_trusts(server: Server, world: World, part: str, value: Any, named: str) -> None:
    ti = await SETUPS["sample"](world)
    await _change(world, part, value)
    answer = await _trigger(server, ti, WHEN)
    assert answer.status_code == 400
    assert named in answer.json()["detail"]["message"]
    assert await _runs(world) == 0


async def test_classes_that_the_operator_trusts(make_database: Callable[[str], str], tmp_path: Path) -> None:
    """A timetable and a partition mapper are asked; a module that only begins like a trusted one is not."""
    url = make_database("3.3")
    trust = {"AIRFLOW__EXECUTION_API_SERVICE__TRUSTED_CLASSES": "tests.unit.foreign, tests.unit.fore"}
    connection = await asyncpg.connect(url)
    world = World(connection, "3.3")
    with our_server(url, tmp_path, **trust) as server:
        ti = await SETUPS["sample"](world)
        await _change(world, "timetable", ODD)
        assert (await _trigger(server, ti, WHEN)).status_code == 204
        await connection.execute("DELETE FROM dag_run WHERE dag_id = 'sample'")
        await _change(world, "timetable", {"__type": "tests.unit.foreign_too.Odd", "__var": {}})
        assert (await _trigger(server, ti, WHEN)).status_code == 400
        outlet = {"name": "first", "uri": "s3://bucket/first", "type": "Asset"}
        body = {"state": "success", "end_date": "2026-01-01T00:05:00Z", "task_outlets": [outlet]}
        for mapper, partition in ((ODD, "P1"), (LEAVING, None)):
            await empty(connection)
            ti = await SETUPS["partitions, identity"](world)
            config = json.dumps([[{"__type": "asset", "name": "first", "uri": "s3://bucket/first"}, mapper]])
            place = "{dag,timetable,__var,partition_mapper_config}"
            await connection.execute(f"UPDATE serialized_dag SET data = jsonb_set(data::jsonb, '{place}', $1)", config)
            async with server.client(ti, timeout=30) as client:
                answer = await client.patch(f"/task-instances/{ti}/state", json=body)
            assert answer.status_code == 204, answer.text
            assert await connection.fetchval("SELECT partition_key FROM asset_partition_dag_run") == partition
    await connection.close()


async def test_nothing_is_fetched_for_params(server: Server, world: World) -> None:
    """A listener of the test's own is never called."""
    called = asyncio.Event()
    listener = await asyncio.start_server(lambda *_: called.set(), "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    ti = await SETUPS["sample"](world)
    schema = {"__type": "dict", "__var": {"$ref": f"http://127.0.0.1:{port}/schema.json"}}
    await _change(world, "params", [["p", {"default": 1, "schema": schema}]])
    answer = await _trigger(server, ti, {})
    assert answer.status_code == 400
    assert "which is not part of it" in answer.json()["detail"]["message"]
    assert not called.is_set()
    assert await _runs(world) == 0
    listener.close()


async def test_others_are_answered_while_a_pattern_is_searched(server: Server, world: World) -> None:
    """The trigger is refused, by the time that it took or, on a machine that is busy, for another try."""
    ti = await SETUPS["sample"](world)
    await _change(world, "params", [["p", {"default": "", "schema": {"__type": "dict", "__var": {"pattern": "^(a+)+$"}}}]])
    trigger = asyncio.create_task(_trigger(server, ti, {"conf": {"p": "a" * 60 + "b"}}))
    answered = 0
    async with server.client(ti, timeout=30) as client:
        while not trigger.done():
            assert (await client.get("/health")).status_code == 200
            answered += 1
    assert answered > 20, "they were answered meanwhile, not after it"
    answer = await trigger
    assert answer.status_code in (400, 503)
    assert await _runs(world) == 0
