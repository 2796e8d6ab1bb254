"""``task_scope = own``: what a task's token opens beside its own task instance, rule by rule, and the same in Airflow's scope."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from tests.api.test_bad_input import OPERATIONS, PUBLIC, VALID
from tests.conftest import empty
from tests.servers import Server, our_server, token
from tests.world import EPOCH, World, ti_id

OWN = "/xcoms/d/manual__1/job"
# What is asked, whether scope ``own`` lets the task ``d / manual__1 / job`` do it, and what Airflow's scope answers.
RULES: list[tuple[str, str, str, Any, bool, int]] = [
    ("writes its own XCom", "POST", f"{OWN}/k", 1, True, 201),
    ("writes the XCom of another of its map indexes", "POST", f"{OWN}/k?map_index=3", 1, False, 201),
    ("writes another task's XCom", "POST", "/xcoms/d/manual__1/next/k", 1, False, 201),
    ("writes its task's XCom of another run", "POST", "/xcoms/d/earlier/job/k", 1, False, 201),
    ("writes another Dag's XCom", "POST", "/xcoms/other/manual__1/job/k", 1, False, 201),
    ("deletes its own XCom", "DELETE", f"{OWN}/mine", None, True, 200),
    ("deletes another task's XCom", "DELETE", "/xcoms/d/manual__1/next/theirs", None, False, 200),
    ("deletes another Dag's XCom", "DELETE", "/xcoms/other/manual__1/job/theirs", None, False, 200),
    ("reads its own XCom", "GET", f"{OWN}/mine", None, True, 200),
    ("reads another task's XCom", "GET", "/xcoms/d/manual__1/next/theirs", None, True, 200),
    ("reads an earlier run's XCom", "GET", "/xcoms/d/earlier/job/old", None, True, 200),
    ("reads prior dates", "GET", f"{OWN}/old?include_prior_dates=true", None, True, 200),
    ("reads another Dag's XCom", "GET", "/xcoms/other/manual__1/job/theirs", None, False, 200),
    ("reads another Dag's prior dates", "GET", "/xcoms/other/manual__1/job/theirs?include_prior_dates=true", None, False, 200),
    ("reads another Dag's XComs by index", "GET", "/xcoms/other/manual__1/job/theirs/item/0", None, False, 200),
    ("reads another Dag's XComs by slice", "GET", "/xcoms/other/manual__1/job/theirs/slice", None, False, 200),
    ("counts another Dag's XComs", "HEAD", "/xcoms/other/manual__1/job/theirs", None, False, 200),
    ("reads a variable", "GET", "/variables/v", None, True, 200),
    ("lists variables", "GET", "/variables/keys", None, True, 200),
    ("writes a variable", "PUT", "/variables/v", {"val": "x"}, False, 201),
    ("deletes a variable", "DELETE", "/variables/v", None, False, 204),
    ("reads a connection", "GET", "/connections/c", None, True, 200),
    ("beats", "PUT", "/task-instances/{ti}/heartbeat", {"hostname": "worker", "pid": 42}, True, 204),
    ("beats for another", "PUT", "/task-instances/{next}/heartbeat", {"hostname": "worker", "pid": 42}, False, 403),
    ("renders its own fields", "PUT", "/task-instances/{ti}/rtif", {"a": "b"}, True, 201),
    ("renders another's fields", "PUT", "/task-instances/{next}/rtif", {"a": "b"}, False, 403),
    ("ends itself", "PATCH", "/task-instances/{ti}/state", {"state": "failed", "end_date": "2026-01-01T01:00:00Z"}, True, 204),
    ("ends another", "PATCH", "/task-instances/{next}/state", {"state": "failed", "end_date": "2026-01-01T01:00:00Z"}, False, 403),
    ("asks people", "POST", "/hitlDetails/{ti}", {"ti_id": "{ti}", "options": ["a"], "subject": "s"}, True, 201),
    ("asks people for another", "POST", "/hitlDetails/{next}", {"ti_id": "{next}", "options": ["a"], "subject": "s"}, False, 403),
    ("keeps state", "PUT", "/store/ti/{ti}/k", {"value": 1}, True, 204),
    ("keeps state for another", "PUT", "/store/ti/{next}/k", {"value": 1}, False, 403),
]  # fmt: skip


@pytest.fixture(scope="module")
def narrow(make_database: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    setting = {"AIRFLOW__EXECUTION_API_SERVICE__TASK_SCOPE": "own"}
    with our_server(make_database("3.3"), tmp_path_factory.mktemp("narrow"), **setting) as running:
        yield running


@pytest.fixture(params=["own", "airflow"])
async def scoped(
    request: pytest.FixtureRequest, narrow: Server, attacked: Server
) -> AsyncIterator[tuple[str, Server, World]]:
    server = narrow if request.param == "own" else attacked
    connection = await asyncpg.connect(server.database_url)
    world = World(connection, "3.3")
    await empty(connection)
    await world.one_running("d")
    await world.running("d", "next")
    await world.dag("other")
    await world.run("d", "earlier", logical_date=EPOCH - timedelta(days=1))
    await world.run("other")
    await world.ti("d", run_id="earlier")
    await world.ti("other")
    await world.running("d", map_index=3)
    await world.xcom("d", "job", "mine", 1)
    await world.xcom("d", "next", "theirs", 1)
    await world.xcom("d", "job", "old", 1, "earlier")
    await world.xcom("other", "job", "theirs", 1)
    await connection.execute("INSERT INTO variable (key, val, is_encrypted) VALUES ('v', 'x', false)")
    await connection.execute(
        "INSERT INTO connection (conn_id, conn_type, is_encrypted, is_extra_encrypted) VALUES ('c', 'http', false, false)"
    )
    yield request.param, server, world
    await connection.close()


async def asked(server: Server, ti: object, method: str, path: str, body: Any, other: object) -> httpx.Response:
    def named(text: str) -> str:
        return text.replace("{ti}", str(ti)).replace("{next}", str(other))

    async with server.client(ti) as client:
        content = {} if body is None else {"json": json.loads(named(json.dumps(body)))}
        return await client.request(method, named(path), **content)


@pytest.mark.parametrize(("method", "path", "body", "allowed", "status"), [r[1:] for r in RULES], ids=[r[0] for r in RULES])
async def test_a_task(
    scoped: tuple[str, Server, World], method: str, path: str, body: Any, allowed: bool, status: int
) -> None:
    scope, server, world = scoped
    ti, other = ti_id("d/manual__1/job/-1"), ti_id("d/manual__1/next/-1")
    tables = ("xcom", "variable", "hitl_detail", "task_instance", "task_state_store")
    query = " UNION ALL ".join(f"SELECT to_jsonb(t)::text AS row FROM {table} t" for table in tables)
    before = await world.connection.fetch(query)
    answer = await asked(server, ti, method, path, body, other)
    assert answer.status_code == (status if allowed or scope == "airflow" else 403), answer.text
    if answer.status_code == 403:
        assert await world.connection.fetch(query) == before, "what is refused writes nothing"
        if status != 403:
            line = [json.loads(text) for text in server.log.read_text().splitlines() if "refused by task_scope" in text][-1]
            assert (line["method"], line["task_instance"], line["level"]) == (method, str(ti), "warning")
            assert path.partition("?")[0] in line["path"]


async def test_a_token_of_a_task_that_is_not_there(scoped: tuple[str, Server, World]) -> None:
    """A token that verifies and names nobody (Airflow #60431): in scope ``own`` it opens nothing that is anyone's."""
    scope, server, _ = scoped
    for method, path, status in (
        ("GET", f"{OWN}/mine", 200), ("POST", f"{OWN}/mine", 201), ("GET", "/variables/v", 200), ("GET", "/connections/c", 200)
    ):  # fmt: skip
        answer = await asked(server, ti_id("nobody"), method, path, 1 if method == "POST" else None, None)
        assert answer.status_code == (403 if scope == "own" else status)


async def test_no_other_operation_is_narrowed(scoped: tuple[str, Server, World]) -> None:
    """Who asks for what the rules do not name hears the same in both scopes: no 403."""
    _, server, _ = scoped
    ruled = ("/xcoms", "/variables", "/connections/", "/connection-tests")
    for operation in OPERATIONS:
        if operation.name in PUBLIC or operation.path.startswith(ruled):
            continue
        params, body = VALID[operation.name]
        headers = {"Authorization": f"Bearer {token(ti_id('d/manual__1/job/-1'))}"}
        async with server.client(headers=headers) as client:
            content = {} if body is None else {"json": body}
            url = operation.url(str(ti_id("d/manual__1/job/-1")))
            answer = await client.request(operation.method, url, params=params, **content)
        assert answer.status_code not in (401, 403), operation.name
