"""What a server sends of itself: a collector of spans (OTLP over HTTP, or gRPC), and what listens for StatsD."""

from __future__ import annotations

import gzip
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

ARRIVES_WITHIN = 20.0  # seconds; the servers under test send every tenth of a second


@dataclass(frozen=True)
class Span:
    """A span as it was received; ids in hexadecimal, times in nanoseconds."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    status: str
    start: int
    end: int
    attributes: dict[str, Any]
    service: str

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-01"


@dataclass
class Collector:
    """Takes spans in."""

    url: str
    spans: list[Span] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, str]:
        """What sends a server's spans here, soon."""
        return {
            "AIRFLOW__TRACES__OTEL_ON": "True",
            "OTEL_TRACES_EXPORTER": "otlp_proto_http",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_SERVICE_NAME": "under-test",
        }

    def wait_for(self, count: int) -> list[Span]:
        """Return the spans, once there are so many."""
        deadline = time.monotonic() + ARRIVES_WITHIN
        while len(self.spans) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(self.spans) >= count, self.spans
        return self.spans


@dataclass
class StatsReceiver:
    """Hears what is sent to StatsD.

    :param opened: a socket, whose buffer keeps what has come until it is asked for.
    """

    opened: socket.socket

    def settings(self, client: str = "statsd") -> dict[str, str]:
        """What sends a server's counts here."""
        host, port = self.opened.getsockname()
        on = {"statsd": "STATSD_ON", "datadog": "STATSD_DATADOG_ENABLED"}[client]
        told = {on: "True", "STATSD_HOST": host, "STATSD_PORT": str(port)}
        return {f"AIRFLOW__METRICS__{name}": value for name, value in told.items()}

    def lines(self) -> list[str]:
        """Return what has come by now, and forget it: a datagram is there before the answer that follows it."""
        found = []
        with suppress(BlockingIOError):
            while True:
                found += self.opened.recv(65_535).decode().splitlines()
        return found


@contextmanager
def listening_for_stats() -> Iterator[StatsReceiver]:
    """Listen until the block ends."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.1", 0))
        opened.setblocking(False)
        yield StatsReceiver(opened)


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            collector.spans += _spans(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def collecting_by_grpc() -> Iterator[Collector]:
    """Run a collector of the other protocol until the block ends."""

    class Service(TraceServiceServicer):
        def Export(self, request: ExportTraceServiceRequest, _: Any) -> ExportTraceServiceResponse:
            collector.spans += _spans(request)
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(Service(), server)
    collector = Collector(f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        about = {each.key: each.value.string_value for each in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    name=span.name,
                    kind=WireSpan.SpanKind.Name(span.kind),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    status=Status.StatusCode.Name(span.status.code),
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                    attributes={each.key: _value(each.value) for each in span.attributes},
                    service=about.get("service.name", ""),
                )


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))
