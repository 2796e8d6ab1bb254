"""No value is in any log line: markers in every field of every operation, through every kind of error, in either form."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import httpx
import pytest

from tests.api.test_bad_input import OPERATIONS, VALID, Operation
from tests.conftest import empty
from tests.contract.cases.setups import SETUPS
from tests.servers import Server, our_server, token
from tests.world import World

MARK = "m4rk3d"
SQLSTATES = ("P0001", "22P02", "23503", "23505", "23514", "40P01", "42601", "53100", "55P03", "57014", "XX000")
WRITTEN = (
    "xcom",
    "variable",
    "task_instance",
    "hitl_detail",
    "rendered_task_instance_fields",
    "task_state_store",
    "dag_run",
)


@pytest.fixture(
    scope="module",
    params=[("json", 1), pytest.param(("text", 2), marks=pytest.mark.slow)],
    ids=["JSON, one worker", "text, two workers"],
)
def talkative(
    request: pytest.FixtureRequest, make_database: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    form, workers = request.param
    settings = {
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
        "AIRFLOW__EXECUTION_API_SERVICE__LOG_FORMAT": form,
        "AIRFLOW__EXECUTION_API_SERVICE__TASK_SCOPE": "own",
        "AIRFLOW__SECRETS__BACKEND": "",
    }
    with our_server(make_database("3.3"), tmp_path_factory.mktemp("talkative"), workers=workers, **settings) as running:
        yield running


def marked(value: Any) -> Iterator[Any]:
    """Yield a JSON value with a marker in place of each of its texts, and with one in place of each part."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from ({**value, key: each} for each in marked(inner))
        yield {**value, MARK: MARK}
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from ([*value[:at], each, *value[at + 1 :]] for each in marked(inner))
    yield MARK
    yield {MARK: [MARK]}
    yield MARK + "\0\ud800"


async def ask(client: httpx.AsyncClient, operation: Operation, ti: str, **options: Any) -> int:
    scope = "workload" if "{connection_test_id}" in operation.path else "execution"
    options.setdefault("params", VALID[operation.name][0])
    headers = {"Authorization": f"Bearer {token(ti, scope=scope)}", "Content-Type": "application/json"}
    headers |= options.pop("headers", {})
    return (await client.request(operation.method, operation.url(ti), headers=headers, **options)).status_code


async def ask_with_markers(server: Server, ti: str, *, every: bool) -> set[int]:
    """Ask every operation with markers; return the statuses that were heard.

    :param every: in every field, and as all kinds of what is wrong; else once in all that is asked.
    """
    heard = set()
    async with server.client(timeout=30) as client:
        for operation in OPERATIONS:
            params, body = VALID[operation.name]
            if body is not None:
                for each in [*marked(body)] if every else [body]:
                    heard.add(await ask(client, operation, ti, content=json.dumps(each)))
            if not every:
                heard.add(await ask(client, operation, ti))
                continue
            for name in params:
                heard.add(await ask(client, operation, ti, params={**params, name: MARK}))
            for content in (f'{{"{MARK}', f'["{MARK}", NaN]', f'["{MARK}"]' + " " * 200_000, f'["{MARK}",' * 300):
                heard.add(await ask(client, operation, ti, content=content))
            for headers in (
                {"Authorization": f"Bearer {MARK}.{MARK}.{MARK}"},
                {"Authorization": f"Basic {MARK}"},
                {"Content-Type": MARK},
                {"Airflow-API-Version": MARK},
            ):
                heard.add(await ask(client, operation, ti, headers=headers, content=json.dumps(MARK)))
    return heard


async def test_no_value_is_in_any_line(talkative: Server) -> None:
    connection = await asyncpg.connect(talkative.database_url)
    try:
        await empty(connection)
        world = World(connection, "3.3")
        ti = str(await SETUPS["running"](world))
        await connection.execute(
            "INSERT INTO connection (conn_id, conn_type, password, extra, is_encrypted, is_extra_encrypted) "
            "VALUES ('c', 'http', $1, $1, true, true)", MARK  # no key decrypts it
        )  # fmt: skip
        heard = await ask_with_markers(talkative, ti, every=True)
        assert {200, 401, 403, 404, 422} <= heard
        await empty(connection)
        ti = str(await SETUPS["running"](world))
        failing = set()
        for sqlstate in SQLSTATES:
            await connection.execute(
                f"CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING "
                f"ERRCODE = '{sqlstate}', MESSAGE = '{MARK}', DETAIL = '{MARK}', HINT = '{MARK}'; END $$"
            )
            for table in WRITTEN:
                await connection.execute(
                    f"CREATE OR REPLACE TRIGGER fail BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION fail()"
                )
            failing |= await ask_with_markers(talkative, ti, every=False)
        assert {500, 503} <= failing
    finally:
        await connection.close()
    lines = talkative.log.read_text(errors="replace")
    assert "unexpected error" in lines and "retryable database error" in lines and "token refused" in lines
    assert [line[:2000] for line in lines.splitlines() if MARK in line] == []


async def test_what_the_server_itself_logs_is_a_line_like_any_other(server: Server) -> None:
    url = httpx.URL(server.base_url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(b"no request\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 400")
    writer.close()
    lines = server.log.read_text().strip().split("\n")  # a path may hold what else Python takes for the end of a line
    told = [json.loads(line) for line in lines]
    *_, line = [line for line in told if line.get("logger") == "uvicorn.error"]
    assert line["level"] == "warning"
    assert line["pid"] in {each["pid"] for each in told if each["event"] == "accepting requests"}
