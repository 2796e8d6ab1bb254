"""What needs libraries that are not always installed, the extras of the package: imported when a setting asks for it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from app.settings import Settings

if TYPE_CHECKING:
    from app.server.traces import Traces


def missing(settings: Settings) -> list[str]:
    """Say what is set and goes without effect, since the library for it is not installed."""
    if settings.traces.on and find_spec("opentelemetry.sdk") is None:
        return [_told("[traces] otel_on is True, but no spans are sent", "otel")]
    return []


def _told(what: str, extra: str) -> str:
    return f"{what}: the library for them is not installed (pip install 'execution-api[{extra}]')"


def traces(settings: Settings) -> Traces | None:
    """Return what makes spans; None when they are off, or the library is not installed.

    :raises ConfigurationError: when they cannot be sent.
    """
    if not settings.traces.on or find_spec("opentelemetry.sdk") is None:
        return None
    from app.server.traces import Traces

    return Traces(settings.traces)
