"""Airflow's own server and ours beside each other: what is asked of both, and what must come out equal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx

from tests.conftest import empty
from tests.contract.cases.case import ABSENT, Case
from tests.contract.cases.setups import SETUPS
from tests.rows import masked, rows
from tests.servers import Server, token
from tests.world import World, ti_id

# Airflow reads these without ORDER BY: their order is of the plan that PostgreSQL chose, and no part of the contract.
UNORDERED = {"consumed_asset_events", "created_dagruns", "source_aliases", "tags", "xcom_keys_to_clear"}
UNORDERED_BODY = "/assets/by-alias"  # and these are the whole body


@dataclass
class Side:
    """One server with its database."""

    server: Server
    client: httpx.AsyncClient
    connection: asyncpg.Connection

    async def set_up(self, case: Case, revision: str) -> str:
        await empty(self.connection)
        return str(await SETUPS[case.setup](World(self.connection, revision)))

    async def ask(self, case: Case, ti: str) -> httpx.Response:
        headers = dict(case.headers)
        if case.token == "garbage":
            headers["Authorization"] = "Bearer nonsense"
        elif case.token != "none":
            subject = ti if case.token == "own" else ti_id("somebody else")
            headers["Authorization"] = f"Bearer {token(subject, **case.claims)}"
        body = {} if case.json is ABSENT else {"content": json.dumps(case.json).encode()}
        if body:
            headers.setdefault("Content-Type", "application/json")
        elif case.content is not None:
            body = {"content": case.content}
        return await self.client.request(case.method, case.path.replace("{ti}", ti), headers=headers, **body)

    @classmethod
    @asynccontextmanager
    async def of(cls, servers: Iterable[Server]) -> AsyncIterator[tuple[Side, Side]]:
        """Open a client and a connection of each of both servers.

        The client's connections are not kept: Airflow's server lets go of them after some of its own errors.
        """
        async with AsyncExitStack() as stack:
            theirs, ours = [
                cls(
                    server,
                    await stack.enter_async_context(server.client(timeout=20, headers={"Connection": "close"})),
                    await stack.enter_async_context(_connected(server)),
                )
                for server in servers
            ]
            yield theirs, ours


@asynccontextmanager
async def _connected(server: Server) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(server.database_url)
    try:
        yield connection
    finally:
        await connection.close()


async def assert_equal(case: Case, sides: tuple[Side, Side], revision: str) -> None:
    """Ask both servers the same, on equal rows, and compare answers and rows."""
    theirs, ours = sides
    ti, same = await asyncio.gather(*(side.set_up(case, revision) for side in sides))
    assert ti == same
    before = await rows(theirs.connection)
    assert before == await rows(ours.connection)
    their_answer, our_answer = await asyncio.gather(theirs.ask(case, ti), ours.ask(case, ti))
    after_theirs, after_ours = await rows(theirs.connection), await rows(ours.connection)
    if case.differs is not None:
        assert our_answer.status_code == case.ours
        if our_answer.status_code >= 400:
            assert_refusal(our_answer)
        if case.ours not in (201, 204):
            assert after_ours == before, "a refusal or a replay writes nothing"
        return
    assert shown(our_answer) == shown(their_answer)
    assert our_answer.headers.get("content-range") == their_answer.headers.get("content-range")
    assert our_answer.headers.get("airflow-api-version") == their_answer.headers.get("airflow-api-version")
    assert our_answer.headers.get("correlation-id") == their_answer.headers.get("correlation-id")
    assert ("refreshed-api-token" in our_answer.headers) == ("refreshed-api-token" in their_answer.headers)
    assert sorted((after_ours - after_theirs).elements()) == sorted((after_theirs - after_ours).elements())


def shown(answer: httpx.Response) -> tuple[int, Any]:
    """Return the status and the masked body of an answer, lists that have no order sorted."""
    if not answer.content:
        return answer.status_code, None
    assert answer.headers["content-type"] == "application/json"
    body = json.loads(masked(answer.text), parse_float=str, object_hook=_ordered)
    is_unordered = isinstance(body, list) and answer.request.url.path.endswith(UNORDERED_BODY)
    return answer.status_code, _sorted(body) if is_unordered else body


def _ordered(body: dict[str, Any]) -> dict[str, Any]:
    return {name: _sorted(value) if name in UNORDERED and value else value for name, value in body.items()}


def _sorted(values: list[Any]) -> list[Any]:
    return sorted(values, key=lambda each: json.dumps(each, sort_keys=True))


def assert_refusal(answer: httpx.Response) -> None:
    """Assert that a refusal says what was wrong in the form that clients read."""
    assert answer.status_code < 500
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["detail"]
