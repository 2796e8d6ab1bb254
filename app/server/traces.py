"""Spans for OpenTelemetry, as Airflow's own server makes them; loaded only when ``[traces] otel_on`` says so.

The span of a task instance belongs to its run's trace, and those of its worker hang on it: its ids were drawn when the task
instance was created, stand in its row, and were told to the worker. It is made when the worker reports an end. A request has
a span of its own when the trace that it belongs to asks for details.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import entry_points
from threading import Thread
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import __version__
from app.errors import FOREIGN, ConfigurationError
from app.server import patience
from app.server.middleware import header
from app.settings import DETAIL_LEVEL, TraceSettings

log = structlog.get_logger(__name__)

EXPORTERS = "opentelemetry_traces_exporter"  # entry points, which Airflow looks in too
ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
FLUSHED_WITHIN = 3.0  # seconds, of the 5 that a worker has for its end beyond its drain
TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"
DETAIL = DETAIL_LEVEL.encode()

_w3c = TraceContextTextMapPropagator()


class Traces:
    """Makes spans and sends them, from a thread of its own; it belongs to the process that made it.

    The environment says where to and how many: OpenTelemetry's ``OTEL_*`` variables.

    :raises ConfigurationError: when the exporter cannot be made.
    """

    def __init__(self, settings: TraceSettings) -> None:
        if settings.endpoint and not (os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get(ENDPOINT)):
            os.environ[ENDPOINT] = settings.endpoint
        named = os.environ.get("OTEL_SERVICE_NAME") or os.environ.get("OTEL_RESOURCE_ATTRIBUTES")
        resource = Resource({"service.name": settings.service}) if settings.service and not named else None
        self._ids = _Ids()
        self._provider = TracerProvider(id_generator=self._ids, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_exporter()))
        self._tracer = self._provider.get_tracer("execution-api", __version__)

    async def close(self) -> None:
        """Send what is left, for :data:`FLUSHED_WITHIN` at most."""
        sending = Thread(target=self._provider.shutdown, daemon=True)  # no collector that is away shall hold up the end
        sending.start()
        await asyncio.to_thread(sending.join, FLUSHED_WITHIN)

    def run_carrier(
        self, *, detail: int, is_sampled: bool | None, attributes: Mapping[str, str], parent: Mapping[str, str] | None
    ) -> dict[str, str]:
        """Return the context of a new run's trace, or of its place in a trace that there is.

        :param detail: the level that the run asks for; 0 for none.
        :param is_sampled: whatever the sampler says; None: as it says.
        :param attributes: of the run, for the sampler.
        :param parent: the carrier of what it is part of.
        """
        context = _w3c.extract(parent or {})
        around = trace.get_current_span(context).get_span_context()
        trace_id, state = self._ids.generate_trace_id(), None
        if around.is_valid:
            trace_id, state = around.trace_id, around.trace_state
        if is_sampled is None:
            within = context if around.is_valid else None
            decision = self._provider.sampler.should_sample(within, trace_id, "dag_run", attributes=dict(attributes))
            is_sampled = decision.decision is Decision.RECORD_AND_SAMPLE
            state = state if decision.trace_state is None else decision.trace_state
        state = state or TraceState()
        return _carrier(
            SpanContext(
                trace_id,
                self._ids.generate_span_id(),
                is_remote=False,
                trace_flags=TraceFlags(TraceFlags.SAMPLED if is_sampled else TraceFlags.DEFAULT),
                trace_state=state.update(DETAIL_LEVEL, str(detail)) if detail else state,
            )
        )

    def task_carrier(self, run_carrier: Mapping[str, str]) -> dict[str, str]:
        """Return the context of a new task instance: that of the span which :meth:`task_ended` will make."""
        return _carrier(self._tracer.start_span("task_run", _w3c.extract(run_carrier)).get_span_context())

    def task_ended(self, row: Any, *, state: str, now: datetime) -> None:
        """Make the span of a task instance's try, if its run is sampled.

        :param row: the task instance, with ``span``: when it was queued, the contexts of its run and its own, in JSON; None
            if its run is not sampled.
        :param state: that it ended in.
        """
        if row.span is None:
            return
        try:
            queued, *stored = json.loads(row.span)
            run, own = map(_context, stored)
            if run is not None and own is not None:
                first = [now] if queued is None else [now, datetime.fromisoformat(queued)]
                self._make_task_span(row, run, own, state, min([*first, row.start_date or now]))
        except Exception:  # the state is recorded: the worker shall not hear of anything else
            log.warning("the span of a task instance could not be made", ti_id=str(row.id), exc_info=True)

    def _make_task_span(self, row: Any, run: Context, own: Context, state: str, started: datetime) -> None:
        index = f"[{row.map_index}]" if row.map_index >= 0 else ""
        with self._ids.given(trace.get_current_span(own).get_span_context()):
            span = self._tracer.start_span(f"task_run.{row.task_id}{index}", run, start_time=_nanoseconds(started))
        span.set_attributes(
            {
                "airflow.dag_id": row.dag_id,
                "airflow.task_id": row.task_id,
                "airflow.dag_run.run_id": row.run_id,
                "airflow.task_instance.try_number": row.try_number,
                "airflow.task_instance.map_index": row.map_index,
                "airflow.task_instance.state": state,
                "airflow.task_instance.id": str(row.id),
            }
        )
        if getattr(row, "region_id", None) is not None:
            place = ("region_id", str(row.region_id)), ("region_index", row.region_index)
            span.set_attributes({f"airflow.task_instance.{name}": value for name, value in place})
        span.set_status(StatusCode.OK if state == "success" else StatusCode.ERROR)
        span.end()

    def request_ended(self, scope: Scope, context: Context, *, status: int, started: int) -> None:
        """Make the span of a request: what was asked and what was answered, and nothing that a client or task made up.

        :param started: when, in nanoseconds since the epoch.
        """
        operation = scope.get("operation")
        attributes: dict[str, str | int] = {"http.request.method": scope["method"], "http.response.status_code": status}
        if operation is not None:
            attributes["http.route"] = operation
        span = self._tracer.start_span(
            f"{scope['method']} {operation}" if operation else scope["method"],
            context,
            SpanKind.SERVER,
            attributes,
            start_time=started,
        )
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end()


class RequestSpans:
    """Makes a span of each request that comes with a sampled trace that asks for more detail than tasks and runs.

    :param traces: tells what makes it, None before the application has started.
    :param is_trusting: whether a request needs no token for that; else it has none before its token is verified.
    """

    def __init__(self, app: ASGIApp, *, traces: Callable[[], Traces | None], is_trusting: bool) -> None:
        self.app = app
        self.traces = traces
        self.is_trusting = is_trusting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = _asked_for(scope) if scope["type"] == "http" else None
        if context is None:
            return await self.app(scope, receive, send)
        started, status = time.time_ns() - round(patience.waited(scope) * 1e9), 0

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, observe)
        finally:
            traces = self.traces()
            if traces is not None and (self.is_trusting or scope.get("token") is not None):
                traces.request_ended(scope, context, status=status, started=started)


class _Ids(RandomIdGenerator):
    """Draws ids, but for a span that was promised its own."""

    def __init__(self) -> None:
        self._given: SpanContext | None = None

    @contextmanager
    def given(self, context: SpanContext) -> Iterator[None]:
        """Let the span that the block makes have these ids, if they are valid."""
        self._given = context if context.is_valid else None
        try:
            yield
        finally:
            self._given = None

    def generate_span_id(self) -> int:
        return super().generate_span_id() if self._given is None else self._given.span_id

    def generate_trace_id(self) -> int:
        return super().generate_trace_id() if self._given is None else self._given.trace_id


def _exporter() -> SpanExporter:
    name = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    found = next(iter(entry_points(group=EXPORTERS, name=name)), None)
    if found is None:
        there = ", ".join(sorted({each.name for each in entry_points(group=EXPORTERS)}))
        raise ConfigurationError(f"OTEL_TRACES_EXPORTER is {name!r}: expected one of {there}")
    try:
        exporter: SpanExporter = found.load()()
    except FOREIGN as error:
        raise ConfigurationError(f"OTEL_TRACES_EXPORTER is {name!r}, which fails with {type(error).__name__}") from error
    return exporter


def _asked_for(scope: Scope) -> Context | None:
    """Return the context that a request came with, if it is sampled and asks for details.

    Most came with none, and most of the others need no more than the look at its flags: their last digit is odd if it is
    sampled.
    """
    parent = header(scope, TRACEPARENT)
    if parent is None or len(parent) < 55 or parent[54] not in b"13579bdf":
        return None
    state = header(scope, TRACESTATE)
    if state is None or DETAIL not in state:
        return None
    context = _w3c.extract({"traceparent": parent.decode("latin-1"), "tracestate": state.decode("latin-1")})
    level = trace.get_current_span(context).get_span_context().trace_state.get(DETAIL_LEVEL) or ""
    return context if level.isdecimal() and int(level) > 1 else None


def _carrier(context: SpanContext) -> dict[str, str]:
    carrier: dict[str, str] = {}
    _w3c.inject(carrier, trace.set_span_in_context(NonRecordingSpan(context)))
    return carrier


def _context(stored: Any) -> Context | None:
    """Return a context as the scheduler serialized it, None if there is none."""
    carrier = stored.get("__var") if isinstance(stored, dict) else None
    return _w3c.extract(carrier) if isinstance(carrier, dict) else None


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1e9)
