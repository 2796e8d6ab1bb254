"""What more worker processes give, and take: requests a second of CPU; memory of each, its own and shared."""

from __future__ import annotations

import asyncio
import statistics
import sys
from pathlib import Path

import asyncpg

from app.commands.embedded import EmbeddedPostgres
from bench import data
from bench.driver import Load, Outcome
from bench.processes import cpu_seconds, memory_bytes, settled, tree
from tests.servers import our_server

COUNTS = (1, 2, 4, 8)
CONNECTIONS = 128
Figures = dict[str, list[float]]


async def measure(
    postgres: EmbeddedPostgres, folder: Path, *, database: str, rounds: int, seconds: float
) -> dict[str, Figures]:
    """Return the figures of servers with 1, 2, 4 and 8 workers, which take turns; they may use every CPU."""
    found: dict[str, Figures] = {f"{count} workers": {} for count in COUNTS}
    connection = await asyncpg.connect(postgres.url(database))
    running = await data.tasks(connection, "running", data.RUNNING)
    lives = iter(await data.tasks(connection, "queued", 100_000))
    await connection.close()
    for number in range(rounds):
        for count in COUNTS[:: -1 if number % 2 else 1]:
            sys.stderr.write(f"round {number + 1}: {count} workers\n")
            starting = our_server(postgres.url(database), folder, workers=count)
            server = await asyncio.to_thread(starting.__enter__)
            try:
                pid, figures = server.process.pid, found[f"{count} workers"]
                while len(tree(pid)) <= count:  # noqa: ASYNC110  # the parent and each of them
                    await asyncio.sleep(0.1)
                await settled(pid)
                load = Load(server.base_url, CONNECTIONS)
                before = cpu_seconds(pid)
                _note(figures, "heartbeat", await load.heartbeats(running, seconds=seconds), cpu_seconds(pid) - before)
                before = cpu_seconds(pid)
                _note(figures, "life", await load.lives(lives, seconds=seconds), cpu_seconds(pid) - before)
                load.close()
                private, shared = zip(*(memory_bytes(worker) for worker in tree(pid)[1:]), strict=True)
                figures.setdefault("own MiB a worker", []).append(statistics.mean(private) / 2**20)
                figures.setdefault("shared MiB a worker", []).append(statistics.mean(shared) / 2**20)
            finally:
                await asyncio.to_thread(starting.__exit__, None, None, None)
    return found


def _note(figures: Figures, name: str, outcome: Outcome, used: float) -> None:
    assert outcome.statuses.keys() <= {200, 201, 204}, outcome.statuses
    figures.setdefault(f"{name} requests/s", []).append(outcome.requests / outcome.seconds)
    figures.setdefault(f"{name} requests a second of CPU", []).append(outcome.requests / used)
