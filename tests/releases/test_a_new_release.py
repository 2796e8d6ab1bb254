"""A release that nobody knows is put in by one module, and is served: started, tried again, its XComs read.

Real server, real PostgreSQL, HTTP. What Airflow's next release needs of this seam is what ``invented.py`` says.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import uvicorn
from fastapi import Depends, Request

from app import releases
from app.commands.embedded import EmbeddedPostgres, free_port
from app.main import create_app
from app.routes.operations import Operations
from app.server.auth import execution_token
from app.settings import DatabaseSettings, Settings, TokenSettings
from app.settings.database_url import async_url
from app.tasks import service
from app.versions import building
from tests.conftest import empty
from tests.releases.invented import DATE, INVENTED, NEWEST
from tests.servers import FERNET_KEY, SECRET, token
from tests.world import EPOCH, World

APP = Path(__file__).parent.parent.parent / "app"
END = {"end_date": "2026-01-01T00:05:00Z"}
START = {"state": "running", "hostname": "worker", "unixname": "airflow", "pid": 42, "start_date": "2026-01-01T00:00:20Z"}

router = Operations()


@router.get("/date", dependencies=[Depends(execution_token)])
async def get_date(request: Request) -> Any:
    """Answer what a handler sees of the date."""
    return {"date": service.api_date(request)}


@dataclass
class Invented:
    """A server of the invented release, and the database behind it."""

    base_url: str
    connection: asyncpg.Connection
    world: World

    async def ask(self, ti: object, method: str, path: str, body: Any = None, date: str | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token(ti)}"} | ({"Airflow-API-Version": date} if date else {})
        async with httpx.AsyncClient(base_url=self.base_url, headers=headers, verify=False) as client:
            return await client.request(method, path, **({} if body is None else {"json": body}))

    async def tries(self, task_id: str = "job") -> list[tuple[Any, ...]]:
        query = "SELECT id, try_number, state, working_set, archived_reason FROM task_instance WHERE task_id = $1"
        return [tuple(row) for row in await self.connection.fetch(f"{query} ORDER BY try_number", task_id)]


@pytest.fixture(scope="module")
def url(make_database: Callable[[str], str], postgres: EmbeddedPostgres) -> str:
    url = make_database("3.4")
    said = f"UPDATE alembic_version SET version_num = '{INVENTED.alembic_version}'"
    postgres.run("psql", "-qX", "-v", "ON_ERROR_STOP=1", "-d", url.rpartition("/")[2], "-c", said)
    return url


@pytest.fixture
async def invented(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Invented]:
    """Serve it; the first two lines are all that the service is told."""
    monkeypatch.setattr(releases, "REVISIONS", [*releases.REVISIONS, INVENTED])
    monkeypatch.setattr(building, "VERSIONS", (DATE, *building.VERSIONS))
    monkeypatch.setattr(building, "ROUTERS", [*building.ROUTERS, ("/invented", "Invented", router)])
    database = DatabaseSettings(url=async_url(url, setting="url"))
    application = create_app(Settings(database=database, tokens=TokenSettings(secret=SECRET), fernet_keys=(FERNET_KEY,)))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(application, host="127.0.0.1", port=port, log_config=None, ws="none"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
        assert not serving.done(), serving.exception()
    connection = await asyncpg.connect(url)
    await empty(connection)
    yield Invented(f"http://127.0.0.1:{port}/execution", connection, World(connection, "3.4"))
    await connection.close()
    server.should_exit = True
    await serving


async def test_a_task_runs_and_is_tried_again(invented: Invented) -> None:
    first = await invented.world.one("d", max_tries=2)
    context = await invented.ask(first, "PATCH", f"/task-instances/{first}/run", START)
    assert context.status_code == 200
    assert (context.json()["dag_run"]["run_id"], context.json()["should_retry"]) == ("manual__1", True)
    beat = {"hostname": "worker", "pid": 42}
    assert (await invented.ask(first, "PUT", f"/task-instances/{first}/heartbeat", beat)).status_code == 204
    retry = {"state": "up_for_retry", **END}
    assert (await invented.ask(first, "PATCH", f"/task-instances/{first}/state", retry)).status_code == 204
    before, after = await invented.tries()
    assert before == (first, 1, "failed", None, "retry")
    assert after[1:] == (2, "up_for_retry", True, None)
    again = await invented.ask(first, "PATCH", f"/task-instances/{first}/state", retry)
    assert again.status_code == 200, "the same report again is a replay"
    assert (await invented.ask(first, "PUT", f"/task-instances/{first}/heartbeat", beat)).status_code == 410
    assert (await invented.ask(first, "PATCH", f"/task-instances/{first}/run", START)).status_code == 410
    older = await invented.ask(first, "PATCH", f"/task-instances/{first}/run", START, date="2026-06-30")
    assert older.status_code == 404
    second = after[0]
    await invented.connection.execute("UPDATE task_instance SET state = 'queued' WHERE id = $1", second)
    assert (await invented.ask(second, "PATCH", f"/task-instances/{second}/run", START)).status_code == 200
    success = {"state": "success", **END}
    assert (await invented.ask(second, "PATCH", f"/task-instances/{second}/state", success)).status_code == 204
    assert [(each[2], each[3]) for each in await invented.tries()] == [("failed", None), ("success", True)]
    count = await invented.ask(second, "GET", "/task-instances/count?dag_id=d")
    assert count.json() == 1, "an archived try is none of the Dag's task instances"
    events = await invented.connection.fetch("SELECT event, try_number FROM log ORDER BY id")
    assert [tuple(row) for row in events] == [("running", 1), ("up_for_retry", 1), ("running", 2), ("success", 2)]


async def test_xcoms_belong_to_tries(invented: Invented) -> None:
    first = await invented.world.one_running("d", max_tries=1)
    path = "/xcoms/d/manual__1/job/return_value"
    assert (await invented.ask(first, "POST", f"{path}?mapped_length=2", [1, 2])).status_code == 201
    assert (await invented.ask(first, "GET", path)).json()["value"] == [1, 2]
    assert (await invented.ask(first, "GET", f"{path}/slice")).json() == [[1, 2]]
    assert (await invented.ask(first, "HEAD", path)).headers["content-range"] == "map_indexes 1"
    retry = {"state": "up_for_retry", **END}
    assert (await invented.ask(first, "PATCH", f"/task-instances/{first}/state", retry)).status_code == 204
    assert (await invented.ask(first, "GET", path)).status_code == 410, "what a failed try pushed, nobody sees"
    assert (await invented.ask(first, "POST", path, "late")).status_code == 410
    late = await invented.ask(first, "POST", path, "late", date="2026-06-30")
    assert late.status_code == 201, "and at an older date it may push on"
    second = (await invented.tries())[1][0]
    assert (await invented.ask(second, "POST", path, "anew")).status_code == 201
    assert (await invented.ask(second, "GET", path)).json()["value"] == "anew"
    assert (await invented.ask(second, "DELETE", path)).status_code == 200
    stored = await invented.connection.fetch("SELECT task_instance_id, value FROM xcom_v2")
    assert [tuple(row) for row in stored] == [(first, '"late"')]


async def test_what_was_written_before_is_found_in_the_other_part(invented: Invented) -> None:
    ti = await invented.world.one_running("d")
    owned = {"dag_id": "d", "task_id": "job", "run_id": "manual__1", "map_index": -1, "task_instance_id": ti}
    await invented.world.insert("legacy_task_data_owner", **owned)
    await invented.world.insert(
        "xcom_v1", dag_run_id=1, dag_id="d", run_id="manual__1", task_id="job", key="old", value='"kept"', timestamp=EPOCH
    )
    path = "/xcoms/d/manual__1/job/old"
    assert (await invented.ask(ti, "GET", path)).json()["value"] == "kept"
    assert (await invented.ask(ti, "POST", path, "new")).status_code == 201
    assert (await invented.ask(ti, "GET", path)).json()["value"] == "new"
    assert (await invented.ask(ti, "DELETE", path)).status_code == 200
    assert (await invented.ask(ti, "GET", path)).status_code == 404


async def test_what_the_contract_calls_map_index(invented: Invented) -> None:
    """Of a region that is the task's own it is the place in it; of another's, there is none."""
    own, loop = uuid.uuid4(), uuid.uuid4()
    await invented.world.dag("d")
    await invented.world.run("d")
    for region, node in ((own, "mapped"), (loop, "a loop")):
        place = {"dag_id": "d", "run_id": "manual__1", "node_id": node}
        await invented.world.insert(
            "dynamic_region", id=region, **place, family_root_id=region, path=region.bytes, created_at=EPOCH
        )
    mapped = await invented.world.running("d", "mapped", region_id=own, map_index=3)
    await invented.world.running("d", "looped", region_id=loop, map_index=7)
    states = await invented.ask(mapped, "GET", "/task-instances/states?dag_id=d")
    assert states.json()["task_states"]["manual__1"] == {"mapped_3": "running", "looped": "running"}
    count = await invented.ask(mapped, "GET", "/task-instances/count?dag_id=d&map_index=3")
    assert count.json() == 1
    assert (await invented.ask(mapped, "PUT", f"/task-instances/{mapped}/rtif", {"a": "b"})).status_code == 201
    assert (await invented.ask(mapped, "PUT", f"/store/ti/{mapped}/k", {"value": 1})).status_code == 204
    assert (await invented.ask(mapped, "GET", f"/store/ti/{mapped}/k")).json() == {"value": 1}


async def test_clearing_begins_another_try_of_each(invented: Invented) -> None:
    ended = await invented.world.one_running("d", state="success")
    await invented.world.running("d", "still")
    await invented.world.serialized("d", [{"__var": {"task_id": name}, "__type": "operator"} for name in ("job", "still")])
    answer = await invented.ask(ended, "POST", "/dag-runs/d/manual__1/clear")
    assert answer.status_code == 204, answer.text
    before, after = await invented.tries()
    assert before[1:] == (1, "success", None, "retry")
    assert after[1:] == (2, None, True, None)
    assert [each[1:3] for each in await invented.tries("still")] == [(1, "restarting")], "it ends first"


async def test_models_of_a_date_differ_by_server(invented: Invented) -> None:
    """The date decides since this server what a retry may say; before, it was the server."""
    ti = await invented.world.one_running("d", max_tries=2)
    retry = {"state": "up_for_retry", **END, "retry_reason": "because"}
    path = f"/task-instances/{ti}/state"
    assert (await invented.ask(ti, "PATCH", path, retry, date="2026-04-06")).status_code == 422
    assert (await invented.ask(ti, "PATCH", path, retry, date="2026-06-30")).status_code == 204


async def test_its_own_date(invented: Invented) -> None:
    ti = await invented.world.one("d")
    path = f"/task-instances/{ti}/run"
    newest = await invented.ask(ti, "PATCH", path, START)
    assert newest.headers["airflow-api-version"] == NEWEST
    assert "should_retry" in newest.json()
    older = await invented.ask(ti, "PATCH", path, START, date="2026-06-30")
    assert "should_retry" not in older.json()
    assert "note" in older.json()["dag_run"], "what came with the server is seen at every date"


@pytest.mark.parametrize(("asked", "served"), [(None, NEWEST), ("2026-07-01", "2026-06-30"), ("2025-04-28", "2025-04-28")])
async def test_a_handler_sees_the_date_that_is_served(invented: Invented, asked: str | None, served: str) -> None:
    answer = await invented.ask(uuid.uuid4(), "GET", "/invented/date", date=asked)
    assert answer.json() == {"date": served}


def test_nothing_else_has_to_know() -> None:
    """How tries are stored is named by the module of who stores them so, and nowhere else in the service."""
    words = re.compile(r"\b(working_set|archived_reason|xcom_v1|rtif_v[12]|legacy_task)\w*")
    assert {path.parent.name for path in APP.rglob("*.py") if words.search(path.read_text())} == {"airflow_3_4"}
