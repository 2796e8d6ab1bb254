"""Offered load against latencies and errors, until it breaks: measured here, drawn by ``bench/plot.py``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bench.driver import Load, Outcome

CONNECTIONS = 512
OURS = (500, 1000, 1500, 2000, 2500, 3000, 4000, 5000, 6000)  # requests a second
THEIRS = (25, 50, 100, 150, 200, 250, 300, 400, 600)


@dataclass(frozen=True)
class Point:
    """One load.

    :param offered: requests that were due, a second.
    :param served: requests a second that were answered, and not with a 5xx.
    :param p50: of the served, in milliseconds, from when they were due; the same for ``p99``.
    :param refused: share that was answered 503.
    :param lost: share that was answered with another 5xx, or not within the 5 s that the Task SDK waits.
    :param heartbeats_refused: share of the heartbeats that was not served.
    """

    offered: float
    served: float
    p50: float
    p99: float
    refused: float
    lost: float
    heartbeats_refused: float


async def measure(base_url: str, lives: Any, rates: tuple[int, ...], *, seconds: float) -> list[dict[str, float]]:
    """Return a point for each rate, in their order."""
    points = []
    for rate in rates:
        load = Load(base_url, CONNECTIONS)
        outcome = await load.lives(lives, seconds=seconds, rate=rate)
        load.close()
        points.append(asdict(_point(rate, outcome)))
    return points


def _point(rate: float, outcome: Outcome) -> Point:
    total = outcome.requests
    refused = outcome.statuses[503]
    lost = sum(count for status, count in outcome.statuses.items() if status != 503 and not 200 <= status < 500)
    return Point(
        offered=rate,
        served=(total - refused - lost) / outcome.seconds,
        p50=outcome.quantile(0.5) * 1000,
        p99=outcome.quantile(0.99) * 1000,
        refused=refused / total,
        lost=lost / total,
        heartbeats_refused=outcome.heartbeats_unserved / max(1, outcome.heartbeats),
    )
