"""FastAPI's application of an API date makes its routes when the first request comes to it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import JSONResponse

from app.versions import building
from app.versions.building import VersionedApp


async def test_routes_are_made_once_beside_the_event_loop() -> None:
    """Two requests come while the routes are made: both wait for the same routes, and the event loop goes on."""
    making, go_on, made_in = threading.Event(), threading.Event(), list[int]()

    def make_routes(app: FastAPI) -> None:
        made_in.append(threading.get_ident())
        making.set()
        assert go_on.wait(10)

        @app.get("/answer")
        async def answer() -> str:
            return "made"

    app = VersionedApp(make_routes)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        first, second = (asyncio.create_task(client.get("/answer")) for _ in range(2))
        assert await asyncio.to_thread(making.wait, 10)
        assert not first.done() and not second.done()
        go_on.set()
        answers = await asyncio.gather(first, second, client.get("/answer"))
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, "made")] * 3
    assert len(made_in) == 1
    assert made_in[0] != threading.get_ident()


async def test_one_application_is_made_at_a_time() -> None:
    """What FastAPI silences while it makes routes, it silences for the process: another thread would end that too early."""
    happened, second_began, go_on = list[str](), threading.Event(), threading.Event()

    def first(_: FastAPI) -> None:
        happened.append("first begins")
        assert go_on.wait(10)
        happened.append("first ends")

    def second(_: FastAPI) -> None:
        happened.append("second begins")
        second_began.set()

    making = [asyncio.create_task(VersionedApp(make_routes).make_ready()) for make_routes in (first, second)]
    await asyncio.to_thread(second_began.wait, 0.5)
    go_on.set()
    await asyncio.gather(*making)
    assert happened.index("first ends") == happened.index("first begins") + 1


async def test_the_document_is_made_once_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    made_in = list[int]()

    def document(self: VersionedApp) -> dict[str, Any]:
        if self.openapi_schema is None:
            made_in.append(threading.get_ident())
            self.openapi_schema = {"openapi": "3.1.0"}
        return self.openapi_schema

    class Rendered(JSONResponse):
        def render(self, content: Any) -> bytes:
            made_in.append(threading.get_ident())
            return super().render(content)

    monkeypatch.setattr(VersionedApp, "openapi", document)
    monkeypatch.setattr(building, "JSONResponse", Rendered)
    app = VersionedApp(lambda _: None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        answers = await asyncio.gather(*(client.get("/openapi.json") for _ in range(3)))
        answers += [await client.head("/openapi.json"), await client.get("/openapi.json")]
    assert {(answer.status_code, answer.headers["content-type"]) for answer in answers} == {(200, "application/json")}
    assert len(made_in) == 2, "built and rendered, once"
    assert threading.get_ident() not in made_in
