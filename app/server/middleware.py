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


def json_answer(body: Any) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return the headers and the content of a whole JSON answer.

    The content type carries no parameter, or the Task SDK does not read the detail.
    """
    content = orjson.dumps(body)
    return [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())], content


async def send_json(send: Send, status: int, body: Any) -> None:
    """Send a whole JSON answer."""
    await _send(send, status, *json_answer(body))


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], content: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
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
        logs.begin_request(found, scope.get("client"))
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


class Answered:
    """Counts and times every answer by its operation, and writes the access log.

    :param operation: tells which operation a request's method and path name, None for none; asked when nothing has put it on
        the scope (``operation``), as when a request is refused at the door.
    :param access_log: None for no line at all.
    """

    def __init__(self, *, operation: Callable[[Scope], str | None], access_log: AccessLog | None) -> None:
        self._operation = operation
        self._access_log = access_log

    def add(self, scope: Scope, status: int, seconds: float) -> None:
        """Record an answer.

        :param scope: at least the request's ``method`` and ``path``.
        :param seconds: since the request came.
        """
        operation = scope.get("operation") or self._operation(scope)
        if operation is None:  # labels are not a stranger's to make
            metrics.observe(metrics.NO_OPERATION, metrics.OTHER, status, seconds)
        else:
            metrics.observe(operation, scope["method"], status, seconds)
        if self._access_log is not None and self._access_log.has(scope["path"], status):
            logs.answered(scope["method"], scope["path"], status, round(seconds * 1000, 2))


class Observed:
    """Sees every answer of the application, and answers 500 for a defect.

    What every answer passes is passed here, once: it also adds the headers that were added on the scope.

    :param answered: is told of it.
    :param under_way: counted up and down.
    """

    def __init__(self, app: ASGIApp, *, answered: Answered, under_way: Count) -> None:
        self.app = app
        self.answered = answered
        self.under_way = under_way

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
            self.answered.add(scope, status, time.perf_counter() - started)


class RetryableErrors:
    """Answers 503 with ``Retry-After`` when the database could not do it now; no handler knows about it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except RetryableDatabaseError as error:
            log.warning(
                "retryable database error",
                reason=error.reason,
                path=scope["path"],
                sqlstate=getattr(error.__cause__, "sqlstate", None),
            )
            await send_unavailable(send, type(error))


def unavailable(error: type[RetryableDatabaseError]) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return the headers and the content of the 503 that says when to come back, and count why."""
    metrics.retryable(error.reason).inc()
    detail = {"reason": error.reason, "message": (error.__doc__ or "").split("\n")[0]}
    headers, content = json_answer({"detail": detail})
    return [*headers, (b"retry-after", str(error.delay + random.randint(0, JITTER)).encode())], content


async def send_unavailable(send: Send, error: type[RetryableDatabaseError]) -> None:
    """Answer 503, with when to come back."""
    await _send(send, HTTPStatus.SERVICE_UNAVAILABLE, *unavailable(error))
