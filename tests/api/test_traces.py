"""Spans of our server: of its workers, of requests, and when they cannot be sent."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from app.main import create_app
from app.server.traces import RequestSpans
from app.settings import DETAIL_LEVEL, load
from tests.receivers import collecting, collecting_by_grpc
from tests.servers import Server, airflow_settings, clean_environment, our_server
from tests.world import World

END = {"state": "failed", "end_date": "2026-01-01T01:00:09Z"}
ABSENT = "import sys\nsys.modules['opentelemetry.sdk'] = None\n"
PROPAGATION = "AIRFLOW__EXECUTION_API__OTEL_TRACE_PROPAGATION"


def _traceparent(flags: str = "01") -> str:
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{flags}"


@asynccontextmanager
async def _world(server: Server) -> Any:
    connection = await asyncpg.connect(server.database_url)
    try:
        yield World(connection)
    finally:
        await connection.close()


async def _running(server: Server, dag_id: str) -> uuid.UUID:
    """Write a task instance that runs, in a sampled run."""
    async with _world(server) as world:
        await world.dag(dag_id)
        run, task = ({"__type": "dict", "__var": {"traceparent": _traceparent()}} for _ in range(2))
        await world.run(dag_id, context_carrier=run)
        ti_id: uuid.UUID = await world.running(dag_id, context_carrier=task)
        return ti_id


async def _end(server: Server, ti_id: uuid.UUID) -> None:
    async with server.client(ti_id) as client:  # a connection of its own, so either worker may take it
        assert (await client.patch(f"/task-instances/{ti_id}/state", json=END)).status_code == 204


@pytest.mark.slow
async def test_what_is_left_is_sent_at_the_end(make_database: Callable[[str], str], tmp_path: Path) -> None:
    """Each forked worker sends its own spans, those of its last seconds too."""
    with collecting() as collector:
        settings = {**collector.settings, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        with our_server(make_database("3.3"), tmp_path, workers=2, **settings) as server:
            ended = [await _running(server, f"d{number}") for number in range(8)]
            for ti_id in ended:
                await _end(server, ti_id)
            assert collector.spans == []
            assert server.stop() == 0
        assert {span.attributes["airflow.task_instance.id"] for span in collector.spans} == {str(ti_id) for ti_id in ended}


@pytest.mark.slow
async def test_airflows_own_options(make_database: Callable[[str], str], tmp_path: Path) -> None:
    """Without any of OpenTelemetry's variables spans go by gRPC to where the section says, under its name."""
    with collecting_by_grpc() as collector:
        address = urlsplit(collector.url)
        told = {"ON": "True", "HOST": str(address.hostname), "PORT": str(address.port), "SERVICE": "named"}
        settings = {f"AIRFLOW__TRACES__OTEL_{name}": value for name, value in told.items()}
        with our_server(make_database("3.3"), tmp_path, **settings) as server:
            await _end(server, await _running(server, "d"))
            assert server.stop() == 0
        (span,) = collector.spans
        assert (span.name, span.service) == ("task_run.job", "named")


@pytest.mark.slow
async def test_a_collector_that_is_away_holds_nothing_up(make_database: Callable[[str], str], tmp_path: Path) -> None:
    with collecting() as collector:
        settings = {**collector.settings, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
        with our_server(make_database("3.3"), tmp_path, **settings) as server:
            await _end(server, await _running(server, "d"))
            assert server.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("propagation", "expected"),
    [
        ("only-authenticated", ["GET /execution/variables/{variable_key}"]),
        ("unsafe-always", ["GET /execution/variables/{variable_key}"] * 2 + ["GET /execution/health"]),
    ],
)
async def test_a_request(make_database: Callable[[str], str], tmp_path: Path, propagation: str, expected: list[str]) -> None:
    """Its span tells what was asked by the path's template, and no value that a client sent."""
    with collecting() as collector:
        settings = {**collector.settings, PROPAGATION: propagation}
        with our_server(make_database("3.3"), tmp_path, **settings) as server:
            parent = _traceparent()
            asking = {"traceparent": parent, "tracestate": f"other=1,{DETAIL_LEVEL}=2"}
            for traceparent, tracestate in (
                (parent, f"{DETAIL_LEVEL}=1"),
                (parent, f"{DETAIL_LEVEL}=much"),
                (_traceparent("00"), asking["tracestate"]),
                ("no-context", asking["tracestate"]),
            ):
                unasked = {"traceparent": traceparent, "tracestate": tracestate}
                async with server.client(uuid.uuid4(), headers=unasked) as client:
                    assert (await client.get("/variables/a-secret-name?a=secret")).status_code == 404
            async with server.client(uuid.uuid4(), headers=asking) as client:
                assert (await client.get("/variables/a-secret-name?a=secret")).status_code == 404
            async with server.client(headers=asking) as client:
                assert (await client.get("/variables/a-secret-name?a=secret")).status_code == 401
                assert (await client.get("/health")).status_code == 200
            assert server.stop() == 0
        assert [span.name for span in collector.spans] == expected
        assert "secret" not in repr(collector.spans)
        for span, status in zip(collector.spans, (404, 401, 200), strict=False):
            assert (span.kind, span.status) == ("SPAN_KIND_SERVER", "STATUS_CODE_UNSET")
            assert f"00-{span.trace_id}-{span.parent_id}-01" == parent
            assert span.start < span.end
            route = span.name.removeprefix("GET ")
            told = {"http.request.method": "GET", "http.route": route, "http.response.status_code": status}
            assert span.attributes == told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"PYTHONPATH": "absent"},
            "no spans are sent: the library for them is not installed (pip install 'execution-api[otel]')",
        ),
        ({"OTEL_TRACES_EXPORTER": "pigeon"}, "OTEL_TRACES_EXPORTER is 'pigeon': expected one of"),
    ],
)
async def test_it_serves_without(
    make_database: Callable[[str], str], tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    """Spans that cannot be sent are told of, once serving starts and by ``check``, and are no reason not to serve."""
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "sitecustomize.py").write_text(ABSENT)
    settings = {"AIRFLOW__TRACES__OTEL_ON": "True", **settings}
    if "PYTHONPATH" in settings:
        settings["PYTHONPATH"] = str(tmp_path / "absent")
    with our_server(make_database("3.3"), tmp_path, **settings) as server:
        await _end(server, await _running(server, "d"))
        assert said in server.log.read_text()
        environment = {**clean_environment(), **airflow_settings(server.database_url), "AIRFLOW_HOME": str(tmp_path)}
        check = [sys.executable, "-m", "app", "check"]
        told = await asyncio.to_thread(
            subprocess.run, check, env={**environment, **settings}, capture_output=True, text=True
        )
        assert told.returncode == 0
        assert "WARNING: " in told.stdout and said in told.stdout


@pytest.mark.parametrize(
    ("settings", "has_more"),
    [
        ({}, False),
        ({"AIRFLOW__TRACES__OTEL_ON": "True"}, True),
        ({"AIRFLOW__TRACES__OTEL_ON": "True", "AIRFLOW__METRICS__STATSD_ON": "True"}, True),
        ({"AIRFLOW__TRACES__OTEL_ON": "True", PROPAGATION: "never"}, False),
    ],
)
def test_what_a_request_passes_through(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], has_more: bool) -> None:
    """While traces are off, or requests bring none, nothing of them is in a request's way, whatever else is missing."""
    monkeypatch.setitem(sys.modules, "statsd", None)
    loaded = load({**airflow_settings("postgresql://nobody@localhost/none"), "AIRFLOW_HOME": "/nonexistent", **settings})
    stack = [middleware.cls for middleware in create_app(loaded).user_middleware]
    assert (RequestSpans in stack) is has_more
