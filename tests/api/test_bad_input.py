"""Bad input on every operation: a 4xx that says what was wrong, and no row changed.

The operations come from the router, so that a new one is in this test or fails it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from app.routes import ROUTERS
from app.versions import VERSIONS
from tests.conftest import empty
from tests.contract.cases.setups import SETUPS
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
    "get_variable_keys": ({}, None),
    "get_asset_by_name": ({"name": "a"}, None),
    "get_asset_by_uri": ({"uri": "s3://bucket/a"}, None),
    "get_assets_by_alias": ({"alias_name": "a"}, None),
    "get_asset_event_by_asset_name_uri": ({"name": "a", "uri": ""}, None),
    "get_asset_event_by_asset_alias": ({"name": "a"}, None),
    "upsert_hitl_detail": ({}, {"ti_id": "00000000-0000-4000-8000-000000000001", "options": ["a"], "subject": "s"}),
    "update_hitl_detail": ({}, {"ti_id": "00000000-0000-4000-8000-000000000001", "chosen_options": ["a"]}),
    "get_hitl_detail": ({}, None),
    "get_task_state_store": ({}, None),
    "set_task_state_store": ({}, {"value": 1}),
    "delete_task_state_store": ({}, None),
    "clear_task_state_store": ({}, None),
    **{
        f"{verb}_asset_state_store_by_{by}": ({by: "s3://bucket/a", "key": "k"}, {"value": 1} if verb == "set" else None)
        for verb in ("get", "set", "delete", "clear")
        for by in ("name", "uri")
    },
    "get_connection_test_connection": ({}, None),
    "patch_connection_test": ({}, {"state": "success"}),
    "run_callback": ({}, None),
    "update_dag_run_note": ({}, {"note": "text"}),
    "clear_dag_run": ({}, None),
    "trigger_dag_run": ({}, {"note": "text"}),
    "health": ({}, None),
    "ping": ({}, None),
}
ANY_JSON = {"set_xcom"}  # its body is a value of any kind
ANY_OBJECT = {"ti_put_rtif"}
ANY_TEXT = {"ti_patch_rendered_map_index"}
PUBLIC = {"health", "ping"}
LENIENT = {"upsert_hitl_detail", "update_hitl_detail"}  # fields that they do not know are ignored, and some have defaults
ANY_VALUE = {"set_task_state_store", "set_asset_state_store_by_name", "set_asset_state_store_by_uri"}  # their only field's
ALL_OPTIONAL = {"trigger_dag_run", "update_dag_run_note"}  # no field must be there
SINCE = {name: version.date for version in VERSIONS for change in version.changes for name in change.added_operations}
NEWEST = {"3.2": "2026-04-06", "3.3": "2026-06-30", "3.4": "2026-10-30"}  # the newest date of each server
SCOPES = {"{connection_test_id}": "workload", "{callback_id}": "callback"}  # of the tokens that open these paths


@dataclass(frozen=True)
class Operation:
    name: str
    method: str
    path: str

    @property
    def takes_body(self) -> bool:
        return VALID[self.name][1] is not None

    @property
    def scope(self) -> str:
        return next((scope for part, scope in SCOPES.items() if part in self.path), "execution")

    def is_served(self, world: World) -> bool:
        return SINCE.get(self.name, "") <= NEWEST[world.revision]

    def url(self, ti: str, **replaced: str) -> str:
        known = {
            "task_instance_id": ti,
            "connection_test_id": ti,
            "callback_id": ti,
            "dag_id": "d",
            "run_id": "manual__1",
            "task_id": "job",
            "offset": "0",
        }
        values = {**known, "key": "return_value", "variable_key": "v", "connection_id": "c", **replaced}
        return self.path.replace(":path", "").format(**values)


def operations() -> Iterator[Operation]:
    for prefix, _, router in ROUTERS:
        for declared in router.declared:
            for method in declared.methods:
                yield Operation(declared.name, method, prefix + declared.path)


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
        headers = {"Authorization": f"Bearer {token(self.ti, scope=self.operation.scope)}"}
        async with self.server.client(headers=headers, timeout=30) as client:
            return await client.request(self.operation.method, path or self.operation.url(self.ti), **options)

    async def refused(self, answer: httpx.Response) -> None:
        """Assert that nothing was written and the answer says what was wrong."""
        assert 400 <= answer.status_code < 500, answer.text
        if self.operation.method != "HEAD":
            assert answer.headers["content-type"] == "application/json"
            assert answer.json()["detail"]
        assert await self.rows() == self.before

    async def rows(self) -> list[str]:
        tables = ["task_instance", "variable", "log", "hitl_detail", "dag_run", "dag_run_note", "callback"]
        tables += [self.world.table(name) for name in ("xcom", "rendered_task_instance_fields")]
        if not self.world.keeps_tries:
            tables.append("task_instance_history")
        query = " UNION ALL ".join(f"SELECT to_jsonb(t)::text AS row FROM {table} t" for table in tables)
        return sorted(record["row"] for record in await self.world.connection.fetch(query))

    async def __aenter__(self) -> Asking:
        self.before = await self.rows()
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


async def asking(server: Server, world: World, operation: Operation) -> Asking:
    if not operation.is_served(world):
        pytest.skip(f"{world.revision} does not have it")
    ti = await SETUPS["queued" if operation.name == "ti_run" else "running"](world)
    return Asking(server, world, operation, str(ti))


async def test_the_valid_requests_are_valid(server: Server, world: World) -> None:
    statuses = {}
    for operation in OPERATIONS:
        if not operation.is_served(world):
            continue
        await empty(world.connection)
        statuses[operation.name] = (await (await asking(server, world, operation)).ask()).status_code
    missing = {
        "get_mapped_xcom_by_index", "get_xcom", "get_variable", "get_connection", "get_asset_by_name", "get_asset_by_uri",
        "update_hitl_detail", "get_hitl_detail", "get_task_state_store", "get_connection_test_connection",
        "patch_connection_test", "clear_dag_run", "run_callback",
        *(f"{verb}_asset_state_store_by_{by}" for verb in ("get", "set", "delete", "clear") for by in ("name", "uri")),
    }  # fmt: skip
    expected = dict.fromkeys(missing & statuses.keys(), 404) | {"trigger_dag_run": 409}
    assert {name: status for name, status in statuses.items() if status >= 400} == expected


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


WITH_FIELDS = [o for o in WITH_BODY if isinstance(VALID[o.name][1], dict) and o.name not in ANY_JSON | ANY_OBJECT]
STRICT = [o for o in WITH_FIELDS if o.name not in LENIENT]


@pytest.mark.parametrize("operation", STRICT, ids=lambda o: o.name)
async def test_unknown_and_missing_and_mistyped_fields(server: Server, world: World, operation: Operation) -> None:
    body = VALID[operation.name][1]
    async with await asking(server, world, operation) as case:
        await case.refused(await case.ask(json={**body, "surplus": 1}))
        for name in body:
            if operation.name not in ALL_OPTIONAL:
                await case.refused(await case.ask(json={k: v for k, v in body.items() if k != name}))
            if operation.name not in ANY_VALUE:
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


@pytest.mark.parametrize("operation", WITH_FIELDS, ids=lambda o: o.name)
async def test_nul_in_texts(server: Server, world: World, operation: Operation) -> None:
    body = VALID[operation.name][1]
    async with await asking(server, world, operation) as case:
        for name, value in body.items():
            if isinstance(value, str) and operation.name not in ("ti_heartbeat", "put_variable"):  # compared; encrypted
                await case.refused(await case.ask(json={**body, name: value + "\0"}))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)
async def test_texts_longer_than_their_column(server: Server, world: World, operation: Operation) -> None:
    """What is asked for is not there; what would be written is refused by its name, wherever it stands in the request."""
    params, body = VALID[operation.name]
    placed = set(re.findall(r"{(\w+)", operation.path)) - {"task_instance_id", "connection_test_id", "callback_id", "offset"}
    texts = [name for name, value in (body or {}).items() if isinstance(value, str)] if isinstance(body, dict) else []
    async with await asking(server, world, operation) as case:
        asked: list[tuple[str, dict[str, Any]]] = [
            *((name, {"path": operation.url(case.ti, **{name: "k" * 5000})}) for name in placed),
            *((name, {"params": {**params, name: "k" * 5000}}) for name in params if "date" not in name),
            *((name, {"json": {**body, name: "k" * 5000}}) for name in texts),
        ]
        for name, options in asked:
            answer = await case.ask(**options)
            if answer.status_code in (400, 422):
                await case.refused(answer)
                assert name in answer.text
            else:  # it is compared, is not there, or may be of any length
                assert answer.status_code in (200, 201, 204, 404, 409), (name, answer.text)


@pytest.mark.parametrize("operation", WITH_BODY, ids=lambda o: o.name)
async def test_bodies_of_10_mb(server: Server, world: World, operation: Operation) -> None:
    """Ten megabytes that mean nothing are refused where a body is taken; as an XCom they would be data, if JSON."""
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
            ({"Authorization": f"Bearer {token(case.ti, scope='nonsense')}"}, 403),
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


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.name)
async def test_whose_tokens_are_taken(server: Server, world: World, operation: Operation) -> None:
    """A task instance's own paths take its own token alone; a workload token starts a task or reports a connection test, and
    that of a callback starts it.
    """
    if operation.name in PUBLIC:
        return
    about_one = "{task_instance_id}" in operation.path or operation.scope != "execution"
    workload = operation.scope == "workload" or (operation.name == "ti_run" and world.revision != "3.2")
    execution = operation.scope == "execution"
    async with await asking(server, world, operation) as case:
        stranger = "01920000-0000-7000-8000-000000000000"
        for scope, subject, taken in (
            ("execution", stranger, execution and not about_one),
            ("workload", stranger, workload and not about_one),
            ("workload", case.ti, workload),
            ("callback", case.ti, operation.scope == "callback"),
            ("execution", case.ti, execution),
        ):
            case.before = await case.rows()
            async with server.client(headers={"Authorization": f"Bearer {token(subject, scope=scope)}"}) as client:
                body = {} if VALID[operation.name][1] is None else {"json": VALID[operation.name][1]}
                url, params = operation.url(case.ti), VALID[operation.name][0]
                answer = await client.request(operation.method, url, params=params, **body)
            assert (answer.status_code not in (401, 403)) == taken, (scope, subject == case.ti, answer.text)
            if not taken:
                await case.refused(answer)


@pytest.mark.parametrize("revision", ["3.4"], indirect=True)  # the first whose server takes it only where it is documented
async def test_a_state_of_a_newer_date_is_said_to_be_that(server: Server, world: World) -> None:
    ti = await SETUPS["running"](world)
    body = {"state": "awaiting_input", "next_method": "resume", "timeout": None}
    async with server.client(ti, headers={"Airflow-API-Version": "2026-04-06"}) as client:
        answer = await client.patch(f"/task-instances/{ti}/state", json=body)
    (problem,) = answer.json()["detail"]
    assert (answer.status_code, problem["loc"]) == (422, ["body", "awaiting_input"])
    assert problem["msg"] == "Value error, it came with a newer API date than that of this request"
    assert await world.connection.fetchval("SELECT state FROM task_instance") == "running"
