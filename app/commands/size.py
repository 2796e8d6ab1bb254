"""``execution-api size``: how many workers, connections and cores so many running tasks need, from what was measured.

The costs are those of docs/performance.md, for a core of an AMD EPYC: those of heartbeats that come by themselves. Many that
come together cost two thirds as much, and PostgreSQL half, which is left as a margin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from app.commands.counting import number_of

# Of a heartbeat, and of any of the ten requests of a task's life, three of which are heartbeats.
HEARTBEAT_CPU, LIFE_CPU = 0.170e-3, 0.292e-3  # seconds of this service
HEARTBEAT_POSTGRES_CPU, LIFE_POSTGRES_CPU = 0.102e-3, 0.195e-3  # seconds of PostgreSQL
HEARTBEAT_WAL, LIFE_WAL = 1310.0, 1820.0  # bytes
RESIDENT = 105 * 2**20  # bytes of a worker, without bodies in its hand
BUSY = 0.6  # of its core that a worker is at most, so that nobody waits while one is replaced or a burst comes
FEWEST = 2  # workers: one goes on while the other is replaced


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked.

    :param running_tasks: at the same time.
    :param heartbeat_seconds: between two heartbeats of a task.
    :param task_seconds: that a task runs, on average.
    :param requests: that a task makes beside its heartbeats: its start and end, variables, connections, XComs.
    """

    running_tasks: int
    heartbeat_seconds: float = 5.0
    task_seconds: float = 60.0
    requests: float = 7.0

    @property
    def heartbeat_rate(self) -> float:
        """Heartbeats a second."""
        return self.running_tasks / self.heartbeat_seconds

    @property
    def request_rate(self) -> float:
        """Other requests a second."""
        return self.running_tasks / self.task_seconds * self.requests


@dataclass(frozen=True, slots=True)
class Size:
    """What serves it.

    :param cores: that this service is busy with.
    :param workers: its processes, over all machines.
    :param connections: of all workers, to PostgreSQL or a PgBouncer.
    :param memory: bytes of all workers.
    :param postgres_cores: that PostgreSQL is busy with for this service.
    :param wal: bytes a second that PostgreSQL writes for this service.
    """

    cores: float
    workers: int
    connections: int
    memory: int
    postgres_cores: float
    wal: float


def _besides(life: float, heartbeat: float) -> float:
    """Return what a request of a task's life costs that is no heartbeat."""
    return (10 * life - 3 * heartbeat) / 7


def of(load: Load, *, pool_size: int = 10) -> Size:
    """Return what serves a load.

    :param pool_size: connections of a worker.
    """
    heartbeats, requests = load.heartbeat_rate, load.request_rate
    cores = heartbeats * HEARTBEAT_CPU + requests * _besides(LIFE_CPU, HEARTBEAT_CPU)
    workers = max(FEWEST, math.ceil(cores / BUSY))
    return Size(
        cores=cores,
        workers=workers,
        connections=workers * pool_size,
        memory=workers * RESIDENT,
        postgres_cores=heartbeats * HEARTBEAT_POSTGRES_CPU + requests * _besides(LIFE_POSTGRES_CPU, HEARTBEAT_POSTGRES_CPU),
        wal=heartbeats * HEARTBEAT_WAL + requests * _besides(LIFE_WAL, HEARTBEAT_WAL),
    )


def told(load: Load, size: Size) -> list[str]:
    """Return the lines that say it to a person."""
    rate = load.heartbeat_rate + load.request_rate
    return [
        f"{number_of(load.running_tasks, 'running task')} of {load.task_seconds:g} s,"
        f" a heartbeat each {load.heartbeat_seconds:g} s, {number_of(load.requests, 'request')} each besides:",
        "",
        f"requests     {rate:,.0f} a second, {load.heartbeat_rate:,.0f} of them heartbeats",
        f"workers      {size.workers:,}, with a core each; {size.cores:.2f} cores are busy",
        f"memory       {size.memory / 2**20:,.0f} MiB, and four times the bodies that are in hand",
        f"connections  {size.connections:,}, to PostgreSQL or a PgBouncer",
        f"PostgreSQL   {size.postgres_cores:.2f} cores and {size.wal / 1e6:.1f} MB of WAL a second, beside Airflow's own",
    ]
