"""More is asked than can be served: what becomes of the tasks. Measured here, drawn by ``bench/plot.py``.

Each task has a worker as the Task SDK has them: it asks one thing after the other, each up to five times, and is lost when
none of the five is answered. It is started once its ``run`` was answered: from then on its loss costs what it did.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any

from bench.driver import Client, Task, life, quantile
from bench.processes import cpu_seconds, quota

WORKERS = (32, 128, 256, 1024)
SPEEDS = (1.0, 0.5, 0.25)  # shares of a CPU that the server has
OVERLOADS = (0.5, 1.0, 2.0, 3.0)  # times the tasks a second that are finished at saturation
SATURATED = 128  # workers, which saturate every target
LATENCY = 0.02  # seconds to the database and back, while tasks arrive
SPARE = 1.0  # seconds between two loads
ATTEMPTS = 5  # the Task SDK's
SDK_PAUSES = ((1.0, 1.0), (1.0, 2.0), (1.0, 4.0), (1.0, 8.0))  # seconds before each further attempt, random between the two
NO_PAUSES = ((0.0, 0.0),) * (ATTEMPTS - 1)
PAUSES = {"pauses": SDK_PAUSES, "at once": NO_PAUSES}
Pauses = Sequence[tuple[float, float]]


REQUESTS = len(list(life(Task("", "", "", ""))))  # of a task's life


@dataclass
class Tally:
    """What became of the tasks of one load.

    :param offered: tasks that came.
    :param finished: that ended well while the load lasted.
    :param lost: by the request that was not answered, of those that were started.
    :param turned_away: whose start was not answered; nothing was done for them.
    :param answers: requests by status; 0 for none in time.
    :param latencies: seconds of each attempt that was served.
    :param heartbeats: the same of heartbeats, those that were not served too.
    :param by_second: how many were served in each second since it began.
    """

    offered: int = 0
    finished: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    turned_away: int = 0
    answers: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    heartbeats: list[float] = field(default_factory=list)
    by_second: Counter[int] = field(default_factory=Counter)
    _began: float = field(default_factory=time.perf_counter)

    def note(self, path: str, status: int, took: float) -> None:
        """Count an answer."""
        self.answers[status] += 1
        if 0 < status < 500:
            self.latencies.append(took)
            self.by_second[int(time.perf_counter() - self._began)] += 1
        if path.endswith("/heartbeat"):
            self.heartbeats.append(took)


@dataclass(frozen=True)
class Point:
    """One load.

    :param load: tasks a second that came, or workers that ran one task after the other.
    :param finished: tasks a second that ended well.
    :param served: requests a second that were answered, and not with a 5xx.
    :param cpu: milliseconds of the server's for each of them, with what refusing the others cost.
    :param lost: started tasks that were lost.
    :param turned_away: tasks that could not start.
    :param refused: share of the requests that was answered 503.
    :param unanswered: share that was answered with another 5xx, or not within the 5 s that the Task SDK waits.
    :param p50: of the served, in milliseconds; ``p99`` too, and ``heartbeat_p99``.
    """

    load: float
    finished: float
    served: float
    cpu: float
    lost: int
    turned_away: int
    refused: float
    unanswered: float
    p50: float
    p99: float
    heartbeat_p99: float


async def closed_loops(
    base_url: str, pid: int, lives: Iterator[Task], *, seconds: float, rounds: int, speeds: Sequence[float] = SPEEDS
) -> list[dict[str, float | str]]:
    """Return a record for each speed of the server, number of workers and kind of pauses.

    :param pid: of the server, whose CPU is bounded meanwhile.
    :param rounds: how often each load is put on, one round after the other; the record is of the time when most was served,
        since what else happens on a machine only ever takes away, and of all times what was lost and left unanswered. For
        the same reason what was served a second is the upper quartile of the seconds of all rounds.
    """
    found: dict[tuple[float, str, int], Point] = {}
    by_second = defaultdict[tuple[float, str, int], list[int]](list)
    for _ in range(rounds):
        for speed in speeds:
            with quota(pid, speed):
                for (name, pauses), workers in product(PAUSES.items(), WORKERS):
                    key, overload = (speed, name, workers), Overload(base_url, pid, lives, pauses)
                    point = await overload.workers(workers, seconds=seconds)
                    by_second[key] += overload.by_second(seconds)
                    before = found.get(key, point)
                    found[key] = replace(
                        max(point, before, key=lambda each: each.served),
                        lost=max(point.lost, before.lost),
                        unanswered=max(point.unanswered, before.unanswered),
                    )
                    await asyncio.sleep(SPARE)
    for key, point in found.items():
        found[key] = replace(point, served=quantile(by_second[key], 0.75))
    return [{"loop": "closed", "speed": key[0], "pauses": key[1], **asdict(point)} for key, point in found.items()]


async def arrivals(base_url: str, pid: int, lives: Iterator[Task], *, seconds: float) -> list[dict[str, float | str]]:
    """Return a record for each number of tasks that come a second and kind of pauses."""
    found: list[dict[str, float | str]] = []
    saturated = await Overload(base_url, pid, lives, SDK_PAUSES).workers(SATURATED, seconds=seconds)
    rate = saturated.served / REQUESTS
    for name, pauses in PAUSES.items():
        for times in OVERLOADS:
            point = await Overload(base_url, pid, lives, pauses).arrivals(rate * times, seconds=seconds)
            found.append({"loop": "open", "times": times, "saturation": rate, "pauses": name, **asdict(point)})
            await asyncio.sleep(SPARE)
    return found


class Overload:
    """Loads one server.

    :param base_url: of the execution API.
    :param pid: of the server.
    :param lives: queued task instances, each used once.
    :param pauses: between the attempts of a request.
    """

    def __init__(self, base_url: str, pid: int, lives: Iterator[Task], pauses: Pauses) -> None:
        self._base_url, self._pid, self._lives, self._pauses = base_url, pid, lives, pauses
        self._ends = float("inf")
        self._tally = Tally()

    async def workers(self, count: int, *, seconds: float) -> Point:
        """Let so many workers run one task after the other; what is counted begins when they have, for as long, to mix."""
        clients = [Client(self._base_url) for _ in range(count)]
        for client in clients:  # one after the other: what is measured is requests, not a thousand handshakes at once
            with suppress(OSError):
                await client.connected()

        async def run(client: Client) -> None:
            while True:
                await self._live(client)

        running = [asyncio.create_task(run(client)) for client in clients]
        await asyncio.sleep(seconds)
        self._tally, cpu = Tally(), cpu_seconds(self._pid)
        await asyncio.sleep(seconds)
        point = _point(count, self._tally, seconds, cpu_seconds(self._pid) - cpu)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for client in clients:
            client.close()
        return point

    def by_second(self, seconds: float) -> list[int]:
        """Return how many were served in each whole second of the load that was last put on for so many."""
        return [self._tally.by_second[second] for second in range(int(seconds))]

    async def arrivals(self, rate: float, *, seconds: float) -> Point:
        """Let so many tasks a second come, each with a worker of its own; who has started then goes on to its end."""
        clients = [Client(self._base_url) for _ in range(int(rate * seconds))]

        async def run(client: Client, index: int) -> None:
            await asyncio.sleep(index / rate)
            await self._live(client)
            client.close()

        self._tally, self._ends, cpu = Tally(), time.perf_counter() + seconds, cpu_seconds(self._pid)
        running = [asyncio.create_task(run(client, index)) for index, client in enumerate(clients)]
        await asyncio.sleep(seconds)
        cpu = cpu_seconds(self._pid) - cpu
        await asyncio.gather(*running)
        return _point(rate, self._tally, seconds, cpu)

    async def _live(self, client: Client) -> None:
        """Live one task; when the load ends, one that has not started gives up, and others go on to their end."""
        task = next(self._lives)
        self._tally.offered += 1
        for number, (method, path, body) in enumerate(life(task)):
            status = await self._ask(client, task, method, path, body, may_give_up=not number)
            if status is None:
                return
            if not 200 <= status < 300:
                if number:
                    self._tally.lost[f"{method} {path.rpartition('/')[2]}"] += 1
                else:
                    self._tally.turned_away += 1
                return
        if time.perf_counter() < self._ends:
            self._tally.finished += 1

    async def _ask(self, client: Client, task: Task, method: str, path: str, body: Any, *, may_give_up: bool) -> int | None:
        """Return the last status, or None if the load ended before the first answer below 500."""
        status = 0
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(random.uniform(*self._pauses[attempt - 1]))
            if may_give_up and time.perf_counter() > self._ends:
                return None
            asked = time.perf_counter()
            status = await client.ask(task, method, path, body)
            took = time.perf_counter() - asked
            if time.perf_counter() < self._ends:
                self._tally.note(path, status, took)
            if 0 < status < 500:
                break
        return status


def _point(load: float, tally: Tally, seconds: float, cpu: float) -> Point:
    asked = max(1, tally.answers.total())
    refused = tally.answers[503]
    unanswered = sum(count for status, count in tally.answers.items() if status != 503 and not 0 < status < 500)
    return Point(
        load=load,
        finished=tally.finished / seconds,
        served=len(tally.latencies) / seconds,
        cpu=cpu / max(1, len(tally.latencies)) * 1000,
        lost=tally.lost.total(),
        turned_away=tally.turned_away,
        refused=refused / asked,
        unanswered=unanswered / asked,
        p50=quantile(tally.latencies, 0.5) * 1000,
        p99=quantile(tally.latencies, 0.99) * 1000,
        heartbeat_p99=quantile(tally.heartbeats, 0.99) * 1000,
    )
