"""Log lines: what is on each, and what never is."""

from __future__ import annotations

import json
import os
import random
import re
import select
import socket
import subprocess
import sys
from typing import Any

import pytest

from app.server.middleware import AccessLog

SECRET = "hunter2"
EVENTS = """
import logging, warnings
import structlog
from app.server import logs
logs.configure(*{settings!r})
log = structlog.get_logger()

class PasswordError(ValueError):
    sqlstate = "22P02"

def fails():
    password = "hunt" + "er2"
    try:
        int(password)
    except ValueError as error:
        raise PasswordError(password) from error

log.debug("of interest to few")
logs.begin_request(None, ("192.0.2.7", 4))
log.info("a request")
logs.begin_request(b"theirs", ("192.0.2.7", 4))
try:
    fails()
except ValueError as error:
    log.exception("ours")
    logging.getLogger("uvicorn.error").error("a library's\\n%s", "hunt" + "er2", exc_info=error)
logging.getLogger("httpx").info("chatter")
warnings.warn("deprecated")
"""


def lines(level: str, form: str, *, rich: bool) -> str:
    """Return what a process writes, with or without the library that would show the variables of every frame."""
    source = EVENTS.format(settings=(level, form))
    if rich:
        source = f"import sys, types\nsys.modules['rich'] = types.ModuleType('rich')\n{source}"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, cwd=os.getcwd())
    assert done.stdout == ""
    return done.stderr


def test_each_event_is_a_line_of_json_that_tells_who() -> None:
    written: list[dict[str, Any]] = [json.loads(line) for line in lines("INFO", "auto", rich=False).splitlines()]
    request, ours, library, warning = written
    assert [line["event"] for line in (request, ours, library)] == ["a request", "ours", "a library's"]
    assert len({line["pid"] for line in written}) == 1
    assert request["client"] == ours["client"] == "192.0.2.7"
    assert ours["correlation_id"] == "theirs"
    assert len(request["correlation_id"]) > 8
    assert "in fails" in ours["exception"]
    assert "PasswordError (SQLSTATE 22P02)" in ours["exception"]
    assert "builtins.ValueError" in ours["exception"], "the cause too"
    assert (library["logger"], library["level"], library["exception"]) == ("uvicorn.error", "error", ours["exception"])
    assert (warning["level"], warning["logger"]) == ("warning", "py.warnings")


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("level", ["DEBUG", "INFO", "ERROR"])
def test_no_value_is_in_any_of_them(form: str, level: str) -> None:
    for rich in (False, True):
        written = lines(level, form, rich=rich)
        assert SECRET not in written
        assert "in fails" in written
        assert ("of interest to few" in written) == (level == "DEBUG")
        assert ("a request" in written) == (level != "ERROR")
        assert "chatter" not in written


ANSWERED = """
import structlog
from app.server import logs
logs.configure({level!r}, {form!r})
logs.begin_request(b"theirs", ("192.0.2.7", 4))
logs.answered("PUT", "/execution/x", 204, 1.25)
structlog.get_logger("access").info("request", method="PUT", path="/execution/x", status=204, milliseconds=1.25)
"""


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("level", ["INFO", "WARNING"])
def test_the_line_of_an_answer_is_as_any_other(level: str, form: str) -> None:
    """It is put together by hand, because every request has one: it must not differ from what structlog writes."""
    command = [sys.executable, "-c", ANSWERED.format(level=level, form=form)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    written = [re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", "<now>", line) for line in done.stderr.splitlines()]
    if level == "WARNING":
        assert written == []
    elif form == "json":
        ours, others = (json.loads(line) for line in written)
        assert ours == others
        assert ours["timestamp"] == "<now>"
    else:
        ours, others = written
        assert ours == others


def test_text_is_for_people() -> None:
    written = lines("INFO", "text", rich=False)
    assert not written.startswith("{")
    assert "a request" in written


@pytest.mark.parametrize(
    ("access_log", "path", "status", "has"),
    [
        (AccessLog(), "/heartbeat", 204, True),
        (AccessLog(share=0.0), "/xcoms", 200, False),
        (AccessLog(share=0.0), "/xcoms", 404, True),
        (AccessLog(heartbeats=False), "/task-instances/1/heartbeat", 204, False),
        (AccessLog(heartbeats=False), "/task-instances/1/heartbeat", 409, True),
        (AccessLog(heartbeats=False), "/xcoms", 200, True),
    ],
)
def test_which_requests_have_a_line(access_log: AccessLog, path: str, status: int, has: bool) -> None:
    assert access_log.has(path, status) is has


def test_a_share_of_requests_has_a_line() -> None:
    random.seed(1)
    assert 80 < sum(AccessLog(share=0.1).has("/xcoms", 200) for _ in range(1000)) < 120


FLOOD = """
import sys
import structlog
from app.server import logs
logs.configure("INFO", "json")
log = structlog.get_logger()
for number in range(3000):
    log.warning("told", number=number, filling="x" * (number % 50) ** 2)
    logs.answered("GET", "/execution/health", 200, 1.0)
print("ended", flush=True)
sys.stdin.readline()
log.warning("told", number="last")
"""


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_nobody_waits_for_who_reads_the_lines(kind: str) -> None:
    """A collector that hangs would hold up the event loop, and with it every task."""
    if kind == "pipe":
        reading, writing = os.pipe()
    else:
        reading, writing = (each.detach() for each in socket.socketpair())
    command = [sys.executable, "-W", "error", "-c", FLOOD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=writing) as process:
        os.close(writing)
        assert process.stdin is not None
        assert process.stdout is not None
        with open(reading, "rb") as unread:
            assert select.select([process.stdout], [], [], 60)[0], "it waits for a reader"
            assert process.stdout.readline() == b"ended\n"
            before = os.read(unread.fileno(), 1024**2)
            while select.select([unread], [], [], 0)[0]:
                before += os.read(unread.fileno(), 1024**2)
            process.stdin.write(b"\n")
            process.stdin.close()
            *_, loss, last = (before + unread.read()).splitlines()
    told = [json.loads(line) for line in before.splitlines()[:-1]]  # the last may be torn
    assert [line["number"] for line in told if "number" in line][:2] == [0, 1]
    assert json.loads(loss)["lost"] > 1000
    assert json.loads(last)["number"] == "last"


def test_a_full_disk_fails_nothing_that_is_told_of() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", FLOOD], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=full)
    assert (done.returncode, done.stdout) == (0, b"ended\n")
