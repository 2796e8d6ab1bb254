"""What needs libraries that are not always installed, the extras of the package: imported when a setting asks for it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from app.server.stats import Client, Datadog, Stats, StatsD
from app.settings import Settings

if TYPE_CHECKING:
    from app.server.traces import Traces


def missing(settings: Settings) -> list[str]:
    """Say what is set and goes without effect, since the library for it is not installed."""
    wanted = {}
    if settings.traces.on:
        wanted["otel"] = "[traces] otel_on is True, but no spans are sent", "opentelemetry.sdk"
    if client := settings.stats.client:
        wanted[client] = "[metrics] says that counts go to StatsD, but none are sent", client
    return [
        f"{said}: the library for them is not installed (pip install 'execution-api[{extra}]')"
        for extra, (said, module) in wanted.items()
        if find_spec(module) is None
    ]


def are_traces_made(settings: Settings) -> bool:
    """Say whether spans are on, and the library for them is installed."""
    return settings.traces.on and find_spec("opentelemetry.sdk") is not None


def traces(settings: Settings) -> Traces | None:
    """Return what makes spans; None when they are off, or the library is not installed.

    :raises ConfigurationError: when they cannot be sent.
    """
    if not are_traces_made(settings):
        return None
    from app.server.traces import Traces

    return Traces(settings.traces)


def counts(settings: Settings) -> Stats:
    """Return what sends counts to StatsD; nothing when that is off, or the library is not installed.

    :raises ConfigurationError: when they cannot be sent.
    """
    name = settings.stats.client
    clients: dict[str, type[Client]] = {"statsd": StatsD, "datadog": Datadog}
    return Stats(settings.stats, clients[name] if name and find_spec(name) is not None else None)
