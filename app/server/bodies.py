"""Bodies are read within bounds: of their bytes, of their values, and of all that this process holds at once.

Whose body is read is known by then: the token was verified before (:mod:`app.versions.dispatch`). How long a body may take
is bounded where its bytes come in (:mod:`app.server.protocol`).
"""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from itertools import accumulate

from starlette.types import Message, Receive, Scope

from app.errors import RefusedRequest, ServerBusy, invalid_value
from app.schemas.values import DEEPEST, TOO_DEEP
from app.server.middleware import header

SMALL_BODY = 1024 * 1024  # bytes; the largest of those without users' data lists tasks to skip: a thousand are 250 kB
UNCOUNTED = 64 * 1024  # bytes; smaller bodies, heartbeats above all, are never refused because of large ones
LARGE = 1024 * 1024  # bytes; to copy as many takes some 0.5 ms, in which nothing else runs
QUICK = 100_000  # bytes; what decodes and validates in some 3 ms may do so between two turns of the event loop
LONGEST_FIELD = 100  # bytes of a field's name that a refusal tells
LONGEST_LENGTH = 15  # digits of a Content-Length: a petabyte
DECODED_VALUES = 250_000  # of the worst kind they decode in 40 ms and validate in 60, in which nothing else runs
STORED_VALUES = 2_000_000  # which PostgreSQL alone decodes: at most 0.85 us and 300 bytes each, half of a statement's time
_NO_MARKS = bytes(set(range(256)) - set(b"[]{},"))
_SQUARE = bytes.maketrans(b"{}", b"[]")
_STEP = [1 if mark == ord("[") else -1 for mark in range(256)]  # by bracket
_EXPONENT = re.compile(rb"[eE][+-]?\d{3}")
_CUT_EXPONENT = 4  # bytes of one that the next piece completes


class Json:
    """Looks at a JSON text while its pieces come and decodes none: how many values it has, how deep, how large its numbers.

    Of values it never counts fewer than there are, and at most one too many for each array or object.
    """

    __slots__ = ("_carried", "_depth", "_in_string", "_tail", "has_large_exponents", "is_too_deep", "values")

    def __init__(self) -> None:
        self.values = 1
        self.is_too_deep = False  # more than DEEPEST levels
        self.has_large_exponents = False
        self._depth = 0
        self._in_string = False
        self._carried = b""
        self._tail = b""

    def feed(self, piece: bytes) -> None:
        """Look at what comes next; a string, an escape or a number may go on from the piece before."""
        piece = self._carried + piece
        is_cut = (len(piece) - len(piece.rstrip(b"\\"))) % 2
        self._carried = b"\\" * is_cut
        parts = piece[: len(piece) - is_cut].replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[self._in_string :: 2])
        self._in_string ^= len(parts) % 2 == 0
        numbers = self._tail + outside
        self.has_large_exponents |= _EXPONENT.search(numbers) is not None
        self._tail = numbers[-_CUT_EXPONENT:]
        marks = outside.translate(_SQUARE, _NO_MARKS)
        self.values += len(marks) - marks.count(b"]")
        brackets = marks.replace(b",", b"")
        inner = brackets.replace(b"[]", b"")  # of most texts little is left without their innermost level
        if self._highest(inner) >= DEEPEST and self._highest(brackets) > DEEPEST:
            self.is_too_deep = True
        self._depth += 2 * brackets.count(b"[") - len(brackets)

    def _highest(self, brackets: bytes) -> int:
        return max(accumulate(map(_STEP.__getitem__, brackets), initial=self._depth))


def content(scope: Scope) -> bytes:
    """Return the body that was read of a request."""
    found: bytes = scope["body"]
    return found


def too_deep_field(content: bytes) -> str | None:
    """Return the field of a JSON object in which it gets deeper than :data:`DEEPEST` levels, or None when it is no object.

    :param content: the beginning of a JSON text, beyond that place.
    """
    if not content.lstrip().startswith(b"{"):
        return None
    depth, last = 0, b""  # what a field holds comes after its name
    parts = content.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
    for number, part in enumerate(parts):
        if number % 2:
            last = part if depth == 1 else last
        elif len(part) > 1 or part not in b":,":
            for mark in part.translate(_SQUARE, _NO_MARKS).replace(b",", b""):
                depth += 1 if mark == ord("[") else -1
                if depth > DEEPEST:
                    return last[:LONGEST_FIELD].decode(errors="replace")
    return None


def seen(scope: Scope) -> Json | None:
    """Return what was seen of a body while it was read, or None for one of :data:`QUICK` bytes at most."""
    found: Json | None = scope.get("json")
    return found


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
        if message.get("more_body") or len(self._content) > QUICK:
            message = await self._read_on(scope, message)
        self.is_whole = message["type"] == "http.request"
        scope["body"] = self._content
        return self._content

    async def _read_on(self, scope: Scope, message: Message) -> Message:
        """Read what comes after the first piece, and look at all of it; return the last message."""
        parts, size, json = [self._content], len(self._content), Json()
        await self._look(json, parts, size)
        while message.get("more_body"):
            message = await self._receive()
            piece: bytes = message.get("body", b"")
            size += len(piece)
            self._hold(size)
            parts.append(piece)
            await self._look(json, parts, size)
        self._content = await asyncio.to_thread(b"".join, parts) if size > LARGE else b"".join(parts)
        if size > QUICK:
            scope["json"] = json
        return message

    async def _look(self, json: Json, parts: list[bytes], size: int) -> None:
        """Look at the last piece, and refuse what is too deep or too much; a small body's depth is told by its decoder."""
        json.feed(parts[-1])
        if json.is_too_deep and size > QUICK:
            is_value = self._values == STORED_VALUES  # an XCom: no fields
            field = None if is_value else await asyncio.to_thread(too_deep_field, b"".join(parts))
            place = ("body",) if field is None else ("body", field)
            raise RefusedRequest(HTTPStatus.UNPROCESSABLE_ENTITY, invalid_value(TOO_DEEP, *place))
        if json.values > self._values:
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
