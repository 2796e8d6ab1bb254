"""Multi-team mode: what belongs to a team is for its tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import pytest

from tests.servers import Server, our_server
from tests.world import World


@pytest.fixture(scope="module")
def multi_team(
    revision: str, make_database: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp(f"teams-{revision}")
    with our_server(make_database(revision), folder, AIRFLOW__CORE__MULTI_TEAM="True") as server:
        yield server


@pytest.fixture(scope="module")
async def tasks(multi_team: Server, revision: str) -> dict[str, Any]:
    """Write a Dag each for team red, team blue and nobody, and return their task instances by team."""
    connection = await asyncpg.connect(multi_team.database_url)
    world = World(connection, revision)
    found = {}
    for name in ("red", "blue", "nobody"):
        team = None if name == "nobody" else name
        await world.dag(name, bundle_name=f"bundle-{name}", team=team)
        await world.run(name)
        found[name] = await world.running(name)
        await world.xcom(name, "job", "k", name)
        await world.insert("variable", key=f"of_{name}", val=name, is_encrypted=False, team_name=team)
        await world.insert(
            "connection", conn_id=f"of_{name}", conn_type="x", is_encrypted=False, is_extra_encrypted=False, team_name=team
        )
    await connection.close()
    return found


@pytest.mark.parametrize("kind", ["variables", "connections"])
async def test_secrets_are_for_their_team_and_global_ones_for_all(
    multi_team: Server, tasks: dict[str, Any], kind: str
) -> None:
    async with multi_team.client(tasks["red"]) as client:
        statuses = {name: (await client.get(f"/{kind}/of_{name}")).status_code for name in ("red", "blue", "nobody")}
    assert statuses == {"red": 200, "blue": 404, "nobody": 200}


async def test_a_variable_belongs_to_the_team_of_the_task_that_made_it(multi_team: Server, tasks: dict[str, Any]) -> None:
    async with multi_team.client(tasks["red"]) as red, multi_team.client(tasks["blue"]) as blue:
        assert (await red.put("/variables/made", json={"val": "x"})).status_code == 201
        assert (await red.get("/variables/made")).status_code == 200
        assert (await blue.get("/variables/made")).status_code == 404
        assert (await blue.delete("/variables/made")).status_code == 204
        assert (await red.get("/variables/made")).status_code == 200, "another team deletes nothing"


async def test_xcoms_are_read_by_their_team_and_written_by_it_alone(
    multi_team: Server, tasks: dict[str, Any], revision: str
) -> None:
    async with multi_team.client(tasks["red"]) as client:
        read = {name: (await client.get(f"/xcoms/{name}/manual__1/job/k")).status_code for name in tasks}
        written = {name: (await client.post(f"/xcoms/{name}/manual__1/job/n", json=1)).status_code for name in tasks}
    if revision == "3.2":
        assert set(read.values()) == {200}
        assert set(written.values()) == {201}
    else:
        assert read == {"red": 200, "blue": 403, "nobody": 200}
        assert written == {"red": 201, "blue": 403, "nobody": 403}


async def test_a_run_tells_its_team(multi_team: Server, tasks: dict[str, Any], revision: str) -> None:
    start = {
        "state": "running",
        "hostname": "worker",
        "unixname": "airflow",
        "pid": 42,
        "start_date": "2026-01-01T00:00:00Z",
    }
    async with multi_team.client(tasks["red"]) as client:
        run = (await client.patch(f"/task-instances/{tasks['red']}/run", json=start)).json()["dag_run"]
    assert run.get("team_name", "untold") == ("untold" if revision == "3.2" else "red")


async def test_a_trigger_belongs_to_the_team_of_its_task(multi_team: Server, tasks: dict[str, Any], revision: str) -> None:
    deferred = {"state": "deferred", "classpath": "T", "next_method": "m"}
    async with multi_team.client(tasks["blue"]) as client:
        assert (await client.patch(f"/task-instances/{tasks['blue']}/state", json=deferred)).status_code == 204
    connection = await asyncpg.connect(multi_team.database_url)
    row = await connection.fetchrow("SELECT to_jsonb(t)->>'team_name' AS team FROM trigger t")
    await connection.close()
    assert row["team"] == (None if revision == "3.2" else "blue")
