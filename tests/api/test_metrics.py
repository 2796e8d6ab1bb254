"""What ``/metrics`` tells: one series for each operation whatever way a request went, and none that a stranger makes."""

from __future__ import annotations

import re

import httpx

from app import __version__
from app.db.tables import metadata
from app.releases import REVISIONS
from app.routes import ROUTERS
from tests.servers import Server, token
from tests.world import World

SERIES = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.M)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
TABLES = {*metadata.tables, *(name for each in REVISIONS for name in each.storage.schema.metadata.tables)}
BEAT = {"hostname": "worker", "pid": 42}
DOES = ("select", "insert", "update", "delete")


async def scrape(client: httpx.AsyncClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every series by its name and labels."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    found = SERIES.findall(answer.text)
    return {(name, frozenset(LABEL.findall(labels))): float(value) for name, labels, value in found}


def client_of(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.base_url.removesuffix("/execution"), verify=False)


async def counted(
    server: Server, before: dict[tuple[str, frozenset[tuple[str, str]]], float]
) -> dict[tuple[str, ...], float]:
    """Return how many requests of each handler, method and status were answered since then."""
    async with client_of(server) as client:
        after = await scrape(client)
    grown = {key: value - before.get(key, 0.0) for key, value in after.items() if key[0] == "http_requests_total"}
    by_labels = {tuple(dict(labels)[n] for n in ("handler", "method", "status")): n for (_, labels), n in grown.items() if n}
    return {labels: n for labels, n in by_labels.items() if labels[0] != "/metrics"}


async def test_one_series_for_an_operation_whatever_way_it_goes(server: Server, world: World) -> None:
    ti = await world.one_running("observed")
    async with client_of(server) as client:
        before = await scrape(client)
    async with server.client(ti) as client:
        path = f"/task-instances/{ti}/heartbeat"
        assert (await client.put(path, json=BEAT)).status_code == 204
        assert (await client.put(path, json=BEAT, params={"any": "1"})).status_code == 204
        assert (await client.put(path, json={})).status_code == 422
        assert (await client.put(path, json=BEAT, headers={"Airflow-API-Version": "2025-04-28"})).status_code == 204
        assert (await client.put(path, json=BEAT, headers={"Airflow-API-Version": "1999-01-01"})).status_code == 404
        assert (await client.put(path, json=BEAT, headers={"Authorization": "no"})).status_code == 401
        assert (await client.get("/task-instances/count", params={"dag_id": "observed"})).status_code == 200
        assert (await client.get("/dag-runs/count", params={"dag_id": "observed"})).status_code == 200
        assert (await client.get(f"/variables/{'v' * 20}%00")).status_code == 422  # refused by a middleware
    beat = ("/execution/task-instances/{task_instance_id}/heartbeat", "PUT")
    assert await counted(server, before) == {
        (*beat, "204"): 3,
        (*beat, "422"): 1,
        (*beat, "404"): 1,
        (*beat, "401"): 1,
        ("/execution/task-instances/count", "GET", "200"): 1,
        ("/execution/dag-runs/count", "GET", "200"): 1,
        ("/execution/variables/{variable_key}", "GET", "422"): 1,
    }


async def test_a_stranger_makes_no_series(server: Server) -> None:
    async with client_of(server) as client:
        before = await scrape(client)
        methods = ("GET", "DELETE", "SEARCH", "PROPFIND", "LOCK")
        for number, method in enumerate(methods):
            for path in (
                f"/execution/unknown-{number}",
                f"/elsewhere/{number}",
                "/execution/health",
                "/execution/%2e%2e",
                "/",
            ):
                if (method, path) != ("GET", "/execution/health"):
                    await client.request(method, path)
    by_status = await counted(server, before)
    assert {labels[:2] for labels in by_status} == {("none", "other")}
    assert sum(by_status.values()) == len(methods) * 5 - 1


async def test_what_can_be_told_apart_is_bounded(server: Server, world: World) -> None:
    """As many handlers as there are operations, statements as tables, and no series of when another was made."""
    ti = await world.one_running("bounded")
    spoken = {"Authorization": f"Bearer {token(ti)}"}
    async with client_of(server) as client:
        await client.get("/execution/health")
        assert (await client.put(f"/execution/task-instances/{ti}/heartbeat", json=BEAT, headers=spoken)).status_code == 204
        series = await scrape(client)
    operations = sum(len(operations.declared) for _, _, operations in ROUTERS)
    handlers = {value for _, labels in series for name, value in labels if name == "handler"}
    assert 0 < len(handlers) <= operations + 2  # what names none, and /metrics itself
    assert not [name for name, _ in series if name.endswith("_created")]
    names = {name for _, labels in series for name, _ in labels}
    names -= {"le", "pid", "version", "metadata_revision"}
    statements = {value for _, labels in series for name, value in labels if name == "statement"}
    assert statements <= {f"{does} {table}" for does in DOES for table in TABLES} | {
        "select",
        "select alembic_version",
    }
    assert "update task_instance" in statements
    assert names <= {"handler", "method", "status", "reason", "urgency", "kind", "statement"} | {
        "implementation",
        "major",
        "minor",
        "patchlevel",
        "generation",
    }


async def test_what_is_special_here_is_counted(server: Server, world: World, revision: str) -> None:
    ti = await world.one_running("special")
    async with client_of(server) as client:
        before = await scrape(client)
    async with server.client(ti) as client:
        path = f"/task-instances/{ti}/heartbeat"
        assert (await client.put(path, json=BEAT)).status_code == 204
        for authorization, status in (
            ("none", 401),
            ("Bearer no-token", 403),
            (f"Bearer {token(ti, secret='x' * 64)}", 403),
            (f"Bearer {token(ti, age=3600)}", 403),
        ):
            assert (await client.put(path, json=BEAT, headers={"Authorization": authorization})).status_code == status
    async with client_of(server) as client:
        after = await scrape(client)
    grown = {key: value - before.get(key, 0.0) for key, value in after.items()}
    refused = {
        dict(labels)["reason"]: n
        for (name, labels), n in grown.items()
        if name == "execution_api_token_refusals_total" and n
    }
    assert refused == {"missing": 1, "DecodeError": 1, "InvalidSignatureError": 1, "ExpiredSignatureError": 1}
    assert grown["execution_api_statement_seconds_count", frozenset({("statement", "update task_instance")})] >= 1
    states = {name: labels for name, labels in after if dict(labels).keys() == {"pid"}}
    assert states.keys() >= {
        "execution_api_requests_in_flight",
        "execution_api_database_connections_used",
        "execution_api_event_loop_lag_seconds",
        "execution_api_body_bytes_held",
    }
    served = frozenset({("version", __version__), ("metadata_revision", revision)})
    assert after["execution_api_build_info", served] == 1
