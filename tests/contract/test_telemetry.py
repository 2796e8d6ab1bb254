"""What servers tell of tasks: spans, and counts for StatsD, through Airflow's own server and through ours, compared."""

from __future__ import annotations

import json
import re
import secrets
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import statsd

from app.settings import DETAIL_LEVEL
from app.tasks.carriers import PARENT, SAMPLED
from tests.conftest import empty
from tests.contract.cases.dag_setups import triggerable
from tests.contract.cases.loops import looping
from tests.contract.cases.setups import SETUPS
from tests.receivers import Collector, Span, StatsReceiver, collecting, listening_for_stats
from tests.servers import AIRFLOW, Server, airflow_server, our_server, token
from tests.world import World

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Told:
    """A server, with what its spans and its counts are sent to."""

    server: Server
    collector: Collector
    counts: StatsReceiver


WITH_TAGS = {"AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": "True"}  # so that they are compared too
TOOK = re.compile(r":\d+(\.\d+)?\|ms")
ELSEWHERE = ("airflow.api_server.dag_bag.", "airflow.serde.")  # of a cache, and of a library, that ours does without
NEWEST = {"Airflow-API-Version": "2026-04-06"}  # of both revisions
ID = "airflow.task_instance.id"
WHEN = "2026-01-01T01:00:00Z"
RUN = {"state": "running", "hostname": "worker", "unixname": "airflow", "pid": 42, "start_date": WHEN}
END = {"end_date": "2026-01-01T01:00:09Z"}
OUTLETS = [
    {"name": "first", "uri": "s3://bucket/first", "type": "Asset"},
    {"name": "second", "uri": None, "type": "AssetNameRef"},
    {"name": "inactive", "uri": "s3://bucket/inactive", "type": "Asset"},
]
REPORTS: dict[str, dict[str, Any]] = {
    "success": {"state": "success", **END, "task_outlets": [], "outlet_events": []},
    "failed": {"state": "failed", **END},
    "skipped": {"state": "skipped", **END},
    "up_for_retry": {"state": "up_for_retry", **END},
}


@pytest.fixture(scope="module")
def traced(
    revision: str, make_database: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Told, Told]]:
    """Run both servers, theirs first, each with what its spans are sent to."""
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp(f"traced-{revision}")
        library = Path(statsd.__file__).parent
        (folder / library.name).symlink_to(library)  # which Airflow comes without
        spans, counts = stack.enter_context(collecting()), stack.enter_context(listening_for_stats())
        told = {**spans.settings, **counts.settings(), **WITH_TAGS, "PYTHONPATH": str(folder)}
        theirs = stack.enter_context(airflow_server(AIRFLOW[revision], make_database(revision), folder, **told))
        first = Told(theirs, spans, counts)
        spans, counts = stack.enter_context(collecting()), stack.enter_context(listening_for_stats())
        told = {**spans.settings, **counts.settings(), **WITH_TAGS}
        ours = stack.enter_context(our_server(make_database(revision), folder, workers=2, **told))
        yield first, Told(ours, spans, counts)


@asynccontextmanager
async def _connected(server: Server) -> Any:
    connection = await asyncpg.connect(server.database_url)
    try:
        yield connection
    finally:
        await connection.close()


def _carrier(traceparent: str, **more: str) -> dict[str, Any]:
    return {"__type": "dict", "__var": {"traceparent": traceparent, **more}}


def _traceparents(flags: str = "01") -> tuple[str, str]:
    """Return the contexts of a run and of a task of it."""
    trace_id = secrets.token_hex(16)
    run, task = (f"00-{trace_id}-{secrets.token_hex(8)}-{flags}" for _ in range(2))
    return run, task


def _comparable(span: Span, known: dict[str, str]) -> dict[str, Any]:
    """Return what of a span must be the same: ids by what they are the ids of."""
    attributes = {name: known.get(str(value), value) for name, value in span.attributes.items()}
    ids = (span.trace_id, span.span_id, span.parent_id)
    return {
        "name": span.name,
        "kind": span.kind,
        "ids": [known.get(each, "another") for each in ids],
        "status": span.status,
        "start": span.start,
        "attributes": attributes,
        "service": span.service,
    }


async def _ended(told: Told, revision: str, dag_id: str, report: str, contexts: tuple[Any, Any], **ti: Any) -> uuid.UUID:
    """Run a task and report its end.

    :param contexts: of its run and its own.
    """
    async with _connected(told.server) as connection:
        world = World(connection, revision)
        await world.dag(dag_id)
        await world.run(dag_id, context_carrier=contexts[0])
        ti_id = await world.ti(dag_id, context_carrier=contexts[1], **ti)
    async with told.server.client(ti_id, headers=NEWEST) as client:
        assert (await client.patch(f"/task-instances/{ti_id}/run", json=RUN)).status_code == 200
        assert (await client.patch(f"/task-instances/{ti_id}/state", json=REPORTS[report])).status_code in (200, 204)
    return ti_id


@pytest.mark.parametrize(("report", "map_index"), [(report, -1) for report in REPORTS] + [("success", 3)])
async def test_a_task(traced: tuple[Told, Told], revision: str, report: str, map_index: int) -> None:
    """Its ids are those that its worker was told, its parent is its run; and no other span is made."""
    told = []
    run, task = _traceparents()
    _, trace_id, run_id, _ = run.split("-")
    known = {trace_id: "the trace", run_id: "the run", task.split("-")[2]: "the task"}
    for each in traced:
        before = len(each.collector.spans)
        contexts = _carrier(run), _carrier(task)
        dag_id = f"{report} {map_index}"
        ti_id = await _ended(each, revision, dag_id, report, contexts, max_tries=1, map_index=map_index)
        spans = each.collector.wait_for(before + 1)[before:]
        told.append([_comparable(span, {**known, str(ti_id): "the task instance"}) for span in spans])
    theirs, ours = told
    assert ours[0]["attributes"][ID] == "the task instance"
    if revision == "3.2":  # its server gives a value of a type that no attribute has
        assert ID not in theirs[0]["attributes"]
        del ours[0]["attributes"][ID]
    elif report == "up_for_retry":  # theirs is the next try's, of which nobody else has heard
        theirs[0]["attributes"][ID] = "the task instance"
    assert ours == theirs


@pytest.mark.parametrize(("name", "number"), [("mapped", 1), ("again.numbers", 1), ("again.double[1]", 0)])
async def test_a_task_in_a_region(traced: tuple[Told, Told], revision: str, name: str, number: int) -> None:
    """Its span says in which, and where in it."""
    if revision < "3.4":
        pytest.skip(f"{revision} has none")
    told = []
    run, task = _traceparents()
    _, trace_id, run_id, _ = run.split("-")
    known = {trace_id: "the trace", run_id: "the run", task.split("-")[2]: "the task"}
    for each in traced:
        before = len(each.collector.spans)
        async with _connected(each.server) as connection:
            await empty(connection)
            ti_id = (await looping(World(connection, revision)))[name, number]
            await connection.execute("UPDATE dag_run SET context_carrier = $1", json.dumps(_carrier(run)))
            write = "UPDATE task_instance SET state = 'running', context_carrier = $2 WHERE id = $1"
            await connection.execute(write, ti_id, json.dumps(_carrier(task)))
        async with each.server.client(ti_id, headers=NEWEST) as client:
            assert (await client.patch(f"/task-instances/{ti_id}/state", json=REPORTS["success"])).status_code == 204
        told.append([_comparable(span, known) for span in each.collector.wait_for(before + 1)[before:]])
    theirs, ours = told
    assert ours == theirs
    assert "airflow.task_instance.region_id" in ours[0]["attributes"]


async def test_who_has_no_span(traced: tuple[Told, Told], revision: str) -> None:
    """A run that is not sampled has none, nor one without a context; what comes last shows that nothing came before."""
    unsampled, sampled = _traceparents("00"), _traceparents()
    for each in traced:
        before = len(each.collector.spans)
        await _ended(each, revision, "unsampled", "success", (_carrier(unsampled[0]), _carrier(unsampled[1])))
        await _ended(each, revision, "run without", "success", (None, _carrier(sampled[1])))
        await _ended(each, revision, "task without", "success", (_carrier(sampled[0]), None))
        await _ended(each, revision, "the last", "success", (_carrier(sampled[0]), _carrier(sampled[1])))
        (span,) = each.collector.wait_for(before + 1)[before:]
        assert span.attributes["airflow.dag_id"] == "the last"


async def test_new_traces(traced: tuple[Told, Told], revision: str) -> None:
    """A run that is triggered or cleared has a trace, sampled, and each of its tasks a span of its own in it."""
    told = []
    for each in traced:
        async with _connected(each.server) as connection, each.server.client(headers=NEWEST) as client:
            await empty(connection)
            ti_id = await triggerable(World(connection, revision))
            client.headers["Authorization"] = f"Bearer {token(ti_id)}"
            body = {"conf": {DETAIL_LEVEL: 2}, "logical_date": WHEN}
            assert (await client.post("/dag-runs/sample/manual__2", json=body)).status_code == 204
            triggered = await _contexts(connection)
            assert (await client.post("/dag-runs/sample/manual__2/clear")).status_code == 204
            cleared = await _contexts(connection)
            assert triggered.keys() == cleared.keys()
            assert not set(triggered.values()) & set(cleared.values())
            told.append([_shape(triggered), _shape(cleared)])
    theirs, ours = told
    assert ours == theirs
    assert all(shape["traces"] == 1 and shape["spans"] == len(shape["contexts"]) > 2 for shape in ours)


@pytest.mark.parametrize(("flags", "wishes"), [("00", {}), ("01", {}), ("00", {SAMPLED: True}), ("01", {SAMPLED: False})])
async def test_a_run_in_a_trace_of_others(
    traced: tuple[Told, Told], revision: str, flags: str, wishes: dict[str, bool]
) -> None:
    """Where its conf puts it into one, it is sampled as that is, or as it wishes."""
    parent, _ = _traceparents(flags)
    told = []
    for each in traced:
        async with _connected(each.server) as connection, each.server.client(headers=NEWEST) as client:
            await empty(connection)
            ti_id = await triggerable(World(connection, revision))
            client.headers["Authorization"] = f"Bearer {token(ti_id)}"
            conf = {PARENT: {"traceparent": parent, "tracestate": "theirs=1"}, DETAIL_LEVEL: 2, **wishes}
            assert (await client.post("/dag-runs/sample/manual__2", json={"conf": conf})).status_code == 204
            contexts = await _contexts(connection)
            is_in_it = {traceparent.split("-")[1] == parent.split("-")[1] for traceparent, _ in contexts.values()}
            told.append((_shape(contexts), is_in_it))
    theirs, ours = told
    assert ours == theirs
    assert ours[1] == {revision >= "3.4"}


async def _contexts(connection: asyncpg.Connection) -> dict[str, tuple[str, str | None]]:
    """Return the contexts of a triggered run and of its tasks."""
    rows = await connection.fetch(
        """SELECT '' AS task_id, context_carrier FROM dag_run WHERE dag_id = 'sample'
        UNION ALL SELECT task_id || coalesce(told->>'map_index', told->>'region_index'), context_carrier
        FROM task_instance, to_jsonb(task_instance) AS told WHERE dag_id = 'sample'"""
    )
    found = {row["task_id"]: json.loads(row["context_carrier"])["__var"] for row in rows}
    return {task_id: (carrier.pop("traceparent"), carrier.pop("tracestate", None)) for task_id, carrier in found.items()}


def _shape(contexts: dict[str, tuple[str, str | None]]) -> dict[str, Any]:
    """Return what of contexts can be compared."""
    parts = [traceparent.split("-") for traceparent, _ in contexts.values()]
    return {
        "contexts": {task_id: (traceparent[-2:], state) for task_id, (traceparent, state) in contexts.items()},
        "traces": len({trace_id for _, trace_id, _, _ in parts}),
        "spans": len({span_id for _, _, span_id, _ in parts}),
    }


async def test_what_a_request_brings(traced: tuple[Told, Told], revision: str) -> None:
    """Of a request that is part of a trace Airflow's server makes no span; ours does when the trace asks for details."""
    parent, _ = _traceparents()
    for is_ours, each in enumerate(traced):
        before = len(each.collector.spans)
        ti_id = uuid.uuid4()
        async with each.server.client(ti_id, headers=NEWEST) as client:
            for headers in ({}, {"tracestate": f"{DETAIL_LEVEL}=1"}, {"tracestate": f"{DETAIL_LEVEL}=2"}):
                answer = await client.get("/variables/none%2Fhere", headers={"traceparent": parent, **headers})
                assert answer.status_code == 404
        contexts = _carrier(parent), _carrier(_traceparents()[1])
        await _ended(each, revision, "after the request", "success", contexts)
        spans = each.collector.wait_for(before + 1 + is_ours)[before:]
        assert sorted(span.kind for span in spans) == ["SPAN_KIND_INTERNAL"] + ["SPAN_KIND_SERVER"] * is_ours


START = ("PATCH", "/task-instances/{}/run", RUN)
SUCCESS = ("PATCH", "/task-instances/{}/state", {**REPORTS["success"], "task_outlets": OUTLETS})
TRIGGER = ("POST", "/dag-runs/sample/manual__2", {"logical_date": WHEN})
CLEAR = ("POST", "/dag-runs/sample/r1/clear", None)


@pytest.mark.parametrize(
    ("setup", "request_", "least"),
    [
        ("queued", START, 0),
        ("outlets", SUCCESS, 2),
        ("sample", TRIGGER, 2),
        ("sample, several deadlines", TRIGGER, 4),
        ("to_clear, a newer version", CLEAR, 0),
        ("to_clear, on the newest version", CLEAR, 0),
    ],
)
async def test_counts(traced: tuple[Told, Told], revision: str, setup: str, request_: Any, least: int) -> None:
    """StatsD is told of a success, a trigger and a clear in the same lines; 3.2's server sends some, and only by chance."""
    told = []
    method, path, body = request_
    for each in traced:
        async with _connected(each.server) as connection:
            await empty(connection)
            ti_id = await SETUPS[setup](World(connection, revision))
        each.counts.lines()
        async with each.server.client(ti_id, headers=NEWEST) as client:
            answer = await client.request(method, path.format(ti_id), json=body)
            assert answer.status_code in (200, 204), answer.text
        told.append(sorted(TOOK.sub(":N|ms", line) for line in each.counts.lines() if not line.startswith(ELSEWHERE)))
    theirs, ours = told
    assert len(ours) >= least
    assert bool(ours) or request_ != START or revision < "3.4", "how long it was queued"
    assert ours == theirs or revision == "3.2"
