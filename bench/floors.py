"""What cannot be undercut: an empty FastAPI route, and the heartbeat's statement sent by asyncpg and by pgbench."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from shutil import which

import asyncpg

from app.commands.embedded import EmbeddedPostgres, free_port
from bench import data
from bench.driver import Load, Task
from bench.processes import affinity, cpu_seconds
from tests.servers import ROOT, clean_environment, running

STATEMENT = (
    "UPDATE task_instance SET last_heartbeat_at = now(), updated_at = now()"
    " WHERE id = '{id}' AND state = 'running' AND hostname = 'worker' AND pid = 42;\n"
)
Figures = dict[str, list[float]]


async def measure(
    postgres: EmbeddedPostgres, pid: int, folder: Path, *, cpus: set[int], rounds: int, seconds: float
) -> dict[str, Figures]:
    """Return the floors' figures, named as the targets' are."""
    database = "floors"
    postgres.create_database(database, template="template_3_3")
    url = postgres.url(database)
    connection = await asyncpg.connect(url)
    tasks = await data.tasks(connection, "running", 8)
    await connection.close()
    found: dict[str, Figures] = {"empty FastAPI route": {}, "asyncpg": {}, "pgbench": {}}
    for _ in range(rounds):
        await _empty_route(found["empty FastAPI route"], tasks, folder, cpus, seconds)
        _asyncpg(found["asyncpg"], url, cpus, seconds, pid)
        _pgbench(found["pgbench"], url, tasks, folder, cpus, seconds, pid)
    return found


def _note(figures: Figures, name: str, value: float) -> None:
    figures.setdefault(name, []).append(value)


async def _empty_route(figures: Figures, tasks: list[Task], folder: Path, cpus: set[int], seconds: float) -> None:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "bench.floor_app:app", "--port", str(port), "--no-access-log"]
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT)}
    with affinity(cpus):
        starting = running(command, port=port, environment=environment, log=folder / "floor.log")
        server = starting.__enter__()
    try:
        load = Load(server.base_url, 8)
        before = cpu_seconds(server.process.pid)
        outcome = await load.heartbeats(tasks, seconds=seconds)
        used = cpu_seconds(server.process.pid) - before
        load.close()
    finally:
        starting.__exit__(None, None, None)
    _note(figures, "heartbeat server CPU ms", used / outcome.requests * 1000)
    _note(figures, "heartbeat requests/s", outcome.requests / outcome.seconds)


def _asyncpg(figures: Figures, url: str, cpus: set[int], seconds: float, postgres: int) -> None:
    command = [sys.executable, "-m", "bench.floor_asyncpg", url, str(seconds)]
    before = cpu_seconds(postgres)
    with affinity(cpus):
        told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()
    _note(figures, "heartbeat server CPU ms", float(told[0]))
    _note(figures, "heartbeat requests/s", float(told[1]))
    _note(figures, "heartbeat PostgreSQL CPU ms", (cpu_seconds(postgres) - before) / (float(told[1]) * seconds) * 1000)


def _pgbench(
    figures: Figures, url: str, tasks: list[Task], folder: Path, cpus: set[int], seconds: float, postgres: int
) -> None:
    program = which("pgbench")
    if program is None:
        return
    scripts = []
    for number, task in enumerate(tasks):
        script = folder / f"heartbeat-{number}.sql"
        script.write_text(STATEMENT.format(id=task.id))
        scripts += ["-f", str(script)]
    command = [program, "-n", "-M", "prepared", "-c", str(len(tasks)), "-j", "1", "-T", str(max(1, round(seconds)))]
    before = cpu_seconds(postgres)
    with affinity(cpus):
        done = subprocess.run([*command, *scripts, url], check=True, capture_output=True, text=True, env=dict(os.environ))
    count = re.search(r"transactions actually processed: (\d+)", done.stdout)
    rate = re.search(r"tps = ([\d.]+)", done.stdout)
    assert count is not None
    assert rate is not None
    _note(figures, "heartbeat PostgreSQL CPU ms", (cpu_seconds(postgres) - before) / int(count[1]) * 1000)
    _note(figures, "heartbeat requests/s", float(rate[1]))
