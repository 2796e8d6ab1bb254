"""Measure ours and Airflow's own servers side by side, on one PostgreSQL that flushes every commit.

Every server has one worker process on one CPU; PostgreSQL and the driver have the other. The targets take turns, round after
round; the table shows medians. Examples::

    python -m bench                                      # about ten minutes
    python -m bench --target ours --rounds 2             # while you tune
    python -m bench --task-instances 2000000             # is the cost of a request the same?
    python -m bench --memory --target ours               # 1,000,000 requests
    python -m bench --target ours --target "ours, sparing"  # heartbeats recorded every 30 s
    python -m bench --operations --rounds 2 --seconds 1   # every operation: six minutes
    python -m bench --database --rounds 2 --seconds 3     # settings of PostgreSQL, and sparing heartbeats: five minutes
    python -m bench --workers --rounds 3 --seconds 3      # one to eight worker processes: two minutes
    python -m bench --bodies --rounds 3                  # what one large request costs others
    python -m bench --curve --rounds 1 --seconds 4 --json docs/performance/curve.json  # 25 minutes
    python -m bench --curve --target ours --speed 0.25 --rounds 2  # served at a quarter of a CPU: 3 minutes
"""

from __future__ import annotations

import argparse
import asyncio
import compileall
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

import app
from app.commands.embedded import EmbeddedPostgres
from bench import bodies, cluster, curve, data, floors, inside, operations, report, variants, workers
from bench.driver import Load, Outcome, Task
from bench.processes import affinity, cpu_seconds, resident_bytes
from tests.relay import Relay, relay
from tests.servers import Server, airflow_server, beside_the_loop, our_server, pinned_environment

REVISIONS = {"ours": "3.3", "3.2.1": "3.2", "3.3.2": "3.3", "ours, sparing": "3.3", "ours, traced": "3.3"}
REVISIONS |= {"ours, 3.4": "3.4", "3.4.0b2": "3.4"}
SETTINGS: dict[str, dict[str, str]] = {
    "ours": {},
    "ours, 3.4": {},
    "ours, sparing": {"AIRFLOW__EXECUTION_API_SERVICE__HEARTBEAT_WRITE_INTERVAL": "30"},
    "ours, traced": {"AIRFLOW__TRACES__OTEL_ON": "True"},  # nothing that is asked here is sampled
}
DEFAULT_TARGETS = ["ours", "3.2.1", "3.3.2"]
SERVER_CPU, OTHER_CPU = {0}, {max(os.sched_getaffinity(0))}
ARRIVING = 3  # times as long as any other load: an overload of 30 s, with --seconds 10
WRITTEN = "SELECT pg_current_wal_lsn() - '0/0'"  # bytes of WAL since the database cluster was made
IDLE = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@dataclass
class Target:
    """A server under test, on its own database.

    :param lives: queued task instances that no life was given to yet.
    :param figures: what was measured, a value a round, by name.
    """

    name: str
    server: Server
    connection: asyncpg.Connection
    running: list[Task]
    lives: Iterator[Task]
    figures: dict[str, list[float]] = field(default_factory=dict)

    def note(self, name: str, value: float) -> None:
        self.figures.setdefault(name, []).append(value)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--target", action="append", choices=list(REVISIONS), help="a server, again for more (default: three)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each figure is taken (default: 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load (default: 4)")
    parser.add_argument("--task-instances", type=int, help="rows in the database (default: 50000; a curve: 150000)")
    parser.add_argument("--curve", action="store_true", help="ever more workers, instead of the table")
    parser.add_argument(
        "--speed",
        action="append",
        type=float,
        help="of --curve: closed loops alone, with this share of a CPU",
    )
    parser.add_argument("--operations", action="store_true", help="what one request of each costs, instead of the table")
    parser.add_argument("--database", action="store_true", help="what settings of PostgreSQL give, instead of the table")
    parser.add_argument("--workers", action="store_true", help="1 to 8 worker processes of ours, instead of the table")
    parser.add_argument("--bodies", action="store_true", help="what one large request costs others, instead of the table")
    parser.add_argument("--memory", action="store_true", help="resident memory over many requests, instead of the table")
    parser.add_argument("--requests", type=int, default=1_000_000, help="of --memory (default: 1000000)")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    options = parser.parse_args()
    targets = options.target or DEFAULT_TARGETS
    options.task_instances = options.task_instances or (150_000 if options.curve else 50_000)
    compileall.compile_dir(Path(app.__file__).parent, quiet=1)  # as pip compiles what it installs, Airflow too
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))  # a socket a worker, here and in the servers
    with ExitStack() as stack:
        with affinity(OTHER_CPU):
            postgres, folder = stack.enter_context(cluster.temporary(shared_buffers="1GB", max_wal_size="4GB"))
        os.sched_setaffinity(0, OTHER_CPU)
        if options.curve:
            points = asyncio.run(breaking_points(postgres, folder, targets, options))
            written, text = json.dumps(points, indent=1), json.dumps(points, indent=1)
        else:
            kinds = {
                "memory": memory,
                "bodies": large_requests,
                "operations": each_operation,
                "database": each_variant,
                "workers": worker_processes,
            }
            kind = next((kind for name, kind in kinds.items() if getattr(options, name)), measure)
            measured = kind(postgres, folder, targets, options)
            figures = asyncio.run(measured)
            table = operations.tables if options.operations else report.table
            written, text = json.dumps(figures, indent=1), table(figures)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(f"{written}\n")
        if options.curve:
            draw(options.json, options.json.with_suffix(".png"))
    sys.stdout.write(f"{text}\n")


def draw(source: Path, picture: Path) -> None:
    """Draw a curve with matplotlib, which has an environment of its own."""
    python = pinned_environment("bench") / "bin" / "python"
    subprocess.run([python, Path(__file__).parent / "plot.py", source, picture], check=True)


async def measure(
    postgres: EmbeddedPostgres, folder: Path, names: list[str], options: argparse.Namespace
) -> dict[str, dict[str, list[float]]]:
    """Return every figure of every target and floor."""
    for revision in sorted({REVISIONS[name] for name in names}):
        await template(postgres, revision, options.task_instances)
    seconds = await starts(postgres, names, folder, options.rounds)
    async with AsyncExitStack() as stack:
        targets = [await stack.enter_async_context(serving(postgres, name, folder)) for name in names]
        pid = postgres_pid(postgres)
        for number in range(options.rounds):
            for shift in range(len(targets)):
                target = targets[(number + shift) % len(targets)]
                sys.stderr.write(f"round {number + 1}: {target.name}\n")
                await one_round(target, pid, options.seconds)
        saturation = min(statistics.median(target.figures["busy requests/s"]) for target in targets)
        for _ in range(options.rounds):
            for target in targets:
                await at_rate(target, saturation, options.seconds)
        found = {target.name: {"seconds to start": seconds[target.name], **target.figures} for target in targets}
    if "3.3" in {REVISIONS[name] for name in names}:
        found |= await floors.measure(postgres, pid, folder, cpus=SERVER_CPU, rounds=options.rounds, seconds=options.seconds)
    return found


async def breaking_points(
    postgres: EmbeddedPostgres, folder: Path, names: list[str], options: argparse.Namespace
) -> dict[str, list[dict[str, float | str]]]:
    """Return each target's records; each has the machine for itself."""
    found: dict[str, list[dict[str, float | str]]] = {}
    for name in names:
        await template(postgres, REVISIONS[name], options.task_instances)
        async with serving(postgres, name, folder) as target:
            server = target.server
            found[name] = await curve.closed_loops(
                server.base_url,
                server.process.pid,
                target.lives,
                seconds=options.seconds,
                rounds=options.rounds,
                speeds=options.speed or curve.SPEEDS,
            )
        if options.speed:
            continue
        async with relay(postgres.url(database(postgres, name))) as between:
            between.latency = curve.LATENCY / 2
            async with serving(postgres, name, folder, through=between) as target:
                found[name] += await curve.arrivals(
                    target.server.base_url, target.server.process.pid, target.lives, seconds=options.seconds * ARRIVING
                )
    return found


async def memory(postgres: EmbeddedPostgres, folder: Path, names: list[str], options: argparse.Namespace) -> report.Figures:
    """Return each target's resident memory after 10,000 requests and after ``--requests``."""
    found: dict[str, dict[str, list[float]]] = {}
    for name in names:
        await template(postgres, REVISIONS[name], options.task_instances)
        async with serving(postgres, name, folder) as target:
            asked = 0
            for limit in (10_000, options.requests):
                while asked < limit:
                    load = Load(target.server.base_url, 64)
                    for loading in (load.lives(target.lives, seconds=2), load.heartbeats(target.running, seconds=8)):
                        asked += (await loading).requests
                    load.close()
                target.note(f"resident MiB after {limit:,}", resident_bytes(target.server.process.pid) / 2**20)
            found[name] = target.figures
    return found


async def large_requests(
    postgres: EmbeddedPostgres, folder: Path, names: list[str], options: argparse.Namespace
) -> report.Figures:
    """Return what large requests cost others, at each target."""
    found: dict[str, dict[str, list[float]]] = {}
    for name in names:
        await template(postgres, REVISIONS[name], options.task_instances)
        async with serving(postgres, name, folder) as target:
            server, tasks = target.server, iter(target.running)
            found[name] = await bodies.measure(server.base_url, server.process.pid, tasks, rounds=options.rounds)
    return found


async def each_operation(
    postgres: EmbeddedPostgres, folder: Path, names: list[str], options: argparse.Namespace
) -> report.Figures:
    """Return what one request of each operation costs, at each target; they take turns."""
    for name in names:
        await template(postgres, REVISIONS[name], options.task_instances)
        filled = await asyncpg.connect(postgres.url(database(postgres, name)))
        await operations.fill(filled, REVISIONS[name])
        await filled.close()
    pid = postgres_pid(postgres)
    async with AsyncExitStack() as stack:
        targets = [await stack.enter_async_context(serving(postgres, name, folder)) for name in names]
        asking = {each.name: operations.Asking(each.connection, each.running, each.lives) for each in targets}
        scans = {each.name: await operations.scans(each.connection) for each in targets}
        known = {target.name: await trips(postgres, folder, target, asking[target.name]) for target in targets}
        for target in targets:
            if target.name in SETTINGS:  # ours
                url = target.server.database_url
                for figure, value in await inside.measure(url, asking[target.name], known[target.name]):
                    target.note(figure, value)
        for number in range(options.rounds):
            for operation in operations.OPERATIONS:
                for target in targets[number % len(targets) :] + targets[: number % len(targets)]:
                    if operation in known[target.name]:
                        sys.stderr.write(f"round {number + 1}: {operation.name}, {target.name}\n")
                        requests = [*await asking[target.name].of(operation, operations.MOST)]
                        await operations.heard_before(
                            target.server.base_url, operation, requests, seconds=2 * options.seconds
                        )
                        log = await target.connection.fetchval(WRITTEN)
                        async with metered(target, pid, operation.name, connections=8) as (load, outcomes):
                            outcomes.append(await load.each(iter(requests), seconds=options.seconds))
                        written = await target.connection.fetchval(f"{WRITTEN} - $1", log)
                        target.note(f"{operation.name} WAL bytes", float(written / outcomes[0].requests))
    for target in targets:
        counted = await asyncpg.connect(postgres.url(database(postgres, target.name)))
        for table, count in (await operations.scans(counted)).items():
            if count > (before := scans[target.name].get(table, 0)):
                target.note(f"{operations.SCANS}{table}", count - before)
        await counted.close()
    return {target.name: target.figures for target in targets}


async def each_variant(
    postgres: EmbeddedPostgres, folder: Path, _: list[str], options: argparse.Namespace
) -> report.Figures:
    """Return what each way to set PostgreSQL gives."""
    await template(postgres, "3.3", options.task_instances)
    pid, rounds, seconds = postgres_pid(postgres), options.rounds, options.seconds
    return await variants.measure(
        postgres, pid, folder, template="template_3_3", cpus=SERVER_CPU, rounds=rounds, seconds=seconds
    )


async def worker_processes(
    postgres: EmbeddedPostgres, folder: Path, _: list[str], options: argparse.Namespace
) -> report.Figures:
    """Return what more worker processes give."""
    await template(postgres, "3.3", options.task_instances)
    own = database(postgres, "ours")
    return await workers.measure(postgres, folder, database=own, rounds=options.rounds, seconds=options.seconds)


async def trips(
    postgres: EmbeddedPostgres, folder: Path, target: Target, asking: operations.Asking
) -> list[operations.Operation]:
    """Count the round trips of each operation through a relay; return the operations that the target has."""
    found = []
    async with relay(postgres.url(database(postgres, target.name))) as between:
        url = between.url(target.server.database_url)
        async with beside_the_loop(started(target.name, url, folder / target.name)) as server:
            for operation in operations.OPERATIONS:
                count = await operations.round_trips(operation, asking, server.base_url, between)
                if count is not None:
                    target.note(f"{operation.name} round trips", count)
                    found.append(operation)
    return found


async def template(postgres: EmbeddedPostgres, revision: str, task_instances: int) -> None:
    """Make the database that each target's own is copied from, unless there is one."""
    name = f"template_{revision.replace('.', '_')}"
    if postgres.has_database(name):
        return
    postgres.create_metadata_database(name, revision)
    connection = await asyncpg.connect(postgres.url(name))
    try:
        await data.fill(connection, revision, task_instances=task_instances)
    finally:
        await connection.close()


def database(postgres: EmbeddedPostgres, name: str) -> str:
    """Make a target's own database, unless there is one."""
    own = "target_" + re.sub(r"\W+", "_", name)
    if not postgres.has_database(own):
        postgres.create_database(own, template=f"template_{REVISIONS[name].replace('.', '_')}")
    return own


async def starts(postgres: EmbeddedPostgres, names: list[str], folder: Path, rounds: int) -> dict[str, list[float]]:
    """Return the seconds from each start of a target, with nothing else on the machine, to its first answer."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            url, own = postgres.url(database(postgres, name)), folder / name
            own.mkdir(exist_ok=True)
            begun = time.perf_counter()
            async with beside_the_loop(started(name, url, own)):  # what is interrupted in the middle of it is stopped
                found[name].append(time.perf_counter() - begun)
    return found


@asynccontextmanager
async def serving(
    postgres: EmbeddedPostgres, name: str, folder: Path, *, through: Relay | None = None
) -> AsyncIterator[Target]:
    """Run a target on a copy of its template.

    :param through: between the server and its database, if something is.
    """
    url, own = postgres.url(database(postgres, name)), folder / name
    own.mkdir(exist_ok=True)
    async with beside_the_loop(started(name, through.url(url) if through else url, own)) as server:
        connection = await asyncpg.connect(url)
        try:
            tasks = await data.tasks(connection, "running", data.RUNNING)
            lives = iter(await data.tasks(connection, "queued", 100_000))
            yield Target(name, server, connection, tasks, lives)
        finally:
            await connection.close()


@contextmanager
def started(name: str, url: str, folder: Path) -> Iterator[Server]:
    """Run a server on CPUs of its own."""
    ours = SETTINGS.get(name)
    running = airflow_server(name, url, folder) if ours is None else our_server(url, folder, **ours)
    with ExitStack() as stack:
        with affinity(SERVER_CPU):
            server = stack.enter_context(running)
        yield server


def postgres_pid(postgres: EmbeddedPostgres) -> int:
    return int((postgres.data / "postmaster.pid").read_text().split()[0])


async def one_round(target: Target, postgres: int, seconds: float) -> None:
    """Take each figure of a target once."""
    await checkpointed(target)
    async with metered(target, postgres, "heartbeat", connections=8) as (load, outcomes):
        outcomes.append(await load.heartbeats(target.running, seconds=seconds))
    async with metered(target, postgres, "busy heartbeat", connections=128) as (load, outcomes):
        outcomes.append(await load.heartbeats(target.running, seconds=seconds))
    async with metered(target, postgres, "life", connections=8) as (load, outcomes):
        outcomes.append(await load.lives(target.lives, seconds=seconds))
    async with metered(target, postgres, "busy", connections=128) as (load, outcomes):
        outcomes.append(await load.lives(target.lives, seconds=seconds))
    target.note("resident MiB", resident_bytes(target.server.process.pid) / 2**20)
    target.note("database connections", await target.connection.fetchval(IDLE))


async def at_rate(target: Target, rate: float, seconds: float) -> None:
    """Take the latencies of 128 workers that together ask ``rate`` times a second."""
    load = Load(target.server.base_url, 128)
    outcome = await load.lives(target.lives, seconds=seconds * 2, rate=rate)
    load.close()
    check(target.name, outcome)
    target.note("steady p50 ms", outcome.quantile(0.5) * 1000)
    target.note("steady p99 ms", outcome.quantile(0.99) * 1000)
    target.note("steady requests/s", outcome.requests / outcome.seconds)


@asynccontextmanager
async def metered(
    target: Target, postgres: int, name: str, *, connections: int
) -> AsyncIterator[tuple[Load, list[Outcome]]]:
    """Meter one load: CPU of the server and of PostgreSQL and WAL for each request, requests a second, latencies."""
    load, outcomes = Load(target.server.base_url, connections), list[Outcome]()
    server, database = cpu_seconds(target.server.process.pid), cpu_seconds(postgres)
    written = await target.connection.fetchval(WRITTEN)
    yield load, outcomes
    written = await target.connection.fetchval(WRITTEN) - written
    server, database = cpu_seconds(target.server.process.pid) - server, cpu_seconds(postgres) - database
    load.close()
    (outcome,) = outcomes
    check(target.name, outcome)
    target.note(f"{name} server CPU ms", server / outcome.requests * 1000)
    target.note(f"{name} PostgreSQL CPU ms", database / outcome.requests * 1000)
    target.note(f"{name} WAL kB", float(written) / outcome.requests / 1000)
    target.note(f"{name} requests/s", outcome.requests / outcome.seconds)
    target.note(f"{name} p50 ms", outcome.quantile(0.5) * 1000)
    target.note(f"{name} p99 ms", outcome.quantile(0.99) * 1000)
    target.note(f"{name} driver CPU %", outcome.driver_cpu / outcome.seconds * 100)
    errors = {status: count for status, count in outcome.statuses.items() if not 200 <= status < 500}
    if errors:
        sys.stderr.write(f"{target.name}, {name}: {errors} of {outcome.requests}\n")
    target.note(f"{name} errors %", sum(errors.values()) / outcome.requests * 100)


def check(name: str, outcome: Outcome) -> None:
    """Refuse to measure answers that are not those that the load is made for."""
    refused = {status: count for status, count in outcome.statuses.items() if 400 <= status < 500}
    if refused or not outcome.requests:
        raise SystemExit(f"{name} refused requests of the load: {refused or 'none was answered'}")


async def checkpointed(target: Target) -> None:
    await target.connection.execute("CHECKPOINT")


if __name__ == "__main__":
    main()
