"""What one large request costs others: the longest that another client waits for ``/health`` meanwhile, and memory."""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from bench.driver import END, Task, quantile
from bench.processes import peak_bytes, resident_bytes

MEGABYTES = 60  # of the largest texts
VALUES = 240_000  # of what is decoded
EVENTS = 5_000  # of one success
IDLE = 2.0  # seconds


@dataclass(frozen=True)
class Request:
    """A request of a task."""

    method: str
    path: str
    content: Callable[[], bytes] = bytes
    has_token: bool = True


def text(piece: str) -> Callable[[], bytes]:
    """Return what makes a JSON text of :data:`MEGABYTES`."""
    return lambda: f'"{piece * (MEGABYTES * 1_000_000 // len(piece.encode()))}"'.encode()


def events() -> bytes:
    """Return a success that emits many assets through an alias."""
    emitted = [
        {"dest_asset_key": {"name": f"a{n}", "uri": f"s3://b/{n}"}, "extra": {}, "source_alias_name": "alias"}
        for n in range(EVENTS)
    ]
    outlets = [{"name": "alias", "type": "AssetAlias"}]
    return json.dumps({**END, "task_outlets": outlets, "outlet_events": emitted}).encode()


XCOM = "/xcoms/bench/{run_id}/{task_id}/large"
REQUESTS = {
    "20 MiB of [[],[],... without a token": Request(
        "PUT", "/variables/x", lambda: b"[" + b"[]," * (20 * 2**20 // 3) + b"[]]", has_token=False
    ),
    **{
        f"XCom of {MEGABYTES} MB, {name}, {done}": Request(method, XCOM, text(piece) if method == "POST" else bytes)
        for name, piece in (("ASCII", "x"), ("not ASCII", "é"), ("escapes", "\\n"))
        for method, done in (("POST", "written"), ("GET", "read"))
    },
    "XCom of 2,000,000 values": Request("POST", XCOM, lambda: b"[" + b"[]," * 999_000 + b"1]"),
    f"rendered fields of {VALUES:,} values": Request(
        "PUT", "/task-instances/{id}/rtif", lambda: b'{"a": [' + b"1," * VALUES + b"1]}"
    ),
    f"rendered fields of {MEGABYTES} MB": Request(
        "PUT", "/task-instances/{id}/rtif", lambda: b'{"a": ' + text("x")() + b"}"
    ),
    "variable of 15 MB, written": Request("PUT", "/variables/large", lambda: b'{"val": "' + b"x" * 15_000_000 + b'"}'),
    "variable of 15 MB, read": Request("GET", "/variables/large"),
    f"success with {EVENTS:,} events": Request("PATCH", "/task-instances/{id}/state", events),
}


async def measure(base_url: str, pid: int, tasks: Iterator[Task], *, rounds: int) -> dict[str, list[float]]:
    """Return figures by name: the longest waits and p99 in milliseconds, memory in MiB beside what the server had.

    :param pid: of the server.
    :param tasks: that run, one for each request.
    """
    figures: dict[str, list[float]] = {}
    for _ in range(rounds):
        async with witnessed(base_url) as waits:
            await asyncio.sleep(IDLE)
        figures.setdefault("nothing: longest wait ms", []).append(max(waits))
        for name, request in REQUESTS.items():
            if request.method != "GET":
                task = next(tasks)  # who reads reads what was written before
            content, before = request.content(), resident_bytes(pid)
            with peak_bytes(pid) as peak:
                async with witnessed(base_url) as waits:
                    status = await asyncio.to_thread(ask, base_url, request, task, content)
            sys.stderr.write(f"{name}: {status}, {max(waits):.0f} ms\n")
            figures.setdefault(f"{name}: longest wait ms", []).append(max(waits))
            figures.setdefault(f"{name}: p99 ms", []).append(quantile(waits, 0.99))
            figures.setdefault(f"{name}: MiB", []).append(max(0, peak() - before) / 2**20)
    return figures


def ask(base_url: str, request: Request, task: Task, content: bytes) -> int:
    """Send a request, all of its body first as the Task SDK does, and return the status."""
    url = urlsplit(base_url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {task.token}"} if request.has_token else {})
    path = request.path.format(id=task.id, run_id=task.run_id, task_id=task.task_id)
    connection.request(request.method, url.path + path, content or None, headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


@asynccontextmanager
async def witnessed(base_url: str) -> AsyncIterator[list[float]]:
    """Collect how long a witness waits for each answer beside the block, in milliseconds."""
    pipe: Any = asyncio.subprocess.PIPE
    witness = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.witness", base_url, stdin=pipe, stdout=pipe)
    waits: list[float] = []
    try:
        assert witness.stdout is not None
        await witness.stdout.readline()  # it has begun to ask
        yield waits
        output, _ = await witness.communicate(b"")  # and with that its input ends
        waits += json.loads(output)
    finally:
        if witness.returncode is None:
            witness.kill()
            await witness.wait()
