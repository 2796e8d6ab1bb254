"""Everything that is counted, in one place: what a part of the service counts, it declares here and counts itself.

Requests have the names of the Prometheus FastAPI instrumentator, so that its dashboards work; ours begin with
``execution_api_``. Labels have few values, none that a request can make: operations, reasons, kinds and urgencies are ours.
Each worker process counts in a file of its own, and whoever is asked adds up those of all, of the dead too (decision 19).
What was counted is in the file a moment later (:class:`_Counted`). What is a state rather than a sum is sampled once a
second (:class:`Sampling`): it costs no request anything.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE_LATEST"]

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for every one, and nobody asks for it

FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # the environment variable by which the library knows that processes add up
NO_OPERATION = "none"  # what no operation's path and method match: one series, whatever a stranger asks for
OTHER = "other"  # its method
SAMPLED_EVERY = 1.0  # seconds
WRITTEN_AFTER = 0.1  # seconds
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class _Counted(values.MultiProcessValue()):  # type: ignore[misc]  # its base is made when it is asked for
    """A number in this process' file, written there once for however often it was counted up within a moment.

    Writing it costs ten times what adding to it does, and an answer counts up six of them. In a process that is killed, what
    it counted in its last moment is lost. Where no event loop samples (in the parent of the workers) it is written at once.
    """

    changed: ClassVar[list[_Counted]] = []
    loop: ClassVar[asyncio.AbstractEventLoop | None] = None
    _added = 0.0

    def inc(self, amount: float) -> None:
        if self.loop is None:
            super().inc(amount)
            return
        if not self._added:
            if not self.changed:
                self.loop.call_later(WRITTEN_AFTER, self.write)
            self.changed.append(self)
        self._added += amount

    @classmethod
    def write(cls) -> None:
        """Write what was counted."""
        while cls.changed:
            value = cls.changed.pop()
            added, value._added = value._added, 0.0
            super(cls, value).inc(added)


if FOLDER in os.environ:
    values.ValueClass = _Counted  # as the library has it for who names processes otherwise

REQUESTS = Counter("http_requests", "Requests answered, refused ones too", ["handler", "method", "status"])
DURATION = Histogram(
    "http_request_duration_seconds",
    "Time from when a request's head was read to the end of its answer",
    ["handler", "method"],
    buckets=SECONDS,
)
NOT_LET_IN = Counter(
    "execution_api_requests_not_let_in", "Requests answered 503 because others went first for too long", ["kind"]
)
RETRYABLE = Counter("execution_api_retryable_errors", "Requests answered 503, by reason", ["reason"])
REPEATED = Counter(
    "execution_api_transactions_repeated", "Transactions that let go of everything and came back, by reason", ["reason"]
)
BATCH = Histogram(
    "execution_api_heartbeat_batch_size",
    "Heartbeats that were recorded by one statement",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
)
NOT_WRITTEN = Counter("execution_api_heartbeats_not_written", "Heartbeats verified only, as heartbeat_write_interval has it")
TOKEN_REFUSALS = Counter("execution_api_token_refusals", "Tokens that were refused, by reason", ["reason"])
STATEMENT = Histogram(
    "execution_api_statement_seconds",
    "Time of a statement, its lock waits and its way to the database and back included",
    ["statement"],
    buckets=SECONDS,
)
WAIT = Histogram(
    "execution_api_database_wait_seconds",
    "What those waited for a database connection that found none free",
    ["urgency"],
    buckets=SECONDS,
)

AT_THE_DOOR = Gauge(
    "execution_api_requests_at_the_door", "Requests that wait to be let in", ["kind"], multiprocess_mode="liveall"
)
HELD = Gauge(
    "execution_api_requests_held",
    "Requests that wait for what others hold, or for the end of a migration, by what for; they have no connection meanwhile",
    ["reason"],
    multiprocess_mode="liveall",
)
IN_FLIGHT = Gauge("execution_api_requests_in_flight", "Requests under way", multiprocess_mode="liveall")
BODY_BYTES = Gauge("execution_api_body_bytes_held", "Bytes of bodies that are held in memory", multiprocess_mode="liveall")
CONNECTIONS = Gauge("execution_api_database_connections_used", "Database connections in use", multiprocess_mode="liveall")
WAITING = Gauge("execution_api_database_waiting", "Who waits for one", ["urgency"], multiprocess_mode="liveall")
LAG = Gauge(
    "execution_api_event_loop_lag_seconds",
    "How late the event loop was at most within a second",
    multiprocess_mode="liveall",
)
BUILD = Gauge("execution_api_build_info", "What serves", ["version", "metadata_revision"], multiprocess_mode="livemax")
RESTARTS = Counter("execution_api_worker_restarts", "Worker processes that were replaced, by reason", ["reason"])


retryable = lru_cache(RETRYABLE.labels)  # of a reason, of which there are a dozen


@lru_cache(maxsize=10_000)
def _children(handler: str, method: str, status: int) -> tuple[Counter, Histogram]:
    """Return the counter and the histogram of one kind of answer; their library looks them up at a higher price."""
    return REQUESTS.labels(handler, method, status), DURATION.labels(handler, method)


def observe(handler: str, method: str, status: int, seconds: float) -> None:
    """Count a request that was answered.

    :param handler: the path's template, or :data:`NO_OPERATION`.
    """
    requests, duration = _children(handler, method, status)
    requests.inc()
    duration.observe(seconds)


class Sampling:
    """Sets gauges once a second, in the running event loop.

    :param sources: what tells each gauge's value.
    """

    def __init__(self, sources: Mapping[Gauge, Callable[[], float]]) -> None:
        self._sources = sources
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, with a first sample."""
        _Counted.loop = asyncio.get_running_loop()
        self._sample()

    def _sample(self) -> None:
        for gauge, value in self._sources.items():
            gauge.set(value())
        self._timer = asyncio.get_running_loop().call_later(SAMPLED_EVERY, self._sample)

    def stop(self) -> None:
        """End it, and write what was counted."""
        if self._timer is not None:
            self._timer.cancel()
        _Counted.loop = None
        _Counted.write()


async def exposition() -> bytes:
    """Return all metrics, of every worker process, in Prometheus' text format; it takes milliseconds, so not in the loop."""
    _Counted.write()
    return await asyncio.to_thread(_exposition)


def _exposition() -> bytes:
    if FOLDER not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # the library's
    registry.register(_Processes())
    try:
        return generate_latest(registry)
    except (FileNotFoundError, struct.error):  # a file was taken away, or was not yet written, in this very moment
        return generate_latest(registry)


def forget(pid: int, *, has_served: bool = True) -> None:
    """Take back what a process that has ended, or serves nothing, tells of its state; what it counted stays.

    :param has_served: whether it counted anything; what did not leaves no file behind.
    """
    if FOLDER in os.environ:
        for file in Path(os.environ[FOLDER]).glob(f"gauge_live*_{pid}.db" if has_served else f"*_{pid}.db"):
            file.unlink()


def abandon() -> None:
    """Remove the folder in which processes count, when the one that made it has died."""
    shutil.rmtree(os.environ[FOLDER], ignore_errors=True)


class _Processes(Collector):
    """CPU, memory and open files of each worker process, as the library tells those of one."""

    def collect(self) -> Iterator[Metric]:
        found: dict[str, Metric] = {}
        for file in sorted(Path(os.environ[FOLDER]).glob("gauge_liveall_*.db")):
            pid = file.stem.rpartition("_")[2]
            for metric in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                samples = [sample._replace(labels={**sample.labels, "pid": pid}) for sample in metric.samples]
                found.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type)).samples += samples
        yield from found.values()
