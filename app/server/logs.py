"""Log lines: one an event on standard error, the same for every process and for what libraries log; and no value in them.

Neither the variables of a traceback's frames nor the text of an error are written: a driver quotes the value that it does
not take, a parser its input. The frames tell where it was, the error's class and SQLSTATE what it was.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import stat
import sys
import traceback
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Any, BinaryIO, cast

import orjson
import structlog

from app.errors import ConfigurationError

PIPE_BYTES = (
    1024 * 1024
)  # that wait to be read, the most that Linux lets anybody have: two seconds of requests at full speed

Event = MutableMapping[str, Any]

_access: Any = structlog.get_logger("access")
_write: Callable[[bytes], None] | None = None  # writes a line of JSON, where the level has those of requests
_request: ContextVar[tuple[str, str] | None] = ContextVar("request", default=None)
_pid = 0
_ids: Iterator[str] = iter(())


def _begin_process() -> None:
    global _pid, _ids
    _pid, beginning = os.getpid(), os.urandom(4).hex()
    _ids = (f"{beginning}-{number:x}" for number in count(1))


_begin_process()
os.register_at_fork(after_in_child=_begin_process)


def begin_request(correlation_id: bytes | None, client: tuple[str, int] | None) -> None:
    """Put a request's correlation id and client on every line that its task logs from now on.

    :param correlation_id: generated if None: the process's own random beginning, and a number.
    :param client: its address and port; None where the connection has none.
    """
    known = next(_ids) if correlation_id is None else correlation_id.decode("latin-1")
    _request.set((known, client[0] if client else ""))


def answered(method: str, path: str, status: int, milliseconds: float) -> None:
    """Write the line of a request that was answered.

    As JSON it is put together here: every request has one, and structlog takes three times as long for the same bytes.
    """
    event: Event = {"method": method, "path": path, "status": status, "milliseconds": milliseconds, "event": "request"}
    if _write is None:
        _access.info(**event)
    else:
        line = _about_the_process(None, "", event)
        line["level"], line["timestamp"] = "info", f"{datetime.now(UTC).isoformat()[:-6]}Z"
        _write(_json_line(None, "", line))


def configure(level: str = "INFO", form: str = "auto") -> None:
    """Write one structured line per event to standard error.

    :param level: the lowest level that is written.
    :param form: ``json``, ``text``, or ``auto``: JSON unless a person watches a terminal.
    """
    output = _standard_error()
    as_text = form == "text" or (form == "auto" and sys.stderr.isatty())
    structlog.configure(
        processors=[
            _about_the_process,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _without_values,
            *([structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()), _encoded] if as_text else [_json_line]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.BytesLoggerFactory(output),  # a line is one write: those of processes do not mix
        cache_logger_on_first_use=True,
    )
    global _write
    has_requests = not as_text and logging.getLevelName(level) <= logging.INFO
    _write = structlog.BytesLogger(output).msg if has_requests else None
    logging.basicConfig(handlers=[_Libraries()], level=max(logging.getLevelName(level), logging.WARNING), force=True)
    logging.captureWarnings(True)


def _standard_error() -> BinaryIO:
    """Return what lines are written to: standard error, without waiting where another process must read it first."""
    try:
        number = sys.stderr.fileno()
        kind = os.fstat(number).st_mode
        if stat.S_ISSOCK(kind):
            send = socket.socket(fileno=os.dup(number)).send
            return cast("BinaryIO", Unhindered(lambda line: send(line, socket.MSG_DONTWAIT)))
        if stat.S_ISFIFO(kind):  # opened anew: whoever else writes to it goes on as they do
            number = os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK)
            with suppress(OSError):  # of an unprivileged process that has many already
                fcntl.fcntl(number, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return cast("BinaryIO", Unhindered(partial(os.write, number)))
    except OSError:  # it is no file of the system, or the system has no such ways
        return sys.stderr.buffer


class Unhindered:
    """Lines that are written now or not at all: nobody waits for who reads them, and no task fails for a full disk.

    What found no room is told as a number, in a line before the next that finds some.

    :param write: writes bytes at once, and returns how many it took.
    """

    def __init__(self, write: Callable[[bytes], int]) -> None:
        self._write = write
        self._lost = 0
        self._is_torn = False  # whether the last line that found room is without its end

    def write(self, line: bytes) -> None:
        if self._lost:
            line = self._loss() + line
        try:
            written = self._write(line)
        except OSError:
            written = 0
        if written == len(line):
            self._lost, self._is_torn = 0, False
        else:
            self._lost, self._is_torn = self._lost + 1, self._is_torn or written > 0

    def flush(self) -> None:
        pass

    def _loss(self) -> bytes:
        line = _about_the_process(
            None, "", {"lost": self._lost, "event": "log lines were lost: no room, or nobody read them"}
        )
        line["level"], line["timestamp"] = "warning", f"{datetime.now(UTC).isoformat()[:-6]}Z"
        return (b"\n" if self._is_torn else b"") + _json_line(None, "", line) + b"\n"


def _about_the_process(_: Any, __: str, event: Event) -> Event:
    event["pid"] = _pid
    if (request := _request.get()) is not None:
        event["correlation_id"], event["client"] = request
    return event


class _Libraries(logging.Handler):
    """Writes what libraries log as our own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = structlog.get_logger(record.name)
            error = record.exc_info[1] if record.exc_info else None
            line.log(record.levelno, record.getMessage().partition("\n")[0], logger=record.name, exc_info=error)
        except Exception:  # as the standard library has it: logging never ends what it tells of
            self.handleError(record)


def _without_values(_: Any, __: str, event: Event) -> Event:
    """Replace an error by where it was raised and its class."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        event["exception"] = described(error)
    return event


def described(error: BaseException) -> str:
    """Return a traceback, those of its causes before it, without any value."""
    parts, seen = list[str](), set[int]()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        name = f"{type(current).__module__}.{type(current).__qualname__}"
        said = f": {current}" if isinstance(current, ConfigurationError) else ""
        sqlstate = getattr(current, "sqlstate", None)
        code = f" (SQLSTATE {sqlstate})" if isinstance(sqlstate, str) else ""
        parts.append("".join([*traceback.format_tb(current.__traceback__), f"{name}{code}{said}"]))
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\n\nwhich led to\n\n".join(reversed(parts))


def _json_line(_: Any, __: str, event: Event) -> bytes:
    try:
        return orjson.dumps(event, default=_class_name)
    except TypeError:  # an integer of more than 64 bits, or half a surrogate pair
        return json.dumps(dict(event), default=_class_name).encode()


def _class_name(value: Any) -> str:
    return type(value).__name__


def _encoded(_: Any, __: str, line: str) -> bytes:
    return line.encode(errors="backslashreplace")
