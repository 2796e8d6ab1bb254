"""Bodies are read within bounds: of their bytes, of their values, and of all that this process holds at once.

Whose body is read is known by then: the token was verified before (:mod:`app.versions.dispatch`). How long a body may take
is bounded where its bytes come in (:mod:`app.server.protocol`).
"""

from __future__ import annotations

from http import HTTPStatus

from starlette.types import Message, Receive, Scope

from app.errors import RefusedRequest, ServerBusy
from app.server.middleware import header

SMALL_BODY = 1024 * 1024  # bytes; the largest of those without users' data lists tasks to skip: a thousand are 250 kB
UNCOUNTED = 64 * 1024  # bytes; smaller bodies, heartbeats above all, are never refused because of large ones
QUICK = 100_000  # bytes; what decodes and validates in some 3 ms may do so between two turns of the event loop
LONGEST_LENGTH = 15  # digits of a Content-Length: a petabyte
DECODED_VALUES = 250_000  # of the worst kind they decode in 40 ms and validate in 60, in which nothing else runs
STORED_VALUES = 5_000_000  # which only PostgreSQL decodes: 0.3 us and 100 to 270 bytes each, within a statement's time
_NO_MARKS = bytes(set(range(256)) - set(b"[{,"))


class Values:
    """Counts the values of a JSON text while its pieces come and decodes none: the marks that begin and separate them.

    It never counts fewer than there are, and at most a value too many for each array or object.
    """

    def __init__(self) -> None:
        self.count = 1
        self._in_string = False
        self._carried = b""

    def feed(self, piece: bytes) -> None:
        """Count what comes next; a string or an escape may go on from the piece before."""
        piece = self._carried + piece
        is_cut = (len(piece) - len(piece.rstrip(b"\\"))) % 2
        self._carried = b"\\" * is_cut
        parts = piece[: len(piece) - is_cut].replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[self._in_string :: 2])
        self._in_string ^= len(parts) % 2 == 0
        self.count += len(outside.translate(None, _NO_MARKS))


class Bodies:
    """How much of bodies this process holds.

    :param together: bytes that all bodies above :data:`UNCOUNTED` may have.
    """

    def __init__(self, *, together: int) -> None:
        self.together = together
        self.held = 0


class Body:
    """The body of one request, which is held until it is let go.

    :param largest: bytes that it may have.
    :param values: JSON values that it may have.
    """

    __slots__ = ("_bodies", "_content", "_held", "_largest", "_receive", "_told", "_values", "is_whole")

    def __init__(self, bodies: Bodies, receive: Receive, *, largest: int, values: int) -> None:
        self._bodies = bodies
        self._receive = receive
        self._largest = largest
        self._values = values
        self._held = 0
        self._content = b""
        self._told = False
        self.is_whole = False

    async def read(self, scope: Scope) -> bytes:
        """Read and return it; when the client goes away meanwhile, ``is_whole`` stays False.

        :raises RefusedRequest: 400 or 413.
        :raises ServerBusy: when this process holds as much as it may.
        """
        self._hold(self._announced(scope))
        message = await self._receive()
        self._content = message.get("body", b"")
        self._hold(len(self._content))
        if message.get("more_body"):
            message = await self._read_on()
        elif len(self._content) > QUICK:
            self._count(Values(), self._content)
        self.is_whole = message["type"] == "http.request"
        return self._content

    async def _read_on(self) -> Message:
        """Read what comes after the first piece; return the last message."""
        parts, size, counted, more = [self._content], len(self._content), Values(), True
        counted.feed(self._content)
        while more:
            message = await self._receive()
            more = message.get("more_body", False)
            piece: bytes = message.get("body", b"")
            size += len(piece)
            self._hold(size)
            self._count(counted, piece)
            parts.append(piece)
        self._content = b"".join(parts)
        return message

    def _count(self, counted: Values, piece: bytes) -> None:
        counted.feed(piece)
        if counted.count > self._values:
            raise _too_large(f"{self._values} values")

    async def again(self) -> Message:
        """Tell the body that was read as an ASGI server would, in one piece, and then what comes after it."""
        if self._told:
            return await self._receive()
        self._told = True
        return {"type": "http.request", "body": self._content, "more_body": False}

    def let_go(self) -> None:
        """Hold it no longer."""
        self._bodies.held -= self._held
        self._held = 0

    def _announced(self, scope: Scope) -> int:
        """Return the length that the client announced, or 0."""
        length = header(scope, b"content-length")
        if length is None:
            return 0
        if len(length) > LONGEST_LENGTH or not length.isdigit():
            message = f"Content-Length must be a number of at most {LONGEST_LENGTH} digits"
            raise RefusedRequest(HTTPStatus.BAD_REQUEST, {"reason": "invalid_content_length", "message": message})
        return int(length)

    def _hold(self, size: int) -> None:
        if size > self._largest:
            raise _too_large(f"{self._largest} bytes")
        if size <= UNCOUNTED or size <= self._held:
            return
        if self._bodies.held + size - self._held > self._bodies.together:
            raise ServerBusy("the bodies that are held take all the memory that they may")
        self._bodies.held += size - self._held
        self._held = size


def _too_large(bound: str) -> RefusedRequest:
    message = f"The body must not exceed {bound}"
    return RefusedRequest(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"reason": "body_too_large", "message": message})
