"""Events of one partition that come at once wait for one run, not for one each."""

from __future__ import annotations

import asyncio

import asyncpg
import httpx

from app.db.partitions import WAITING
from tests.contract.cases.setups import SETUPS
from tests.servers import Server
from tests.world import EPOCH, World

SUCCESS = {"state": "success", "end_date": "2026-01-01T00:05:00Z"}
OUTLET = {"name": "first", "uri": "s3://bucket/first", "type": "Asset"}


async def _partitioned(world: World) -> object:
    """Write Dags whose events of one partition wait together: on 3.4 that is a wish of the Dag's."""
    ti = await SETUPS["partitions, identity"](world)
    wished = """replace(data::text, '"batch_asset_events": false', '"batch_asset_events": true')::json"""
    await world.connection.execute(f"UPDATE serialized_dag SET data = {wished}")
    return ti


async def _report(server: Server, ti: object) -> httpx.Response:
    async with server.client(ti, timeout=10) as client:
        return await client.patch(f"/task-instances/{ti}/state", json={**SUCCESS, "task_outlets": [OUTLET]})


async def test_a_success_waits_for_one_that_is_under_way(server: Server, world: World) -> None:
    ti = await _partitioned(world)
    other = await asyncpg.connect(server.database_url)
    async with other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock($1, hashtext('c1'))", WAITING)
        waiting = {"target_dag_id": "c1", "partition_key": "p1", "created_at": EPOCH, "updated_at": EPOCH}
        theirs = await World(other, world.revision).insert("asset_partition_dag_run", "id", **waiting)
        report = asyncio.create_task(_report(server, ti))
        done, _ = await asyncio.wait({report}, timeout=0.3)
        assert not done, "it comes back until the other has ended"
    await other.close()
    assert (await report).status_code == 204
    assert [row["id"] for row in await world.connection.fetch("SELECT id FROM asset_partition_dag_run")] == [theirs]
    assert await world.connection.fetchval("SELECT asset_partition_dag_run_id FROM partitioned_asset_key_log") == theirs


async def test_successes_at_once(server: Server, world: World) -> None:
    await _partitioned(world)
    tasks = [await world.running("d", f"t{n}") for n in range(8)]
    answers = await asyncio.gather(*(_report(server, ti) for ti in tasks))
    assert {answer.status_code for answer in answers} == {204}
    assert await world.connection.fetchval("SELECT count(*) FROM asset_partition_dag_run") == 1
    assert await world.connection.fetchval("SELECT count(*) FROM partitioned_asset_key_log") == len(tasks)


async def test_a_mapper_that_is_not_here(server: Server, world: World) -> None:
    """Nothing is recorded: an event that no run would ever see is worse than a refusal."""
    ti = await SETUPS["partitions, identity"](world)
    await world.connection.execute(
        "UPDATE serialized_dag SET data = replace(data::text, 'airflow.partition_mappers.identity', 'my.mappers')::json"
    )
    answer = await _report(server, ti)
    assert answer.status_code == 422
    assert answer.json()["detail"]["reason"] == "unknown_partition_mapper"
    assert "my.mappers.IdentityMapper" in answer.json()["detail"]["message"]
    assert await world.connection.fetchval("SELECT state FROM task_instance WHERE id = $1", ti) == "running"
    assert await world.connection.fetchval("SELECT count(*) FROM asset_event") == 0
