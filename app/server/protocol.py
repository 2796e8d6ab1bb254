"""HTTP/1.1 as uvicorn and httptools speak it, within bounds: a head's bytes, the time of a request and of an answer.

They have none of their own: a head could be of any size, a connection that never ended its head or body was kept for ever,
and so was an answer that nobody read. What is refused here has not reached the application, or is taken from it.

And what has to wait at the door (:mod:`app.server.admission`) waits here, as the bytes that it came in, and if it is not let
in it is answered from them (:mod:`app.server.heads`).
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.errors import PoolExhausted
from app.server import logs, patience
from app.server.admission import Door, Kind, Waiting
from app.server.draining import CLOSE
from app.server.heads import HEAD_BYTES, Plain, asked, plain
from app.server.middleware import CORRELATION_HEADER, Answered, Count, unavailable

log = structlog.get_logger(__name__)

HEAD_SECONDS = 10.0  # twice what a client of the Task SDK waits for its answer
REQUEST_SECONDS = 20.0  # for a head and a small body, and one more for each
BODY_BYTES_PER_SECOND = 256 * 1024  # of body: 64 MiB may take four and a half minutes
DROPPED_BYTES = 256 * 1024 * 1024  # of a body that came after its answer: read, so that the answer is heard, up to here
ANSWER_SECONDS = 30.0  # in which a client that is sent an answer reads at least something of it

UNSEEN = object()  # no scope is this

_feed = HttpToolsProtocol.data_received
_head_is_complete = HttpToolsProtocol.on_headers_complete
_message_is_complete = HttpToolsProtocol.on_message_complete


class Protocol(HttpToolsProtocol):
    """One connection; uvicorn makes it, and its callbacks are httptools'.

    A request is known by its scope, which uvicorn makes anew with its first byte. Most come in one or two pieces: they cost
    two look-ups here, and one timer every :data:`HEAD_SECONDS` at most, which looks when it fires whether it has a reason.
    uvicorn's own keep-alive bounds the time between two requests, and here the time before the first one too.

    The application's state has the ``door``, and ``under_way``, which counts who waits there like every other request.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._whole: Any = None  # the scope of the last request that came to its end
        self._watched: Any = UNSEEN  # the scope of the last request that did not come in one piece
        self._began = 0.0  # when its first piece came, by the loop's clock
        self._first = 0  # bytes of that piece, the end of the request before it among them perhaps
        self._piece = 0  # bytes of the last piece
        self._pieces = 0  # bytes of all that came after the first
        self._head_is_too_large = False
        self._timer: asyncio.TimerHandle | None = None
        self._answering: asyncio.TimerHandle | None = None
        application: Any = self.config.app
        self._door: Door = application.state.door
        self._under_way: Count = application.state.under_way
        self._answered: Answered = application.state.answered
        self._waiting: Waiting | None = None  # while a request of this connection is at the door,
        self._held = b""  # which came in these bytes
        self._turn: patience.Turn | None = None  # what its scope will say of that

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn narrows it
        super().connection_made(transport)
        self._keep_alive()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._timer, self._answering, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        if self._waiting is not None:
            self._door.leave(self._waiting)
            self._has_left()
        super().connection_lost(exc)
        self.cycle = None  # type: ignore[assignment]  # as it began; it refers to this, and both would be garbage

    def shutdown(self) -> None:
        if self._waiting is None:  # its answer will close the connection, as every answer does now
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        if self._waiting is not None:
            self._held += data
            if len(self._held) > HEAD_BYTES:
                self.flow.pause_reading()  # uvicorn goes on with it as the body is asked for
        elif self._door.is_open or not self._is_between_requests or (found := asked(data)) is None:
            self._parse(data)
        else:
            self._wait(data, *found)

    @property
    def _is_between_requests(self) -> bool:
        return self._whole is self.scope and (self.cycle is None or self.cycle.response_complete)

    def _wait(self, data: bytes, kind: Kind, client: bytes) -> None:
        """Let a request wait at the door before it costs more than its bytes."""
        self._unset_keepalive_if_required()
        self._held = data
        self._waiting = Waiting(kind=kind, client=client, since=self.loop.time(), answered=self._has_turn)
        self._under_way.now += 1
        self._door.hold(self._waiting)

    def _has_left(self) -> bytes:
        held, self._held, self._waiting = self._held, b"", None
        self._under_way.now -= 1
        return held

    def _has_turn(self, is_let_in: bool) -> None:
        """Go on with a request that waited: in a context of its own, since whoever makes room calls this."""
        assert self._waiting is not None
        since, data = self._waiting.since, self._has_left()
        if not is_let_in and (request := plain(data)) is not None:
            return Context().run(self._answer_unavailable, request, since)
        self._turn = patience.Turn(is_let_in, since)
        Context().run(self._parse, data)
        self._turn = None

    def _answer_unavailable(self, request: Plain, since: float) -> None:
        """Answer what the application would, without a parser and a task: hundreds may be refused in a second."""
        logs.begin_request(request.correlation_id, self.client)
        headers, content = unavailable(PoolExhausted)
        if request.correlation_id:
            headers.append((CORRELATION_HEADER, request.correlation_id))
        headers = [*self.server_state.default_headers, *headers]
        lines = b"".join([b"%s: %s\r\n" % header for header in headers])
        self.transport.write(b"%s%s\r\n%s" % (STATUS_LINE[HTTPStatus.SERVICE_UNAVAILABLE], lines, content))
        self.server_state.total_requests += 1
        if CLOSE in headers:
            self.transport.close()
        else:
            self._keep_alive()
        scope = {"type": "http", "method": request.method, "path": request.path}
        self._answered.add(scope, HTTPStatus.SERVICE_UNAVAILABLE, self.loop.time() - since)

    def _parse(self, data: bytes) -> None:
        self._piece = len(data)
        _feed(self, data)
        if self._whole is not self.scope or self.scope is None:
            self._watch()
        elif self.cycle.response_complete:
            self._keep_alive()  # a line's end alone, which is no request

    def on_headers_complete(self) -> None:
        if (
            self._first + self._pieces + self._piece
            > HEAD_BYTES
            < len(self.url) + sum(len(n) + len(v) + 4 for n, v in self.headers)
        ):
            self._head_is_too_large = True
            raise ValueError  # the parser stops, and asks for the answer below
        if self._turn is not None:
            self.scope[patience.TURN], self._turn = self._turn, None  # type: ignore[literal-required]  # a key of ours
        _head_is_complete(self)

    def on_message_complete(self) -> None:
        self._whole = self.scope
        _message_is_complete(self)

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refused."""
        if self._head_is_too_large:
            self._refuse_head()
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, "invalid_request", msg)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_answer()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._answering is not None:
            self._answering.cancel()

    @property
    def _awaits_head(self) -> bool:
        return self.cycle is None or self.cycle.scope is not self.scope

    def _keep_alive(self) -> None:
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _watch(self) -> None:
        """Bound what came of a request so far, and see to it that its time is bounded."""
        if self._watched is not self.scope:
            self._watched, self._began = self.scope, self.loop.time()
            self._first, self._pieces = self._piece, 0
        else:
            self._pieces += self._piece
        if self._pieces > HEAD_BYTES:
            if self._awaits_head:
                return self._refuse_head()
            if self._pieces > DROPPED_BYTES and self.cycle.response_complete:
                return self.transport.close()
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._look)

    def _look(self) -> None:
        """Refuse the request that comes in if it should have come by now."""
        self._timer = None
        if self._watched is not self.scope or self._whole is self.scope is not None:
            return
        allowed = HEAD_SECONDS if self._awaits_head else REQUEST_SECONDS + self._pieces / BODY_BYTES_PER_SECOND
        left = self._began + allowed - self.loop.time()
        if left > 0:
            self._timer = self.loop.call_later(left, self._look)
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", f"The request did not come within {allowed:.0f} s")

    def _watch_answer(self, unread: int | None = None) -> None:
        """Cut a client off that has read nothing since ``unread`` bytes were left."""
        left = self.transport.get_write_buffer_size()
        if unread is not None and left >= unread:
            log.warning("answer not read, connection closed", seconds=ANSWER_SECONDS)
            return self.transport.abort()
        self._answering = self.loop.call_later(ANSWER_SECONDS, self._watch_answer, left)

    def _refuse_head(self) -> None:
        message = f"The request's line and headers must not exceed {HEAD_BYTES} bytes"
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", message)

    def _refuse(self, status: HTTPStatus, reason: str, message: str) -> None:
        """Answer and close; where an answer is under way or was given, only close."""
        cycle = self.cycle
        is_under_way = cycle is not None and not cycle.response_complete
        if not (cycle.response_started if is_under_way else not self._awaits_head):
            log.warning("request refused", status=int(status), reason=reason)
            content = orjson.dumps({"detail": {"reason": reason, "message": message}})
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(content)
            self.transport.write(STATUS_LINE[status] + head + content)
        if is_under_way:
            cycle.disconnected = True  # the application hears that its client is gone
            cycle.message_event.set()
        self.transport.close()
