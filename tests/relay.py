"""A TCP relay between a program and its database that does what networks do: fall silent, lag, cut, refuse.

A connection that fell silent is one behind a NAT or firewall that forgot it, or to a host that is gone: nothing that is sent
over it arrives, in neither direction, and nobody is told. New connections are not touched.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

CHUNK = 65_536  # bytes that are forwarded at once


class _Link:
    """One connection through the relay, and the way to its target."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.writers = (client, server)
        self.is_silent = False
        self.was_answered = True
        self.spoken = bytearray()  # by the client since then
        self.audible = asyncio.Event()  # for what waits here for ever unless the link is cut
        self.forwarding: list[asyncio.Task[None]] = []

    def cut(self) -> None:
        """Reset both ends at once, as a router that rejects does."""
        for task in self.forwarding:
            task.cancel()
        for writer in self.writers:
            writer.transport.abort()


class Relay:
    """Listens on loopback and forwards to a target.

    :param host: of the target.
    :param port: of the target; it may be changed, for connections that come later.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host, self.target_port = host, port
        self.latency = 0.0  # seconds that each chunk is held back, in each direction
        self.is_accepting_silently = False  # new connections are taken and fall silent at once: a host behind a black hole
        self.is_hiding_ends = False  # what either side says is passed on, but not that it has gone
        self.hidden = 0  # ends that were hidden
        self.opened = 0  # connections that were ever made through here
        self.trips = 0  # how often a client spoke after it was answered
        self.spoken: list[bytearray] | None = None  # what it said each time, where that is to be kept
        self.port = 0
        self._links: set[_Link] = set()
        self._server: asyncio.Server | None = None
        self._opening: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        """Take connections, on the same port as before if there was one."""
        self._server = await asyncio.start_server(self._open, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def url(self, url: str) -> str:
        """Return a database URL with this relay in the place of its host."""
        before, _, rest = url.partition("@")
        return f"{before}@127.0.0.1:{self.port}/{rest.partition('/')[2]}"

    def silence(self) -> None:
        """Turn every connection that is open now silent: what was sent is lost, and no end is told."""
        for link in self._links:
            link.is_silent = True

    def cut(self) -> None:
        """Reset every connection that is open now."""
        for link in tuple(self._links):
            link.cut()

    async def refuse(self) -> None:
        """Refuse connections from now on, until :meth:`listen`; those that are open stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def close(self) -> None:
        """End everything."""
        await self.refuse()
        self.cut()
        for task in tuple(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)

    async def _open(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._opening.add(task)
        try:
            self.opened += 1
            await self._relay(reader, writer)
        except asyncio.CancelledError:
            pass  # closed: a task of the server's that is cancelled would be logged as an error
        finally:
            self._opening.discard(task)
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, server = await asyncio.open_connection(self.host, self.target_port)
        except OSError:
            return
        for each in (writer, server):
            each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link(writer, server)
        link.is_silent = self.is_accepting_silently
        self._links.add(link)
        link.forwarding = [
            asyncio.ensure_future(self._forward(link, reader, server)),
            asyncio.ensure_future(self._forward(link, from_server, writer)),
        ]
        try:
            await asyncio.wait(link.forwarding, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._links.discard(link)
            link.cut()
            await asyncio.gather(*link.forwarding, return_exceptions=True)

    async def _forward(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes, and its end; once the link is silent, nothing and no end."""
        with suppress(OSError):
            while chunk := await reader.read(CHUNK):
                asks = writer is link.writers[1]
                self.trips += asks and link.was_answered
                if asks and self.spoken is not None:
                    if link.was_answered:
                        link.spoken = bytearray()
                        self.spoken.append(link.spoken)
                    link.spoken += chunk
                link.was_answered = not asks
                if self.latency:
                    await asyncio.sleep(self.latency)
                if not link.is_silent:
                    writer.write(chunk)
                    await writer.drain()
        if link.is_silent or self.is_hiding_ends:
            self.hidden += 1
            await link.audible.wait()  # no FIN either: only a cut ends it


@asynccontextmanager
async def relay(url: str) -> AsyncIterator[Relay]:
    """Relay to the server of a database URL until the block ends."""
    address = url.partition("@")[2].partition("/")[0]
    host, _, port = address.partition(":")
    running = Relay(host, int(port or 5432))
    await running.listen()
    try:
        yield running
    finally:
        await running.close()
