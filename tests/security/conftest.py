"""What an attacker has: sockets, and a watch on how others fare meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from bench.processes import tree
from tests.conftest import empty
from tests.servers import Server, our_server
from tests.world import World

WITNESS_PAUSE = 0.005  # seconds between two of the witness' questions


@dataclass
class Answered:
    """An answer, read off a socket."""

    status: int
    head: str
    body: bytes


class Stranger:
    """A connection on which anything may be sent, in any order and at any pace."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def answer(self, *, within: float = 20, has_body: bool = True) -> Answered:
        async with asyncio.timeout(within):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
            body = await self.reader.readexactly(int(lines.get("content-length", 0)) if has_body else 0)
        return Answered(int(head.split()[1]), head, body)

    async def is_closed(self, within: float = 20) -> bool:
        """Say whether the server closes the connection, whatever it sends before."""
        try:
            async with asyncio.timeout(within):
                while await self.reader.read(65536):
                    pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def stranger(server: Server) -> AsyncIterator[Stranger]:
    """Connect to a server."""
    url = urlsplit(server.base_url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        yield Stranger(reader, writer)
    finally:
        writer.close()


def head(method: str, path: str, *lines: str) -> bytes:
    """Return a request's head."""
    return "\r\n".join([f"{method} /execution{path} HTTP/1.1", "Host: attacked", *lines, "", ""]).encode()


def processes(server: Server) -> list[Path]:
    """Return the folders in ``/proc`` of a server's processes."""
    return [Path(f"/proc/{pid}") for pid in tree(server.process.pid)]


def peak(server: Server) -> int:
    """Return the most memory that any of the server's processes has had since :func:`forget_peak`, in MiB."""
    statuses = [(folder / "status").read_text() for folder in processes(server)]
    return max(int(status.split("VmHWM:")[1].split()[0]) for status in statuses) // 1024


def forget_peak(server: Server) -> int:
    """Begin to measure anew; return the memory that the largest process has now, in MiB."""
    for folder in processes(server):
        (folder / "clear_refs").write_text("5")
    return peak(server)


@asynccontextmanager
async def witness(server: Server) -> AsyncIterator[list[float]]:
    """Ask for ``/health`` again and again beside the block; collect how long each took, in seconds."""
    waits: list[float] = []

    async def ask() -> None:
        async with httpx.AsyncClient(verify=False) as client:
            while True:
                began = time.monotonic()
                assert (await client.get(f"{server.base_url}/health")).status_code == 200
                waits.append(time.monotonic() - began)
                await asyncio.sleep(WITNESS_PAUSE)

    asking = asyncio.create_task(ask())
    try:
        yield waits
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


@pytest.fixture(scope="session")
def attacked(make_database: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server to attack; what stands before any row is the same on every revision, so one is enough."""
    with our_server(make_database("3.3"), tmp_path_factory.mktemp("attacked")) as running:
        yield running


@pytest.fixture
async def rows(attacked: Server) -> AsyncIterator[World]:
    """Write rows into the database of ``attacked``, which is emptied first."""
    connection = await asyncpg.connect(attacked.database_url)
    await empty(connection)
    yield World(connection, "3.3")
    await connection.close()
