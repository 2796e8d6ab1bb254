"""Counts for StatsD: those that Airflow's own server sends of what tasks ask of it, under its names and by its settings.

They go out at once, by UDP, and are lost where nobody listens; nothing waits for them. So their host's address is looked up
once, when the process starts: a name server that is silent would hold up the event loop.
"""

from __future__ import annotations

import re
import socket
import string
from collections.abc import Callable, Mapping
from datetime import timedelta
from importlib import import_module
from typing import Any, Protocol

import structlog

from app.errors import FOREIGN, ConfigurationError
from app.settings import StatsSettings

log = structlog.get_logger(__name__)

# What a count was called before its tags told the rest; sent too while [metrics] legacy_names_on says so.
LEGACY = {
    "task_instance_created": "task_instance_created_{task_type}",
    "task_removed_from_dag": "task_removed_from_dag.{dag_id}",
    "task.queued_duration": "dag.{dag_id}.{task_id}.queued_duration",
}
LONGEST = 250  # characters of a name
LETTERS = frozenset(string.ascii_letters + string.digits + "_.-/")


Send = Callable[[str, Mapping[str, str]], None]  # takes the name and the tags


class Client(Protocol):
    """What sends a count, or how long something took, in milliseconds."""

    def send(self, name: str, count: int, tags: Mapping[str, str], /) -> None: ...

    def time(self, name: str, milliseconds: float, tags: Mapping[str, str], /) -> None: ...

    def close(self) -> None: ...


class Stats:
    """Sends counts, or nothing at all.

    :param client: makes what sends them; None while nothing shall be sent.
    :raises ConfigurationError: when it cannot be made.
    """

    def __init__(self, settings: StatsSettings, client: Callable[[StatsSettings], Client] | None) -> None:
        self._settings = settings
        handler = settings.name_handler
        self._named: Callable[[str], str] = _imported(handler, "[metrics] stat_name_handler") if handler else self._checked
        self._client = None if client is None else client(settings)

    @property
    def are_on(self) -> bool:
        """Whether anything is sent."""
        return self._client is not None

    def close(self) -> None:
        """Close what sends them."""
        if self._client is not None:
            self._client.close()

    def incr(self, name: str, count: int = 1, tags: Mapping[str, str | None] | None = None) -> None:
        """Count something.

        :param tags: those that are None are left out.
        """
        if (client := self._client) is not None:
            self._tell(name, tags or {}, lambda told, known: client.send(told, count, known))

    def timing(self, name: str, took: timedelta, tags: Mapping[str, str | None] | None = None) -> None:
        """Tell how long something took.

        :param tags: those that are None are left out.
        """
        if (client := self._client) is not None:
            milliseconds = took.total_seconds() * 1000
            self._tell(name, tags or {}, lambda told, known: client.time(told, milliseconds, known))

    def _tell(self, name: str, tags: Mapping[str, str | None], send: Send) -> None:
        known = {tag: value for tag, value in tags.items() if value is not None}
        if name in LEGACY and self._settings.legacy_names:
            in_name = {tag: value.replace(".", "__") for tag, value in known.items()}
            rest = {tag: value for tag, value in known.items() if f"{{{tag}}}" not in LEGACY[name]}
            self._send_one(LEGACY[name].format(**in_name), rest, send)
        self._send_one(name, known, send)

    def _send_one(self, name: str, tags: Mapping[str, str], send: Send) -> None:
        tags = {tag: value for tag, value in tags.items() if not _matches(self._settings.disabled_tags, tag)}
        if self._settings.influxdb and self._settings.client == "statsd":
            name += "".join(f",{tag}={value}" for tag, value in tags.items() if not {",", "="} & {*tag, *value})
        try:
            name = self._named(name)
            if self._is_wanted(name):
                send(name, tags)
        except FOREIGN as error:  # the handler's own, or a name that is none: whoever counts has done its work
            log.warning("a count could not be sent to StatsD", reason=type(error).__name__)

    def _is_wanted(self, name: str) -> bool:
        if self._settings.allowed:
            return _matches(self._settings.allowed, name)
        return not _matches(self._settings.blocked, name)

    def _checked(self, name: str) -> str:
        letters = LETTERS | {",", "="} if self._settings.influxdb else LETTERS
        if len(name) > LONGEST or not letters.issuperset(name):
            raise ValueError("StatsD cannot be told such a name")
        return name


class StatsD:
    """The ``statsd`` library.

    :raises ConfigurationError: when the host has no address, or a client of one's own cannot be imported or made.
    """

    def __init__(self, settings: StatsSettings) -> None:
        from statsd import StatsClient

        path = settings.custom_client
        client = _imported(path, "[metrics] statsd_custom_client_path") if path else StatsClient
        try:
            self._client = client(settings.host, settings.port, settings.prefix, ipv6=settings.ipv6)
        except OSError as error:
            raise _without_address(settings) from error
        except FOREIGN as error:
            failed = f"[metrics] statsd_custom_client_path names {path!r}, which fails with {type(error).__name__}"
            raise ConfigurationError(failed) from None
        if isinstance(opened := getattr(self._client, "_sock", None), socket.socket):
            opened.setblocking(False)  # what does not fit into the system's buffer is lost, as all may be that goes by UDP

    def send(self, name: str, count: int, _: Mapping[str, str]) -> None:
        self._client.incr(name, count)

    def time(self, name: str, milliseconds: float, _: Mapping[str, str]) -> None:
        self._client.timing(name, milliseconds)

    def close(self) -> None:
        self._client.close()


class Datadog:
    """Datadog's library, which sends tags too.

    It would look a name up again whenever nobody listens there, so it is told an address.

    :raises ConfigurationError: when the host has none.
    """

    def __init__(self, settings: StatsSettings) -> None:
        from datadog.dogstatsd.base import DogStatsd

        self._has_tags = settings.datadog_metrics_tags
        try:
            found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_DGRAM)
        except OSError as error:
            raise _without_address(settings) from error
        *_, (address, *_) = min(found, key=lambda each: each[0] != socket.AF_INET)  # the fourth version first, as it has it
        self._client: Any = DogStatsd(
            host=str(address), port=settings.port, namespace=settings.prefix, constant_tags=list(settings.datadog_tags)
        )

    def send(self, name: str, count: int, tags: Mapping[str, str]) -> None:
        self._client.increment(metric=name, value=count, tags=self._told(tags))

    def time(self, name: str, milliseconds: float, tags: Mapping[str, str]) -> None:
        self._client.timing(metric=name, value=milliseconds, tags=self._told(tags))

    def _told(self, tags: Mapping[str, str]) -> list[str]:
        return [f"{tag}:{value}" for tag, value in tags.items()] if self._has_tags else []

    def close(self) -> None:
        self._client.stop()


def _without_address(settings: StatsSettings) -> ConfigurationError:
    return ConfigurationError(f"[metrics] statsd_host is {settings.host!r}, which has no address")


def _matches(patterns: tuple[re.Pattern[str], ...], name: str) -> bool:
    return any(pattern.search(name.strip().lower()) for pattern in patterns)


def _imported(path: str, setting: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except FOREIGN as error:
        raise ConfigurationError(f"{setting} names {path!r}, which cannot be imported ({type(error).__name__})") from None
