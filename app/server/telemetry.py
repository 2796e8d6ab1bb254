"""Metrics, structured logs and the clock of a request."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson
import structlog
from prometheus_client import Counter, Histogram

REQUESTS = Counter("execution_api_requests_total", "Requests answered", ["method", "route", "status"])
LATENCY = Histogram(
    "execution_api_request_seconds",
    "Time from the first byte of a request to the end of its answer",
    ["method", "route"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)

RETRYABLE = Counter("execution_api_retryable_errors_total", "Requests answered 503, by reason", ["reason"])


@lru_cache(maxsize=10_000)
def _children(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    """Return the counter and the histogram of one kind of answer; their library looks them up at a higher price."""
    return REQUESTS.labels(method, route, status), LATENCY.labels(method, route)


def observe(method: str, route: str, status: int, seconds: float) -> None:
    """Count a request that was answered."""
    requests, latency = _children(method, route, status)
    requests.inc()
    latency.observe(seconds)


def _json_line(event: Mapping[str, Any], **options: Any) -> bytes:
    try:
        return orjson.dumps(event, **options)
    except TypeError:  # an integer of more than 64 bits, or half a surrogate pair
        return json.dumps(event, **options).encode()


def configure_logging(level: str = "INFO", *, json_lines: bool | None = None) -> None:
    """Write one structured line per event to standard error.

    :param level: the lowest level that is written.
    :param json_lines: JSON instead of aligned text; by default JSON unless a person watches a terminal.
    """
    if json_lines is None:
        json_lines = not sys.stderr.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer()
    factory: Any = structlog.PrintLoggerFactory(sys.stderr)
    if json_lines:  # as bytes: a line a request is a good part of what a heartbeat costs
        renderer = structlog.processors.JSONRenderer(serializer=_json_line)
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
