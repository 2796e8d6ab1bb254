"""Successes with many events, and many successes with one: each is recorded at the first try."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.server import patience
from tests.servers import Server, token
from tests.world import World

END = "2026-01-01T00:05:00Z"
ASSET = {"name": "shared", "uri": "s3://bucket/shared", "type": "Asset"}
ALIAS = {"name": "alias", "type": "AssetAlias"}
EVENTS, CROWD = 5000, 60
SLOW = 20.0  # seconds that a busy machine may take for what once took a minute on an idle one


async def consumed(world: World, *, tasks: int) -> list[Any]:
    """Write an asset that two Dags wait for, and running task instances that emit it."""
    shared = await world.asset("shared")
    for dag_id in ("c1", "c2"):
        await world.dag(dag_id)
        await world.scheduled_by(dag_id, shared)
    await world.dag("d")
    await world.run("d")
    return [await world.running("d", map_index=n) for n in range(tasks)]


def emitted(n: int, **more: Any) -> dict[str, Any]:
    return {"dest_asset_key": {"name": "shared", "uri": ASSET["uri"]}, "extra": {"n": n}, **more}


def success(outlet: dict[str, Any], *events: dict[str, Any]) -> dict[str, Any]:
    return {"state": "success", "end_date": END, "task_outlets": [outlet], "outlet_events": list(events)}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["of an asset", "through an alias", "new assets through an alias"])
async def test_a_success_with_thousands_of_events(server: Server, world: World, way: str) -> None:
    (ti,) = await consumed(world, tasks=1)
    through = {"source_alias_name": "alias", "dest_asset_extra": {}}
    if way == "of an asset":
        body = success(ASSET, *(emitted(n) for n in range(EVENTS)))
        events = 1 if world.revision == "3.2" else EVENTS  # 3.2 records the last of an asset
    elif way == "through an alias":
        body, events = success(ALIAS, *(emitted(n, **through) for n in range(EVENTS))), EVENTS
    else:
        new = ({**emitted(n, **through), "dest_asset_key": {"name": f"n{n}", "uri": f"s3://b/{n}"}} for n in range(EVENTS))
        body, events = success(ALIAS, *new), EVENTS
    async with server.client(ti, timeout=SLOW) as client:
        answer = await client.patch(f"/task-instances/{ti}/state", json=body)
    assert answer.status_code == 204, answer.text
    assert await world.connection.fetchval("SELECT count(*) FROM asset_event") == events
    extras = "SELECT (extra->>'n')::int FROM asset_event ORDER BY id"
    if events == EVENTS:
        assert [row[0] for row in await world.connection.fetch(extras)] == list(range(EVENTS)), "in the order of the report"
    if way != "of an asset":
        assert await world.connection.fetchval("SELECT count(*) FROM asset_alias_asset_event") == EVENTS


@pytest.mark.slow
async def test_many_successes_that_emit_one_asset(server: Server, world: World) -> None:
    """As the tasks of a mapped operator do that end together."""
    tis = await consumed(world, tasks=CROWD)
    async with server.client(timeout=patience.CLIENT) as client:

        async def report(ti: Any) -> int:
            headers = {"Authorization": f"Bearer {token(ti)}"}
            answer = await client.patch(f"/task-instances/{ti}/state", json=success(ASSET), headers=headers)
            return answer.status_code

        answers = await asyncio.gather(*map(report, tis))
    assert answers == [204] * CROWD
    assert await world.connection.fetchval("SELECT count(*) FROM asset_event") == CROWD
    places = 2 * CROWD if world.revision == "3.4" else 2  # there each event has one
    assert await world.connection.fetchval("SELECT count(*) FROM asset_dag_run_queue") == places
