"""Whatever is asked, our way to a handler answers as FastAPI's own way would: byte for byte, refusals too.

FastAPI has a route for each operation, from the same signatures. It is asked for what does not validate; here it is asked
for everything.
"""

from __future__ import annotations

import json
import threading
import traceback
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from app.routes import MOUNT_POINT
from app.server.bodies import Bodies
from app.versions.building import build_app
from app.versions.dispatch import Dispatcher
from tests.api.test_bad_input import OPERATIONS, VALID, WITH_FIELDS, Operation
from tests.conftest import empty
from tests.contract.cases.setups import SETUPS
from tests.faults.conftest import InProcess
from tests.servers import token

pytestmark = pytest.mark.slow
NOT_FASTAPIS = {"set_xcom"}  # takes its body from what was read on our way


@asynccontextmanager
async def both(ours: InProcess) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Give a client of our way to the handlers of the newest API date, and one of FastAPI's."""
    dispatcher = newest(ours)

    async with client(mounted(dispatcher)) as our_way, client(mounted(dispatcher.app)) as its_way:
        yield our_way, its_way


def newest(ours: InProcess) -> Dispatcher:
    return build_app(ours.service, ours.service.revision.newest_api_date, Bodies(together=2**27))


def mounted(application: ASGIApp) -> ASGIApp:
    async def below(scope: Scope, receive: Receive, send: Send) -> None:
        await application({**scope, "root_path": MOUNT_POINT}, receive, send)

    return below


def client(application: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url=f"http://ours{MOUNT_POINT}")


def questions(operation: Operation, ti: str) -> Iterator[dict[str, Any]]:
    """Yield a valid request of an operation, and what is wrong with it in every place."""
    query, body = VALID[operation.name]
    content = {} if body is None else {"content": json.dumps(body)}
    asked = {"method": operation.method, "url": operation.url(ti), "params": query, **content}
    yield asked
    for name in query:
        yield {**asked, "params": {key: value for key, value in query.items() if key != name}}
        yield {**asked, "params": {**query, name: "not of its type"}}
    for name, value in (("map_index", "x"), ("map_index", "1" * 40), ("limit", "-1"), ("state", ""), ("offset", "1.5")):
        yield {**asked, "params": {**query, name: value}}
    for replaced in ({"task_instance_id": "x"}, {"offset": "x"}, {"connection_test_id": "5"}):
        if any(f"{{{name}}}" in operation.path for name in replaced):
            yield {**asked, "url": operation.url(ti, **replaced)}
    if body is None:
        return
    for text in ("", "{", "null", "5", '"x"', "[]", "[1]", "{}", '{"a": 1}', '{"state": []}', "NaN", "\ufeff{}", "[" * 300):
        yield {**asked, "content": text}
    for kind in ("text/plain", "application/json; charset=utf-8", "application/merge-patch+json", "nonsense"):
        yield {**asked, "headers": {"Content-Type": kind}}
    if operation in WITH_FIELDS:
        for name in body:
            for value in (None, 5, "x", [], {}, True, 1.5, "x" * 3000):
                yield {**asked, "content": json.dumps({**body, name: value})}


@pytest.fixture(scope="module")
def revision() -> str:
    """Return the revision that has every operation."""
    return "3.3"


@pytest.mark.parametrize("operation", [o for o in OPERATIONS if o.name not in NOT_FASTAPIS], ids=lambda o: o.name)
async def test_our_way_is_fastapis(ours: InProcess, operation: Operation) -> None:
    scope = "workload" if "{connection_test_id}" in operation.path else "execution"
    setup = SETUPS["queued" if operation.name == "ti_run" else "running"]
    ti = await setup(ours.world)
    authorized = {"Authorization": f"Bearer {token(ti, scope=scope)}"}
    async with both(ours) as (our_way, its_way):
        for question in questions(operation, str(ti)):
            told = []
            for way in (our_way, its_way):
                answer = await way.request(**{**question, "headers": {**authorized, **question.get("headers", {})}})
                told.append((answer.status_code, answer.headers.multi_items(), answer.content))
                if answer.status_code < 300 and operation.method != "GET":
                    await empty(ours.world.connection)
                    await setup(ours.world)
            assert told[0] == told[1], question


async def test_the_first_who_needs_it_waits_for_nothing_to_be_made(ours: InProcess) -> None:
    """After the start, FastAPI's routes, for which the fixture waits, and before them older dates are made by themselves."""
    api = ours.application.routes[1].app  # type: ignore[attr-defined]
    served = {version.date for version in api._versions._served}
    assert api._versions._apps.keys() == served


async def test_no_routes_are_made_in_the_event_loop(ours: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes tens of milliseconds, and FastAPI silences warnings for the whole process meanwhile, by which this sees it.

    The fields of a query's model are left: FastAPI makes them when one is refused for the first time, within a millisecond.
    """
    loop, made, enter = threading.get_ident(), list[str](), warnings.catch_warnings.__enter__

    def noted(self: warnings.catch_warnings[None]) -> None:
        frames = traceback.extract_stack()
        if threading.get_ident() == loop and not any(frame.name == "get_cached_model_fields" for frame in frames):
            made.extend(traceback.format_list(frames[-10:-1]))
        enter(self)

    monkeypatch.setattr(warnings.catch_warnings, "__enter__", noted)
    ti = await SETUPS["running"](ours.world)
    authorized, statuses = {"Authorization": f"Bearer {token(ti)}"}, set[int]()
    dispatcher = newest(ours)
    made.clear()  # it was called in the event loop, as before the first request
    async with client(mounted(dispatcher)) as our_way:
        for method, path in (("GET", "/nothing"), ("PATCH", "/variables/name"), ("DELETE", "/health")):
            statuses.add((await our_way.request(method, path, headers=authorized)).status_code)
        for operation in OPERATIONS:
            for question in questions(operation, str(ti)):
                answer = await our_way.request(**{**question, "headers": {**authorized, **question.get("headers", {})}})
                statuses.add(answer.status_code)
    assert statuses >= {200, 404, 405, 422}
    assert not made, "".join(made)
