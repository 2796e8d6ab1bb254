"""What is earlier when runs have no logical date: such a run is when it could start, not the newest for ever."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from app.db import dag_runs
from app.db.session import Database
from app.settings import DatabaseSettings
from app.settings.database_url import async_url
from tests.servers import Server
from tests.world import EPOCH, World, ti_id


def day(number: int) -> Any:
    return EPOCH + timedelta(days=number)


async def run(world: World, dag_id: str, name: str, number: int, *, dated: bool, **values: Any) -> Any:
    """Write a run of that day, its task ``job`` and what that pushed: the run's own name."""
    dates = (
        {"logical_date": day(number)}
        if dated
        else dict.fromkeys(("logical_date", "data_interval_start", "data_interval_end"))
    )
    times = {"start_date": day(number), "end_date": day(number) + timedelta(hours=number)}
    await world.run(dag_id, name, run_after=day(number), **{"state": "success", **times, **dates, **values})
    ti = await world.running(dag_id, "job", name)
    await world.xcom(dag_id, "job", "return_value", name, name)
    return ti


@pytest.fixture
async def runs(world: World) -> dict[str, Any]:
    """Write runs of ``d``, every other one without a logical date; the first in the database is in the middle."""
    await world.dag("d")
    order = {"undated 2": 2, "dated 1": 1, "dated 3": 3, "undated 4": 4, "undated 0": 0, "dated 5": 5}
    return {name: await run(world, "d", name, number, dated=name.startswith("dated")) for name, number in order.items()}


async def ask(server: Server, ti: Any, path: str) -> Any:
    async with server.client(ti) as client:
        return (await client.get(path)).raise_for_status().json()


@pytest.mark.parametrize("name", ["dated 1", "undated 2", "dated 3", "undated 4", "dated 5"])
async def test_the_newest_value_is_that_of_the_asking_run(server: Server, runs: dict[str, Any], name: str) -> None:
    found = await ask(server, runs[name], f"/xcoms/d/{name}/job/return_value?include_prior_dates=true")
    assert found["value"] == name


async def test_a_prior_value_is_that_of_the_last_run_before(server: Server, world: World, runs: dict[str, Any]) -> None:
    of_run = "run_id = (SELECT run_id FROM task_instance WHERE id = $1)"
    for name in ("dated 3", "undated 4"):
        whose = "task_instance_id = $1" if world.keeps_tries else of_run
        await world.connection.execute(f"DELETE FROM {world.table('xcom')} WHERE {whose}", runs[name])
    for name in ("dated 3", "undated 4"):
        path = f"/xcoms/d/{name}/job/return_value"
        assert (await ask(server, runs[name], f"{path}?include_prior_dates=true"))["value"] == "undated 2"
        in_order = ["undated 0", "dated 1", "undated 2"]
        assert await ask(server, runs[name], f"{path}/slice?include_prior_dates=true") == in_order
        for offset in (0, 1, 2, -1, -2, -3):
            found = await ask(server, runs[name], f"{path}?include_prior_dates=true&offset={offset}")
            assert found["value"] == in_order[offset]


@pytest.mark.parametrize("dated", [True, False])
async def test_another_dags_values_are_bounded_by_the_asking_run(
    server: Server, world: World, runs: Any, dated: bool
) -> None:
    """The Task SDK names the Dag that is asked for, and the run that asks."""
    await world.dag("asking")
    asker = await run(world, "asking", "a run of its own", 3, dated=dated)
    path = "/xcoms/d/a run of its own/job/return_value"
    assert (await ask(server, asker, f"{path}?include_prior_dates=true"))["value"] == "dated 3"
    expected = ["undated 0", "dated 1", "undated 2", "dated 3"]
    assert await ask(server, asker, f"{path}/slice?include_prior_dates=true") == expected
    assert await ask(server, asker, f"{path}/slice?include_prior_dates=true&start=-2") == expected[-2:]
    assert (await ask(server, asker, f"{path}?include_prior_dates=true&offset=-1"))["value"] == "dated 3"
    async with server.client(asker) as client:
        assert (await client.get(path)).status_code == 404, "without prior dates it is that run's value alone"
        assert (await client.get(f"{path}/item/0")).status_code == 404


async def test_a_run_of_that_name_counts_before_the_asking_one(server: Server, world: World, runs: dict[str, Any]) -> None:
    await world.dag("asking")
    asker = await run(world, "asking", "dated 1", 5, dated=True)
    assert (await ask(server, asker, "/xcoms/d/dated 1/job/return_value?include_prior_dates=true"))["value"] == "dated 1"


async def test_nobody_that_we_know_asks_for_a_run_that_is_not(server: Server, runs: dict[str, Any]) -> None:
    async with server.client(ti_id("nobody")) as client:
        answer = await client.get("/xcoms/d/nope/job/return_value?include_prior_dates=true")
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("asking", "previous"),
    [("undated 0", None), ("dated 1", "undated 0"), ("undated 2", "dated 1"), ("undated 4", "dated 3")],
)
async def test_the_previous_task_instance_is_before_the_asking_one(
    server: Server, runs: dict[str, Any], asking: str, previous: str | None
) -> None:
    found = await ask(server, runs[asking], "/task-instances/previous/d/job")
    assert (found and found["run_id"]) == previous


async def test_of_two_runs_of_one_moment_the_later_made_is_later(server: Server, world: World) -> None:
    await world.dag("d")
    first, second = [await run(world, "d", name, 1, dated=False) for name in ("first", "second")]
    assert (await ask(server, second, "/task-instances/previous/d/job"))["run_id"] == "first"
    assert await ask(server, first, "/task-instances/previous/d/job") is None


async def test_before_a_date_are_runs_that_have_one(server: Server, runs: dict[str, Any]) -> None:
    """A data interval follows another; runs without one, in between, are none of them."""
    found = await ask(server, runs["dated 5"], f"/task-instances/previous/d/job?logical_date={day(5):%Y-%m-%dT00:00:00Z}")
    assert found["run_id"] == "dated 3"
    found = await ask(server, runs["dated 5"], f"/dag-runs/previous?dag_id=d&logical_date={day(5):%Y-%m-%dT00:00:00Z}")
    assert found["run_id"] == "dated 3"


@pytest.mark.parametrize(
    ("asking", "started"), [("dated 5", day(3)), ("undated 4", day(3)), ("undated 2", day(1)), ("undated 0", None)]
)
async def test_the_last_success_before_a_run(server: Server, runs: dict[str, Any], asking: str, started: Any) -> None:
    found = await ask(server, runs[asking], f"/task-instances/{runs[asking]}/previous-successful-dagrun")
    assert found["start_date"] == (started and f"{started:%Y-%m-%dT%H:%M:%SZ}")


async def test_the_average_is_of_the_last_runs(server: Server, runs: dict[str, Any]) -> None:
    """The deadlines of triggered runs count from it; each run here took as many hours as its day's number."""
    settings = DatabaseSettings(url=async_url(server.database_url, setting="url"))
    database = Database(settings)
    async with database.autocommit() as session:
        average = await dag_runs.average_runtime(session, dag_id="d", of=3, at_least=3, only_successes=True)
    await database.close()
    assert average == timedelta(hours=(5 + 4 + 3) / 3)


async def test_events_of_one_moment_come_in_the_order_they_were_recorded(server: Server, world: World) -> None:
    ti = await world.one_running("d")
    asset = await world.asset("a")
    for number in range(4):
        await world.insert("asset_event", asset_id=asset, extra={"n": number}, source_map_index=-1, timestamp=EPOCH)
    path = "/asset-events/by-asset?name=a&uri="
    numbers = {
        way: [e["extra"]["n"] for e in (await ask(server, ti, path + way))["asset_events"]]
        for way in ("", "&ascending=false")
    }
    assert numbers == {"": [0, 1, 2, 3], "&ascending=false": [3, 2, 1, 0]}
