"""Pure ASGI middleware, in the order in which :func:`app.main.create_app` stacks it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import RetryableDatabaseError
from app.server import logs, metrics, patience

log = structlog.get_logger(__name__)

CORRELATION_HEADER = b"correlation-id"
CLIENT_GONE = 499  # no standard has a status for an answer that nobody hears; nginx' is what people know
JITTER = 2  # seconds; victims of one collision come back spread over three different seconds


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return a request's header, or None.

    :param name: in lower case.
    """
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None


async def send_json(send: Send, status: int, body: Any, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    """Send a whole JSON answer; the content type carries no parameter, or the Task SDK does not read the detail."""
    content = orjson.dumps(body)
    base = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": base + (headers or [])})
    await send({"type": "http.response.body", "body": content})


class RootPath:
    """Takes off the path below which a proxy puts us, where the proxy has not.

    :param root_path: without a slash at its end.
    """

    def __init__(self, app: ASGIApp, *, root_path: str) -> None:
        self.app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(f"{self._root_path}/"):
            scope["path"] = scope["path"][len(self._root_path) :]
        await self.app(scope, receive, send)


class CorrelationId:
    """Puts the ``correlation-id`` header, or a generated id, on every log line of the request, and echoes the header.

    It begins ``added_headers`` on the scope: what whoever sees the request adds to the headers of its answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        found = header(scope, CORRELATION_HEADER)
        client = scope.get("client")
        logs.begin_request(None if found is None else found.decode("latin-1"), client[0] if client else "")
        scope["added_headers"] = [(CORRELATION_HEADER, found)] if found else []
        await self.app(scope, receive, send)


@dataclass(slots=True)
class Count:
    """How many there are of something now."""

    now: int = 0


@dataclass(frozen=True, slots=True)
class AccessLog:
    """Which requests have a line in the log.

    :param share: of those that were answered without an error (below 400), from 0 to 1; errors always have one.
    :param heartbeats: whether heartbeats that were recorded are among them.
    """

    share: float = 1.0
    heartbeats: bool = True

    def has(self, path: str, status: int) -> bool:
        """Say whether an answer has a line."""
        if status >= HTTPStatus.BAD_REQUEST:
            return True
        if not self.heartbeats and path.endswith("/heartbeat"):
            return False
        return self.share >= 1 or random.random() < self.share


class Observed:
    """Counts and times every request by its operation, writes the access log, and answers 500 for a defect.

    What every answer passes is passed here, once: it also adds the headers that were added on the scope.

    :param operation: tells which operation a request's method and path name, None for none; asked when nothing has put it on
        the scope (``operation``), as when a request is refused at the door.
    :param under_way: counted up and down.
    :param access_log: None for no line at all.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        operation: Callable[[Scope], str | None],
        under_way: Count,
        access_log: AccessLog | None,
    ) -> None:
        self.app = app
        self.operation = operation
        self.under_way = under_way
        self.access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, status = time.perf_counter() - patience.waited(scope), 0

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *scope["added_headers"]]
            await send(message)

        self.under_way.now += 1
        try:
            await self.app(scope, receive, observe)
        except ClientDisconnect:  # it hears nothing: the answer is for our count and the log
            await send_json(observe, CLIENT_GONE, {"detail": "The client has gone"})
        except Exception:  # a defect, whatever it is
            log.exception("unexpected error", method=scope["method"], path=scope["path"])
            if status:
                raise  # the answer is under way: the server must cut the connection
            await send_json(observe, HTTPStatus.INTERNAL_SERVER_ERROR, {"detail": "Internal server error"})
        finally:
            self.under_way.now -= 1
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        operation = scope.get("operation") or self.operation(scope)
        if operation is None:  # labels are not a stranger's to make
            metrics.observe(metrics.NO_OPERATION, metrics.OTHER, status, seconds)
        else:
            metrics.observe(operation, scope["method"], status, seconds)
        if self.access_log is not None and self.access_log.has(scope["path"], status):
            logs.answered(scope["method"], scope["path"], status, round(seconds * 1000, 2))


class RetryableErrors:
    """Answers 503 with ``Retry-After`` when the database could not do it now; no handler knows about it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except RetryableDatabaseError as error:
            metrics.RETRYABLE.labels(error.reason).inc()
            log.warning(
                "retryable database error",
                reason=error.reason,
                path=scope["path"],
                sqlstate=getattr(error.__cause__, "sqlstate", None),
            )
            await send_unavailable(send, type(error))


async def send_unavailable(send: Send, error: type[RetryableDatabaseError]) -> None:
    """Answer 503, with when to come back."""
    detail = {"reason": error.reason, "message": (error.__doc__ or "").split("\n")[0]}
    retry_after = str(error.delay + random.randint(0, JITTER)).encode()
    await send_json(send, HTTPStatus.SERVICE_UNAVAILABLE, {"detail": detail}, [(b"retry-after", retry_after)])
