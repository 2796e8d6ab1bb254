"""What a request takes inside of the process, counted there: memory, and the CPU of an operation's first request.

The application runs in this process and is called as a server calls it, so other work on the machine changes neither figure.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp, Message

from app.main import create_app
from app.routes import MOUNT_POINT
from app.server import logs
from app.settings import DatabaseSettings, ServerSettings, Settings, TokenSettings
from app.settings.database_url import async_url
from bench import operations
from bench.driver import Task
from bench.processes import settled
from tests.servers import AIRFLOW, FERNET_KEY, SECRET

WARM, COUNTED = 6, 4  # requests


@asynccontextmanager
async def application(database_url: str) -> AsyncIterator[ASGIApp]:
    """Run ours in this process, without an access log."""
    logs.configure("WARNING", "json")
    database = DatabaseSettings(url=async_url(database_url, setting="url"), preview_releases=tuple(AIRFLOW))
    server, tokens = ServerSettings(access_log=False), TokenSettings(secret=SECRET)
    running = create_app(Settings(database=database, tokens=tokens, server=server, fernet_keys=(FERNET_KEY,)))
    async with running.router.lifespan_context(running):
        yield running


async def ask(ours: ASGIApp, task: Task, request: operations.Request) -> int:
    """Return the status of the answer."""
    method, path, body = request
    content = b"" if body is None else json.dumps(body).encode()
    path, _, query = path.partition("?")
    headers = {"host": "localhost", "authorization": f"Bearer {task.token}", "content-type": "application/json"}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": MOUNT_POINT + path,
        "raw_path": (MOUNT_POINT + path).encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (name.encode(), value.encode()) for name, value in {**headers, "content-length": str(len(content))}.items()
        ],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    status = 0

    async def receive() -> Message:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)

    await ours(scope, receive, send)
    return status


Asked = Sequence[tuple[str, Sequence[tuple[Task, operations.Request]]]]


async def measure(
    database_url: str, asking: operations.Asking, known: Sequence[operations.Operation]
) -> list[tuple[str, float]]:
    """Return the names of figures with what they are, for each operation.

    *first request CPU ms*: of the event loop's thread, when it is asked beside what is made after the start.
    *allocated bytes*: the most that a request has at once of Python's memory; of some requests the least.
    """
    prepared = [(each.name, list(await asking.of(each, WARM + COUNTED))) for each in known]
    return await asyncio.to_thread(_in_its_loop, database_url, prepared)


def _in_its_loop(database_url: str, prepared: Asked) -> list[tuple[str, float]]:
    """Measure in an event loop as a server has it: asyncio's own takes 256 KiB for whatever it receives."""
    with asyncio.Runner(loop_factory=uvicorn.Config("", loop="uvloop", log_config=None).get_loop_factory()) as runner:
        return runner.run(_measure(database_url, prepared))


async def _measure(database_url: str, prepared: Asked) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    async with application(database_url) as ours:
        for name, requests in prepared:
            began = time.thread_time()
            await _asked(ours, *requests[0])
            found.append((f"{name} first request CPU ms", (time.thread_time() - began) * 1000))
        await settled(os.getpid())
        for name, requests in prepared:
            for each in requests[1:WARM]:
                await _asked(ours, *each)
            gc.collect()
            tracemalloc.start()
            taken: list[int] = []
            for each in requests[WARM:]:
                before, _ = tracemalloc.get_traced_memory()
                tracemalloc.reset_peak()
                await _asked(ours, *each)
                taken.append(tracemalloc.get_traced_memory()[1] - before)
            tracemalloc.stop()
            found.append((f"{name} allocated bytes", min(taken)))
    return found


async def _asked(ours: ASGIApp, task: Task, request: operations.Request) -> None:
    status = await ask(ours, task, request)
    assert status in (200, 201, 204), (status, request)
