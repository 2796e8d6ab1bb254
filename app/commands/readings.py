"""What ``execution-api top`` reads: tasks and who holds what from the database, and what the service counts of itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from app import releases
from app.db import holders
from app.db.holders import Picture
from app.db.session import Database
from app.errors import ConfigurationError, LockTimeout, RetryableDatabaseError
from app.releases import Revision
from app.settings import Settings
from app.settings.database_url import place_of

HELD_SINCE = 1.0  # seconds; Airflow's transactions are shorter, but for what an operator wants to know of
METRICS_WITHIN = 2.0  # seconds for the service to tell its metrics
BUILD = "execution_api_build_info"  # whose metrics these are
LABELS = {  # the series that are read, and by which of their labels they are told apart
    BUILD: "version",
    "execution_api_transactions_repeated_total": "reason",
    "execution_api_retryable_errors_total": "reason",
    "execution_api_requests_at_the_door": "kind",
    "execution_api_database_waiting": "urgency",
    "execution_api_requests_in_flight": "",
    "execution_api_database_connections_used": "",
}


@dataclass(frozen=True, slots=True)
class Tasks:
    """The tasks of the database.

    :param late: of those that run, how many have been silent for more than half of the scheduler's patience.
    :param longest_silence: seconds since the oldest last heartbeat of a running task.
    :param heartbeat_timeout: seconds of silence after which the scheduler ends a task.
    """

    running: int
    queued: int
    late: int
    longest_silence: float | None
    heartbeat_timeout: float


@dataclass(frozen=True, slots=True)
class Counted:
    """What the service has counted since it started, and what there is now.

    :param requests: by operation.
    :param failed: those of them that were answered 503, or another status from 500 up.
    :param came_back: how often work met a lock and came back, by reason.
    :param unavailable: 503s by reason.
    :param at_the_door: requests that wait to be let in, by what they are for.
    :param waiting: who waits for a database connection, by urgency.
    """

    requests: Mapping[str, float]
    failed: Mapping[str, float]
    came_back: Mapping[str, float]
    unavailable: Mapping[str, float]
    at_the_door: Mapping[str, float]
    waiting: Mapping[str, float]
    in_flight: float
    connections: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found at one moment.

    :param database: where it is, without a password.
    :param tasks: None if the database could not be asked.
    :param picture: who holds what; None likewise.
    :param service: None if it did not answer.
    :param troubles: what could not be read, and why.
    """

    at: datetime
    database: str
    tasks: Tasks | None = None
    picture: Picture | None = None
    service: Counted | None = None
    troubles: tuple[str, ...] = ()


def metrics_url(settings: Settings) -> str:
    """Return where the service of these settings tells its metrics, on this machine."""
    server = settings.server
    host = "127.0.0.1" if server.host in {"0.0.0.0", ""} else "::1" if server.host == "::" else server.host
    host = f"[{host}]" if ":" in host else host
    return f"{'https' if server.ssl_cert else 'http'}://{host}:{server.metrics_port or server.port}/metrics"


class Watching:
    """Reads again and again, whatever is away meanwhile.

    :param metrics: URL of the service's metrics; None for where the settings have it.
    """

    def __init__(self, settings: Settings, *, metrics: str | None) -> None:
        self._settings = settings
        self._metrics = metrics or metrics_url(settings)
        self._where = place_of(settings.database.url)
        self._database = Database(replace(settings.database, pool_size=1), is_patient=False)
        # On this machine one knows whom one asks, whatever name is in the certificate.
        self._client = httpx.AsyncClient(timeout=METRICS_WITHIN, verify=metrics is not None)

    async def __aenter__(self) -> Watching:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()
        await self._database.close()

    async def read(self) -> Reading:
        """Return what is found now, and what could not be read."""
        reading, troubles = Reading(datetime.now(UTC), self._where), list[str]()
        try:
            reading = replace(reading, service=await self._counted())
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            troubles.append(f"no metrics at {self._metrics} ({type(error).__name__}): --metrics names another URL")
        try:
            reading = replace(reading, picture=await holders.look(self._database, since=HELD_SINCE))
            reading = replace(reading, tasks=await self._tasks(await releases.of(self._database)))
        except LockTimeout:
            troubles.append("the tasks cannot be counted: a table is locked")
        except (RetryableDatabaseError, ConfigurationError) as error:
            troubles.append(f"the database cannot be read: {error}")
        if reading.picture and not reading.picture.is_whole:
            troubles.append("this role may not see what others' sessions do: GRANT pg_read_all_stats to it")
        return replace(reading, troubles=tuple(troubles))

    async def _tasks(self, revision: Revision) -> Tasks:
        timeout = self._settings.heartbeat_timeout
        async with self._database.autocommit() as session:
            row = await revision.storage.queries.counts(session, late=timeout / 2)
        return Tasks(row.running, row.queued, row.late, row.longest_silence, timeout)

    async def _counted(self) -> Counted:
        answer = await self._client.get(self._metrics)
        answer.raise_for_status()
        return counted(answer.text)


def counted(exposition: str) -> Counted:
    """Return what a service counted, from its metrics in Prometheus' text format.

    :raises ValueError: when they are in no such format, or are not the service's.
    """
    sums = defaultdict[str, dict[str, float]](lambda: defaultdict(float))
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            labels = sample.labels
            if sample.name == "http_requests_total":
                operation = f"{labels['method']} {labels['handler']}"
                sums["requests"][operation] += sample.value
                sums["failed"][operation] += sample.value if labels["status"] >= "500" else 0
            elif sample.name in LABELS:
                sums[sample.name][labels.get(LABELS[sample.name], "")] += sample.value
    if BUILD not in sums:
        raise ValueError("these metrics are of something else")
    return Counted(
        requests=sums["requests"],
        failed={name: value for name, value in sums["failed"].items() if value},
        came_back=sums["execution_api_transactions_repeated_total"],
        unavailable=sums["execution_api_retryable_errors_total"],
        at_the_door=sums["execution_api_requests_at_the_door"],
        waiting=sums["execution_api_database_waiting"],
        in_flight=sum(sums["execution_api_requests_in_flight"].values()),
        connections=sum(sums["execution_api_database_connections_used"].values()),
    )


def as_plain(reading: Reading) -> dict[str, Any]:
    """Return a reading as JSON has it."""
    picture = reading.picture
    return {
        "at": reading.at,
        "database": reading.database,
        "tasks": reading.tasks,
        "service": reading.service,
        "held": None if picture is None else [{**asdict(held), "seconds": held.seconds} for held in picture.held],
        "troubles": reading.troubles,
    }
