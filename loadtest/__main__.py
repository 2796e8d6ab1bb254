"""Load one or several servers with the same tasks, under the scheduler's writes or without them, and compare.

One embedded PostgreSQL, one database a target; after each run every promise that a client was given is compared with the
database. Examples::

    python -m loadtest                                    # ours, no other writer
    python -m loadtest --target ours --target 3.2.1 --scenario bulk
    python -m loadtest --users 400 --pause 5 --tasks 3000 # 400 running tasks of 30 s, beside what `size` says of them
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from app.commands import size
from app.commands.embedded import EmbeddedPostgres
from app.commands.size import Load
from bench import cluster
from bench.processes import cpu_seconds
from tests.servers import Server, airflow_server, clean_environment, our_server, pinned_environment, token
from tests.world import World

TARGETS = ("ours", "3.2.1", "3.3.2")
UNFINISHED = (
    "(state IS NULL OR state IN ('queued', 'scheduled', 'running', 'restarting', 'deferred', 'up_for_retry',"
    " 'up_for_reschedule'))"
)
RUN = "dag_id = 'load' AND run_id = 'manual__1'"


async def bulk(connection: asyncpg.Connection) -> None:
    """Write as the scheduler of 3.2.1 does: the run's row is held, its task instances are updated in one statement."""
    async with connection.transaction():
        await connection.execute(f"SELECT 1 FROM dag_run WHERE {RUN} FOR NO KEY UPDATE")
        await connection.execute(f"UPDATE task_instance SET updated_at = now() WHERE {RUN} AND {UNFINISHED}")


async def batches(connection: asyncpg.Connection) -> None:
    """Write as the plugin's scheduler does: batches of a hundred in primary-key order, what is locked is left for later."""
    async with connection.transaction():
        await connection.execute(f"SELECT 1 FROM dag_run WHERE {RUN} FOR NO KEY UPDATE")
        last = uuid.UUID(int=0)
        while True:
            found = await connection.fetch(
                f"SELECT id FROM task_instance WHERE {RUN} AND {UNFINISHED} AND id > $1"
                " ORDER BY id LIMIT 100 FOR UPDATE SKIP LOCKED",
                last,
            )
            if not found:
                return
            ids = [row["id"] for row in found]
            await connection.execute("UPDATE task_instance SET updated_at = now() WHERE id = ANY($1)", ids)
            last = ids[-1]


SCENARIOS: dict[str, Callable[[asyncpg.Connection], Awaitable[None]] | None] = {
    "none": None,
    "bulk": bulk,
    "plugin": batches,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--target", action="append", choices=TARGETS, help="a server to load, again for more (default: ours)"
    )
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), default="none", help="who else writes (default: none)")
    parser.add_argument("--users", type=int, default=32, help="worker slots (default: 32)")
    parser.add_argument("--tasks", type=int, default=1000, help="task instances to run (default: 1000)")
    parser.add_argument("--heartbeats", type=int, default=5, help="heartbeats a task after its first (default: 5)")
    parser.add_argument(
        "--pause",
        type=float,
        default=0,
        help="seconds between two heartbeats, so that each slot has a running task (default: 0)",
    )
    parser.add_argument("--seconds", type=int, default=120, help="end after so long at the latest (default: 120)")
    options = parser.parse_args()
    with cluster.temporary() as (postgres, folder):
        results = [asyncio.run(load(postgres, folder, target, options)) for target in options.target or ["ours"]]
    print(table(results, options))
    return int(any(result["wrong"] for result in results if result["target"] == "ours"))


async def load(postgres: EmbeddedPostgres, folder: Path, target: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run all tasks against one server; return its figures."""
    name = f"load_{target.replace('.', '_')}"
    revision = "3.2" if target == "3.2.1" else "3.3"
    postgres.create_metadata_database(name, revision)
    connection = await asyncpg.connect(postgres.url(name))
    ids = await seed(connection, revision, options.tasks)
    (folder / f"{name}.tasks").write_text("".join(f"{ti} {token(ti, valid_for=3600)}\n" for ti in ids))
    with start(target, postgres.url(name), folder) as server:
        before = await deadlocks(connection)
        async with writing(postgres.url(name), SCENARIOS[options.scenario]) as rounds:
            begun = await costs(server, postgres, connection)
            await asyncio.to_thread(locust, server, folder, name, options)
            ended = await costs(server, postgres, connection)
    promised = json.loads((folder / f"{name}.claims").read_text())
    found = {str(row["id"]): row["state"] for row in await connection.fetch("SELECT id, state FROM task_instance")}
    await asyncio.sleep(1.5)  # PostgreSQL's statistics come up to a second after the session that they tell of
    result = {
        **promised,
        "target": target,
        "rounds": rounds[0],
        "costs": [after - before for before, after in zip(begun, ended, strict=True)],
        "deadlocks": await deadlocks(connection) - before,
        "wrong": sum(found.get(ti) != state for ti, state in promised["claims"].items()),
        "ended": sum(state in ("success", "deferred") for state in found.values()),
    }
    await connection.close()
    return result


async def seed(connection: asyncpg.Connection, revision: str, tasks: int) -> list[uuid.UUID]:
    world = World(connection, revision)
    await world.dag("load")
    await world.run("load")
    ids = []
    async with connection.transaction():
        for _ in range(tasks):
            ti = uuid.uuid4()
            ids.append(await world.ti("load", str(ti), id=ti, max_tries=0))
    await connection.execute("ANALYZE")
    return ids


def start(target: str, url: str, folder: Path) -> AbstractContextManager[Server]:
    if target == "ours":
        return our_server(url, folder, AIRFLOW__EXECUTION_API_SERVICE__ACCESS_LOG="False")
    return airflow_server(target, url, folder)


@asynccontextmanager
async def writing(url: str, write: Callable[[asyncpg.Connection], Awaitable[None]] | None) -> AsyncIterator[list[int]]:
    """Let the other writer loop until the block ends; yield how many rounds it made."""
    rounds = [0]
    if write is None:
        yield rounds
        return
    connection, ended = await asyncpg.connect(url), asyncio.Event()

    async def loop() -> None:
        while not ended.is_set():
            try:
                await write(connection)
                rounds[0] += 1
            except asyncpg.DeadlockDetectedError:  # the scheduler is the victim as often as the server is
                pass

    looping = asyncio.create_task(loop())
    yield rounds
    ended.set()
    await looping
    await connection.close()


async def costs(server: Server, postgres: EmbeddedPostgres, connection: asyncpg.Connection) -> tuple[float, float, float]:
    """Return CPU seconds of the server, those of PostgreSQL, and bytes of WAL, since they began."""
    assert postgres._process
    written = int(await connection.fetchval("SELECT pg_current_wal_lsn() - '0/0'"))
    return cpu_seconds(server.process.pid), cpu_seconds(postgres._process.pid), written


async def deadlocks(connection: asyncpg.Connection) -> int:
    query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    return int(await connection.fetchval(query))


def locust(server: Server, folder: Path, name: str, options: argparse.Namespace) -> None:
    environment = {
        **clean_environment(),
        "LOADTEST_TASKS": str(folder / f"{name}.tasks"),
        "LOADTEST_CLAIMS": str(folder / f"{name}.claims"),
        "LOADTEST_HEARTBEATS": str(options.heartbeats),
        "LOADTEST_PAUSE": str(options.pause),
    }
    program = pinned_environment("locust") / "bin" / "locust"
    life = max(1, options.pause * (options.heartbeats + 1))  # seconds, over which the beginnings are spread
    arguments = ["--headless", "--only-summary", "--users", str(options.users), "--spawn-rate", str(options.users / life)]
    arguments += ["--run-time", f"{options.seconds}s", "--host", server.base_url, "--exit-code-on-error", "0"]
    script = Path(__file__).parent / "locustfile.py"
    done = subprocess.run(
        [str(program), "-f", str(script), *arguments], env={**environment, "PATH": os.environ["PATH"]}, capture_output=True
    )
    if not (folder / f"{name}.claims").exists():
        raise SystemExit(f"locust failed:\n{done.stderr.decode()[-3000:]}")


def table(results: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """Return the results as a Markdown table, then each failed answer by reason."""
    rows = [
        f"scenario {options.scenario}, {options.users} users, {options.tasks} tasks of {options.heartbeats + 1} heartbeats",
        "",
        "| server | requests/s | p50 ms | p95 ms | p99 ms | failed answers | deadlocks | writer's rounds | tasks ended"
        " | promises broken |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        rate = r["requests"] / r["seconds"] if r["seconds"] else 0
        rows.append(
            f"| {r['target']} | {rate:.0f} | {r['p50']} | {r['p95']} | {r['p99']} | {r['failures']} | {r['deadlocks']}"
            f" | {r['rounds']} | {r['ended']} | {r['wrong']} |"
        )
    for r in results:
        rows += ["", *sized(r)]
    for r in results:
        rows += [f"{r['target']}: {count} x {reason}" for reason, count in sorted(r["reasons"].items())]
    return "\n".join(rows)


def sized(result: dict[str, Any]) -> list[str]:
    """Return what a run cost, beside what ``execution-api size`` says that its requests cost."""
    requests, heartbeats = result["requests"], result["heartbeats"]
    # As if all came in one second: what a second costs is then what all cost.
    said = size.of(Load(1, heartbeat_seconds=1 / heartbeats, task_seconds=1, requests=requests - heartbeats))
    head = f"{result['target']}: {requests:,} requests, {heartbeats:,} of them heartbeats, in {result['seconds']:.0f} s"
    named = zip(("CPU of the service, s", "CPU of PostgreSQL, s", "WAL, bytes"), result["costs"], strict=True)
    expected = (said.cores, said.postgres_cores, said.wal)
    lines = [f"| {name} | {reckoned:,.1f} | {cost:,.1f} |" for (name, cost), reckoned in zip(named, expected, strict=True)]
    return [head, "", "| cost | `execution-api size` | measured |", "|---|---|---|", *lines]


if __name__ == "__main__":
    sys.exit(main())
