"""What the bytes of a request say before a parser has seen them: enough to let it wait, or to refuse it.

A thousand requests that were parsed, each with a task, are as much memory again for every cache between two looks at it; and
the parser and the task would be a third of what a refusal costs.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from app.server.admission import Kind, kind_of

HEAD_BYTES = 64 * 1024  # a request's line and headers; those of the Task SDK are 1 KiB, most of it the token

REQUEST_LINE = re.compile(rb"([A-Z]+) (/[^ ?]*)[^ ]* HTTP/1\.1\r\n")
AUTHORIZATION = b"\r\nauthorization:"

# The headers that clients of the Task SDK send, in which no parser can see anything else: what is not here may say how long
# the body is, whom a proxy asks for, or what else is to be done with the answer.
_OTHERS = rb"""(?:
    (?i:accept|accept-encoding|airflow-api-version|authorization|content-type|correlation-id|host|user-agent):[ ][ -~]*\r\n
    |(?i:connection:[ ]keep-alive)\r\n
)*"""
WHOLE = re.compile(
    rb"(DELETE|GET|PATCH|POST|PUT)[ ](/[!$&-;=@-Z_a-z~]*)(?:\?[!$&-;=?-Z_a-z~%]*)?[ ]HTTP/1\.1\r\n"
    + _OTHERS
    + rb"(?:(?i:content-length):[ ]([0-9]{1,5})\r\n"
    + _OTHERS
    + rb")?\r\n",
    re.VERBOSE,
)
CORRELATION_ID = re.compile(rb"(?i:\r\ncorrelation-id): *([ -~]*)")


def asked(data: bytes) -> tuple[Kind, bytes] | None:
    """Return what a request is for and whom it speaks for, or None if it has to be parsed before that is known.

    Below a proxy's path, or in pieces, it is: then it waits behind the parser.
    """
    if len(data) > HEAD_BYTES or (line := REQUEST_LINE.match(data)) is None or (end := data.find(b"\r\n\r\n")) < 0:
        return None
    if (kind := kind_of(line[1].decode(), line[2].decode("latin-1"))) is None:
        return None
    start = data[:end].lower().find(AUTHORIZATION)
    return kind, data[start + len(AUTHORIZATION) : data.find(b"\r\n", start + 2)].strip() if start >= 0 else b""


class Plain(NamedTuple):
    """All that there is to know of a request that is refused."""

    method: str
    path: str
    correlation_id: bytes | None


def plain(data: bytes) -> Plain | None:
    """Return what a request is that came whole, alone and in a form that leaves no parser a choice; None for any other."""
    if len(data) > HEAD_BYTES or (whole := WHOLE.match(data)) is None or len(data) != whole.end() + int(whole[3] or 0):
        return None
    found = CORRELATION_ID.search(data, whole.end(2), whole.end())
    return Plain(whole[1].decode(), whole[2].decode(), found and found[1])
