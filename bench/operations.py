"""What one request of each operation costs: CPU here and in PostgreSQL, round trips, write-ahead log, latency.

Operations that end something get task instances of their own; the others ask for one that runs. Every task instance has an
XCom and a row in the audit log, so that ``--task-instances`` makes all large tables large.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from bench import data
from bench.driver import END, RENDERED, RUN, VALUE, Load, Task, heartbeat
from tests.relay import Relay
from tests.world import World

MOST = 500  # requests of an operation in a round
ASSETS = 50  # pairs of them, so that eight workers seldom emit the same
RUNS = 2000  # of each Dag whose runs are stopped, skipped or cleared, each once: enough for three rounds
OTHERS = 10  # tasks of such a run that are stopped, skipped or cleared
TASKS = 50  # of a run that is triggered
LARGE = 10_000  # rows
SCANS = "sequential scans of "
METRICS = {
    "server CPU ms": "Server CPU of a request, ms",
    "PostgreSQL CPU ms": "PostgreSQL's CPU of a request, ms",
    "round trips": "Round trips to PostgreSQL",
    "WAL bytes": "Write-ahead log of a request, bytes",
    "p50 ms": "p50 at 8 workers, ms",
    "p99 ms": "p99 at 8 workers, ms",
    "allocated bytes": "Memory that Python allocates for a request, at its most, bytes",
    "first request CPU ms": "CPU of the event loop for the first request after a start, ms",
}
Request = tuple[str, str, Any]
_numbers = itertools.count()  # of whatever must be new each time


@dataclass(frozen=True)
class Operation:
    """One kind of request.

    :param of: whose tasks ask: a Dag of which each uses up a run, ``queued`` or ``running`` ones, each used once, or None.
    :param request: what a task asks.
    """

    name: str
    of: str | None
    request: Callable[[Task], Request]


def _state(**body: Any) -> Callable[[Task], Request]:
    return lambda task: ("PATCH", f"/task-instances/{task.id}/state", {**END, **body})


def _get(path: str) -> Callable[[Task], Request]:
    return lambda task: ("GET", path.format(task=task), None)


def _with_outlets(task: Task) -> Request:
    number = next(_numbers) % ASSETS
    outlets = [{"name": f"{part}{number}", "uri": f"s3://bench/{part}{number}", "type": "Asset"} for part in "ab"]
    return _state(task_outlets=outlets)(task)


_XCOM = "/xcoms/bench/{task.run_id}/{task.task_id}/return_value"
_DEFERRED = {"state": "deferred", "classpath": "T", "next_method": "execute_complete", "trigger_kwargs": {"moment": 1}}
OPERATIONS = (
    Operation("heartbeat", None, heartbeat),
    Operation("run", "queued", lambda task: ("PATCH", f"/task-instances/{task.id}/run", RUN)),
    Operation("success", "running", _state()),
    Operation("failed", "running", _state(state="failed")),
    Operation("retry", "running", _state(state="up_for_retry")),
    Operation("deferred", "running", lambda task: ("PATCH", f"/task-instances/{task.id}/state", _DEFERRED)),
    Operation("reschedule", "running", _state(state="up_for_reschedule", reschedule_date=END["end_date"])),
    Operation("success, two outlets", "running", _with_outlets),
    Operation(f"failed, fail-fast, {OTHERS} others", "fast", _state(state="failed")),
    Operation(
        f"skip-downstream, {OTHERS} tasks",
        "skipping",
        lambda task: (
            "PATCH",
            f"/task-instances/{task.id}/skip-downstream",
            {"tasks": [f"t{number + 1}" for number in range(OTHERS)]},
        ),
    ),
    Operation(
        f"clear a run of {OTHERS + 1}", "cleared", lambda task: ("POST", f"/dag-runs/cleared/{task.run_id}/clear", {})
    ),
    Operation(f"trigger a run of {TASKS}", None, lambda _: ("POST", f"/dag-runs/triggered/manual_{next(_numbers)}", {})),
    Operation("rendered fields", None, lambda task: ("PUT", f"/task-instances/{task.id}/rtif", RENDERED)),
    Operation("XCom set", None, lambda task: ("POST", _XCOM.format(task=task), VALUE)),
    Operation("XCom get", None, _get(_XCOM)),
    Operation("XCom slice", None, _get(f"{_XCOM}/slice?start=0&stop=5")),
    Operation("variable get", None, _get("/variables/v")),
    Operation("variable set", None, lambda task: ("PUT", f"/variables/of_{task.task_id}_{task.run_id}", {"value": "v"})),
    Operation("connection get", None, _get("/connections/c")),
    Operation("count", None, _get("/task-instances/count?dag_id=bench&run_ids={task.run_id}&states=running")),
    Operation("states", None, _get("/task-instances/states?dag_id=bench&run_ids={task.run_id}&task_ids={task.task_id}")),
    Operation("previous", None, _get("/task-instances/previous/bench/{task.task_id}?state=success")),
    Operation("Dag runs count", None, _get("/dag-runs/count?dag_id=bench&states=running&run_ids={task.run_id}")),
    Operation("asset events", None, _get("/asset-events/by-asset?name=a1&uri=s3://bench/a1&limit=5")),
)


async def fill(connection: asyncpg.Connection, revision: str) -> None:
    """Write what operations need beside the Dag ``bench``."""
    world = World(connection, revision)
    index = "region_index" if world.keeps_tries else "map_index"
    await world.dag("consumer")
    for number in range(ASSETS):
        for part in "ab":
            await world.scheduled_by("consumer", await world.asset(f"{part}{number}", f"s3://bench/{part}{number}"))
    for dag_id, count in {"triggered": TASKS, "fast": OTHERS + 1, "skipping": OTHERS + 1, "cleared": OTHERS + 1}.items():
        await world.dag(dag_id, fail_fast=dag_id == "fast")
        await world.serialized(dag_id, [{"__var": {"task_id": f"t{n}"}, "__type": "operator"} for n in range(count)])
    await connection.execute(
        "INSERT INTO dag_run (dag_id, run_id, state, run_type, logical_date, run_after, conf, queued_at, start_date,"
        " triggered_by, clear_number, created_dag_version_id)"
        " SELECT dag.dag_id, 'run_' || n, 'running', 'manual', at, at, '{}', at, at, 'TIMETABLE', 0, dag_version.id"
        " FROM (SELECT n, timestamptz '2020-01-01' + n * interval '1 hour' AS at FROM generate_series(1, $1::int) n),"
        " dag JOIN dag_version USING (dag_id) WHERE dag.dag_id IN ('fast', 'skipping', 'cleared')",
        RUNS,
    )
    await connection.execute(
        f"INSERT INTO task_instance (id, dag_id, task_id, run_id, {index}, state, try_number, max_tries, pool, pool_slots,"
        " queue, priority_weight, operator, custom_operator_name, hostname, unixname, pid, executor_config, context_carrier,"
        " task_display_name, updated_at, start_date, end_date, dag_version_id)"
        " SELECT uuidv7(), run.dag_id, 't' || n, run.run_id, -1,"
        " CASE WHEN run.dag_id = 'cleared' THEN 'success' WHEN n = 0 THEN 'running' END,"
        " 1, 0, 'default_pool', 1, 'default', 1, 'EmptyOperator', '', 'worker', 'airflow', 42, model.executor_config,"
        " model.context_carrier, 't' || n, now(), now(), CASE WHEN run.dag_id = 'cleared' THEN now() END,"
        " run.created_dag_version_id FROM generate_series(0, $1::int) n, dag_run run,"
        " (SELECT executor_config, context_carrier FROM task_instance LIMIT 1) model"
        " WHERE run.dag_id IN ('fast', 'skipping', 'cleared')",
        OTHERS,
    )
    await data.push(connection, world, "dag_id = 'bench' AND task_instance.state <> 'success'")
    await connection.execute(
        "INSERT INTO log (dttm, dag_id, task_id, run_id, map_index, event, owner, try_number)"
        f" SELECT now(), dag_id, task_id, run_id, {index}, 'running', 'airflow', 1 FROM task_instance"
        " WHERE dag_id = 'bench'",
        timeout=600,
    )
    await connection.execute("VACUUM ANALYZE", timeout=600)


class Asking:
    """Whose turn it is to ask, for one target.

    :param connection: to its database.
    :param running: tasks that run, and go on.
    :param queued: others, each used once.
    """

    def __init__(self, connection: asyncpg.Connection, running: Sequence[Task], queued: Iterator[Task]) -> None:
        self._connection = connection
        self._running = running
        self._queued = queued
        self._of_dag: dict[str, Iterator[Task]] = {}

    async def of(self, operation: Operation, count: int) -> Iterator[tuple[Task, Request]]:
        """Return so many requests, or as many as there are tasks for."""
        if operation.of is None:
            tasks: Iterator[Task] = itertools.cycle(self._running)
        elif operation.of in ("queued", "running"):
            taken = list(itertools.islice(self._queued, count))
            if operation.of == "running":
                await self._run(taken)
            tasks = iter(taken)
        else:
            if operation.of not in self._of_dag:
                self._of_dag[operation.of] = iter(await self._each_run(operation.of))
            tasks = self._of_dag[operation.of]
        return ((task, operation.request(task)) for task in itertools.islice(tasks, count))

    async def _run(self, tasks: Sequence[Task]) -> None:
        statement = "UPDATE task_instance SET state = 'running', hostname = 'worker', pid = 42, start_date = now()"
        await self._connection.execute(f"{statement} WHERE id = ANY($1::uuid[])", [task.id for task in tasks])

    async def _each_run(self, dag_id: str) -> list[Task]:
        statement = "SELECT id, task_id, run_id FROM task_instance WHERE dag_id = $1 AND task_id = 't0' ORDER BY id"
        return [Task.of(*row) for row in await self._connection.fetch(statement, dag_id)]


async def heard_before(
    base_url: str, operation: Operation, requests: Sequence[tuple[Task, Request]], *, seconds: float
) -> None:
    """Let each task that has begun send a heartbeat: it was heard when it began, and only then was its token a new one."""
    if operation.of not in (None, "queued"):
        load = Load(base_url, 8)
        await load.each(((task, heartbeat(task)) for task, _ in requests), seconds=seconds)
        load.close()


async def round_trips(operation: Operation, asking: Asking, base_url: str, through: Relay) -> float | None:
    """Return how many round trips a request takes; None when this server does not have the operation.

    :param base_url: of a server whose database is behind the relay.
    """
    warm, counted = 6, 4
    load = Load(base_url, 1)
    outcome = await load.each(await asking.of(operation, warm), seconds=30)
    before = through.trips
    if outcome.statuses.keys() <= {200, 201, 204}:
        outcome = await load.each(await asking.of(operation, counted), seconds=30)
    load.close()
    return (through.trips - before) / outcome.requests if outcome.statuses.keys() <= {200, 201, 204} else None


async def scans(connection: asyncpg.Connection) -> dict[str, int]:
    """Return how often each large table was read from end to end; this connection does so no more.

    A session's scans are counted when it has ended, or been idle for ten seconds.
    """
    await connection.execute("SET enable_seqscan = off")
    await connection.execute("SELECT pg_stat_force_next_flush()")
    return dict(await connection.fetch("SELECT relname, seq_scan FROM pg_stat_user_tables WHERE n_live_tup >= $1", LARGE))


def tables(found: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Return a table for each metric: a row an operation, a column a target, and how many times less ours takes."""
    metrics = (f"{title}\n\n{_table(found, metric)}" for metric, title in METRICS.items())
    scanned = (f"- {target}: {_scanned(figures) or 'none'}" for target, figures in found.items())
    return "\n\n".join([*metrics, f"Sequential scans of tables of {LARGE:,} rows and more\n\n" + "\n".join(scanned)])


def _scanned(figures: Mapping[str, Sequence[float]]) -> str:
    counts = {name.removeprefix(SCANS): sum(values) for name, values in figures.items() if name.startswith(SCANS)}
    return ", ".join(f"{table} {count:g}" for table, count in counts.items())


def _table(found: Mapping[str, Mapping[str, Sequence[float]]], metric: str) -> str:
    lines = [f"| | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]
    for operation in OPERATIONS:
        medians = {
            target: statistics.median(figures[name])
            for target, figures in found.items()
            if (name := f"{operation.name} {metric}") in figures
        }
        ours = medians.get("ours", 0)
        cells = [_cell(medians.get(target), None if target == "ours" else ours) for target in found]
        lines.append(f"| {operation.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None, ours: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}, {value / ours:.1f} ×" if ours else f"{value:.3g}"
