"""Bad input on every operation: a 4xx that says what was wrong, and no row changed.

The operations come from the router, so that a new one is in this test or fails it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from app.routes import ROUTERS
from tests.conftest import empty
from tests.contract.cases import SETUPS
from tests.servers import Server, token
from tests.world import World

START = {"state": "running", "hostname": "h", "unixname": "u", "pid": 1, "start_date": "2026-01-01T00:00:00Z"}
# A valid request of each operation: path parameters, query and body.
VALID: dict[str, tuple[dict[str, str], Any]] = {
    "ti_heartbeat": ({}, {"hostname": "worker", "pid": 42}),
    "ti_run": ({}, START),
    "ti_update_state": ({}, {"state": "success", "end_date": "2026-01-01T00:05:00Z"}),
    "ti_put_rtif": ({}, {"a": 1}),
    "ti_patch_rendered_map_index": ({}, "label"),
    "ti_skip_downstream": ({}, {"tasks": ["t"]}),
    "get_previous_successful_dagrun": ({}, None),
    "validate_inlets_and_outlets": ({}, None),
    "get_task_instance_count": ({"dag_id": "d"}, None),
    "get_task_instance_states": ({"dag_id": "d"}, None),
    "get_task_instance_breadcrumbs": ({"dag_id": "d", "run_id": "manual__1"}, None),
    "get_previous_task_instance": ({}, None),
    "get_mapped_xcom_by_index": ({}, None),
    "get_mapped_xcom_by_slice": ({}, None),
    "head_xcom": ({}, None),
    "get_xcom": ({}, None),
    "set_xcom": ({}, {"a": 1}),
    "delete_xcom": ({}, None),
    "get_variable": ({}, None),
    "put_variable": ({}, {"val": "x"}),
    "delete_variable": ({}, None),
    "get_connection": ({}, None),
    "get_dr_count": ({"dag_id": "d"}, None),
    "get_previous_dagrun": ({"dag_id": "d", "logical_date": "2026-01-01T00:00:00Z"}, None),
    "get_dag_run": ({}, None),
    "get_dagrun_state": ({}, None),
    "get_dag": ({}, None),
    "get_start_date": ({}, None),
    "health": ({}, None),
    "ping": ({}, None),
}
ANY_JSON = {"set_xcom"}  # its body is a value of any kind
ANY_OBJECT = {"ti_put_rtif"}
ANY_TEXT = {"ti_patch_rendered_map_index"}
PUBLIC = {"health", "ping"}


@dataclass(frozen=True)
class Operation:
    name: str
    method: str
    path: str

    @property
    def takes_body(self) -> bool:
        return VALID[self.name][1] is not None

    def url(self, ti: str, **replaced: str) -> str:
        known = {"task_instance_id": ti, "dag_id": "d", "run_id": "manual__1", "task_id": "job", "offset": "0"}
        values = {**known, "key": "return_value", "variable_key": "v", "connection_id": "c", **replaced}
        return self.path.replace(":path", "").format(**values)


def operations() -> Iterator[Operation]:
    for prefix, _, router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            for method in route.methods or ():
                yield Operation(route.name, method, prefix + route.path)


OPERATIONS = list(operations())
WITH_BODY = [o for o in OPERATIONS if o.takes_body]


def test_every_operation_is_listed() -> None:
    assert {operation.name for operation in OPERATIONS} == VALID.keys()


class Asking:
    """One operation on a database with a running task instance, whose rows must not change."""

    def __init__(self, server: Server, world: World, operation: Operation, ti: str) -> None:
        self.server, self.world, self.operation, self.ti = server, world, operation, ti

    async def ask(self, path: str | None = None, **options: Any) -> httpx.Response:
        params, body = VALID[self.operation.name]
        if self.operation.takes_body and not {"content", "json"} & options.keys():
            options["json"] = body
        if "content" in options:
            options.setdefault("headers", {"Content-Type": "application/json"})
        options.setdefault("params", params)
        async with self.server.client(self.ti, timeout=30) as client:
            return await client.request(self.operation.method, path or self.operation.url(self.ti), **options)

    async def refused(self, answer: httpx.Response) -> None:
        """Assert that nothing was written and the answer says what was wrong."""
        assert 400 <= answer.status_code < 500, answer.text
        if self.operation.method != "HEAD":
            assert answer.headers["content-type"] == "application/json"
            assert answer.json()["detail"]
        assert await self.rows() == self.before

    async def rows(self) -> list[str]:
        tables = ("task_instance", "task_instance_history", "xcom", "variable", "log", "rendered_task_instance_fields")
        query = " UNION ALL ".join(f"SELECT to_jsonb(t)::text AS row FROM {table} t" for table in tables)
        return sorted(record["row"] for record in await self.world.connection.fetch(query))

    async def __aenter__(self) -> Asking:
        self.before = await self.rows()
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


async def asking(server: Server, world: World, operation: Operation) -> Asking:
    ti = await SETUPS["queued" if operation.name == "ti_run" else "running"](world)
    return Asking(server, world, operation, str(ti))


async def test_the_valid_requests_are_valid(server: Server, world: World) -> None:
    statuses = {}
    for operation in OPERATIONS:
        await empty(world.connection)
        statuses[operation.name] = (await (await asking(server, world, operation)).ask()).status_code
    missing = {"get_mapped_xcom_by_index", "get_xcom", "get_variable", "get_connection"}
    assert {name for name, status in statuses.items() if status >= 400} == missing


@pytest.mark.parametrize("operation", WITH_BODY, ids=lambda o: o.name)
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[NaN", b"{]" * 100], ids=["cut", "no UTF-8", "NaN", "nonsense"])
async def test_malformed_json(server: Server, world: World, operation: Operation, content: bytes) -> None:
    async with await asking(server, world, operation) as case:
        await case.refused(await case.ask(content=content))


@pytest.mark.parametrize("operation", WITH_BODY, ids=lambda o: o.name)
async def test_deeply_nested_json(server: Server, world: World, operation: Operation) -> None:
    async with await asking(server, world, operation) as case:
        await case.refused(await case.ask(content=b"[" * 200_000 + b"]" * 200_000))


@pytest.mark.parametrize("operation", [o for o in WITH_BODY if o.name not in ANY_JSON], ids=lambda o: o.name)
@pytest.mark.parametrize("body", [[], 5, "text", True, [{}]], ids=str)
async def test_wrong_type_of_body(server: Server, world: World, operation: Operation, body: Any) -> None:
    if operation.name in ANY_TEXT and isinstance(body, str):
        body = {"not": "a text"}
    async with await asking(server, world, operation) as case:
        await case.refused(await case.ask(json=body))


STRICT = [o for o in WITH_BODY if isinstance(VALID[o.name][1], dict) and o.name not in ANY_JSON | ANY_OBJECT]


@pytest.mark.parametrize("operation", STRICT, ids=lambda o: o.name)
async def test_unknown_and_missing_and_mistyped_fields(server: Server, world: World, operation: Operation) -> None:
    body = VALID[operation.name][1]
    async with await asking(server, world, operation) as case:
        await case.refused(await case.ask(json={**body, "surplus": 1}))
        for name in body:
            await case.refused(await case.ask(json={k: v for k, v in body.items() if k != name}))
            await case.refused(await case.ask(json={**body, name: {"wrong": ["type"]}}))


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if "{task_instance_id}" in o.path], ids=lambda o: o.name)
@pytest.mark.parametrize("bad", ["x", "1", "00000000-0000-0000-0000", "%F0%28%8C%28", "a" * 5000])
async def test_ids_that_are_no_uuids(server: Server, world: World, operation: Operation, bad: str) -> None:
    async with await asking(server, world, operation) as case:
        await case.refused(await case.ask(operation.url(bad)))


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if "{" in o.path], ids=lambda o: o.name)
async def test_nul_bytes(server: Server, world: World, operation: Operation) -> None:
    async with await asking(server, world, operation) as case:
        for name in ("dag_id", "run_id", "task_id", "key", "variable_key", "connection_id", "task_instance_id"):
            if f"{{{name}" in operation.path:
                await case.refused(await case.ask(operation.url(case.ti, **{name: "a%00b"})))
        await case.refused(await case.ask(params={"anything": "a\0b"}))


@pytest.mark.parametrize("operation", STRICT, ids=lambda o: o.name)
async def test_nul_in_texts(server: Server, world: World, operation: Operation) -> None:
    body = VALID[operation.name][1]
    async with await asking(server, world, operation) as case:
        for name, value in body.items():
            if isinstance(value, str) and operation.name not in ("ti_heartbeat", "put_variable"):  # compared; encrypted
                await case.refused(await case.ask(json={**body, name: value + "\0"}))


@pytest.mark.parametrize(
    "operation", [o for o in OPERATIONS if o.name in ("set_xcom", "put_variable")], ids=lambda o: o.name
)
async def test_keys_longer_than_their_column(server: Server, world: World, operation: Operation) -> None:
    async with await asking(server, world, operation) as case:
        for length in (513, 5000):
            await case.refused(await case.ask(operation.url(case.ti, key="k" * length, variable_key="k" * length)))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)
async def test_bodies_of_10_mb(server: Server, world: World, operation: Operation) -> None:
    """Ten megabytes that mean nothing are refused everywhere; as an XCom they would be data, if they were JSON."""
    async with await asking(server, world, operation) as case:
        await case.refused(await case.ask(content=b"x" * 10_000_000))


@pytest.mark.parametrize("operation", WITH_BODY, ids=lambda o: o.name)
async def test_chunked_bodies_of_10_mb(server: Server, world: World, operation: Operation) -> None:
    async def chunks() -> Any:
        for _ in range(100):
            yield b"x" * 100_000

    async with await asking(server, world, operation) as case:
        await case.refused(await case.ask(content=chunks()))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)
async def test_tokens(server: Server, world: World, operation: Operation) -> None:
    """Every operation but health asks for a token, and those of a task instance for its own."""
    async with await asking(server, world, operation) as case:
        for headers, status in (
            ({}, 401),
            ({"Authorization": "Basic eA=="}, 401),
            ({"Authorization": "Bearer x.y.z"}, 403),
            ({"Authorization": f"Bearer {token(case.ti, age=3600)}"}, 403),
            ({"Authorization": f"Bearer {token(case.ti, aud='another')}"}, 403),
            ({"Authorization": f"Bearer {token(case.ti, secret='s' * 64)}"}, 403),
            ({"Authorization": f"Bearer {token('not-a-uuid')}"}, 403),
        ):
            async with server.client() as client:
                body = {"content": json.dumps(VALID[operation.name][1])} if operation.takes_body else {}
                answer = await client.request(
                    operation.method,
                    operation.url(case.ti),
                    params=VALID[operation.name][0],
                    headers={**headers, "Content-Type": "application/json"},
                    **body,
                )
            if operation.name in PUBLIC:
                assert answer.status_code == 200
            else:
                assert answer.status_code == status
                await case.refused(answer)
