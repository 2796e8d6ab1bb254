"""Metrics, structured logs and the clock of a request."""

from __future__ import annotations

import logging
import sys

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


def configure_logging(level: str = "INFO", *, json_lines: bool | None = None) -> None:
    """Write one structured line per event to standard error.

    :param level: the lowest level that is written.
    :param json_lines: JSON instead of aligned text; by default JSON unless a person watches a terminal.
    """
    if json_lines is None:
        json_lines = not sys.stderr.isatty()
    renderer = structlog.processors.JSONRenderer() if json_lines else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
