"""Ever more workers against latencies and errors, until it breaks: measured here, drawn by ``bench/plot.py``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from bench.driver import Load, Outcome, Task

WORKERS = (16, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Point:
    """One load.

    :param workers: slots that run one task after the other, each request as soon as the one before it was answered.
    :param served: requests a second that were answered, and not with a 5xx.
    :param p50: of the served, in milliseconds from when they were sent; the same for ``p99``.
    :param refused: share that was answered 503; a worker that hears it pauses for a second, as the Task SDK does.
    :param lost: share that was answered with another 5xx, or not within the 5 s that the Task SDK waits.
    :param heartbeats_refused: share of the heartbeats that was not served.
    """

    workers: int
    served: float
    p50: float
    p99: float
    refused: float
    lost: float
    heartbeats_refused: float


async def measure(base_url: str, lives: Iterator[Task], *, seconds: float) -> list[dict[str, float]]:
    """Return a point for each number of workers, in their order."""
    points = []
    for workers in WORKERS:
        load = Load(base_url, workers)
        outcome = await load.lives(lives, seconds=seconds)
        load.close()
        points.append(asdict(_point(workers, outcome)))
    return points


def _point(workers: int, outcome: Outcome) -> Point:
    total = outcome.requests
    refused = outcome.statuses[503]
    lost = sum(count for status, count in outcome.statuses.items() if status != 503 and not 200 <= status < 500)
    return Point(
        workers=workers,
        served=(total - refused - lost) / outcome.seconds,
        p50=outcome.quantile(0.5) * 1000,
        p99=outcome.quantile(0.99) * 1000,
        refused=refused / total,
        lost=lost / total,
        heartbeats_refused=outcome.heartbeats_unserved / max(1, outcome.heartbeats),
    )
