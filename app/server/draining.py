"""One process' HTTP server, and how it ends: nothing that was accepted is dropped.

Told to drain, it says that it is not ready, and goes on serving for a while, in which balancers turn to other instances and
each answer asks its client to connect anew. Then it takes what has been waiting to be accepted, closes the door, answers
what is under way, and ends.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from itertools import chain, repeat
from typing import Any

import structlog
import uvicorn
from starlette.applications import Starlette

from app.errors import RetryableDatabaseError

log = structlog.get_logger(__name__)

UNDER_WAY = 10  # seconds for requests under way; twice what a client waits for its answer
FIRST_REQUEST = 1.0  # seconds that a connection without a request yet has to send one before it is closed
# Of each socket uvloop accepts one connection in a turn of the event loop: so it is given so many of the same. Turns are
# long under load. Who was accepted after a client's five seconds had come again meanwhile, behind those who had gone like
# that.
ACCEPTED_IN_A_TURN = 8
PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds between attempts to reach the database at the start; then the last again and again
CLOSE = (b"connection", b"close")


class Readiness:
    """Whether this process wants more requests."""

    def __init__(self) -> None:
        self.is_draining = False


class DrainingServer(uvicorn.Server):
    """uvicorn's server of one process, with an end that drops nothing.

    :param readiness: told when it drains.
    :param drain_seconds: for which it goes on serving when it is told to end.
    :param started: called when requests can come.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        readiness: Readiness,
        drain_seconds: float,
        started: Callable[[], Any] = lambda: None,
    ) -> None:
        super().__init__(config)
        self._readiness = readiness
        self._drain_seconds = drain_seconds
        self._started = started
        self._takes_queued = True
        self._told, self._hurried = asyncio.Event(), asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: whoever runs this says what each means."""
        yield

    def drain(self) -> None:
        """End, after the time in which others are found; readiness fails at once."""
        self._readiness.is_draining = True
        self._end()

    def retire(self) -> None:
        """End the same way, and accept nothing more: a successor listens on the same sockets, so readiness does not fail."""
        self._takes_queued = False
        for server in self.servers:
            server.close()
        self._end()

    def finish(self) -> None:
        """End as soon as what is under way is answered."""
        self._hurried.set()
        self.drain()

    def quit(self) -> None:
        """End now, whatever is under way."""
        self.force_exit = True
        self.finish()

    def _end(self) -> None:
        self.should_exit = True
        self._told.set()

    async def told_within(self, seconds: float) -> bool:
        """Wait until it is told to end, for some seconds at most, and return whether it was."""
        return await _set_within(self._told, seconds)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([each.dup() for each in sockets or () for _ in range(ACCEPTED_IN_A_TURN)])
        self._started()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        while not await self.told_within(1.0):
            await self.on_tick(0)  # the headers of every answer tell the time
        self.config.encoded_headers = [*self.config.encoded_headers, CLOSE]
        loop = asyncio.get_running_loop()
        until = loop.time() + self._drain_seconds
        while (left := until - loop.time()) > 0 and not self._hurried.is_set() and self._is_needed():
            await self.on_tick(0)
            await _set_within(self._hurried, min(left, 1.0))
        await self.on_tick(0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        queues = [each.dup() for each in sockets or ()] if self._takes_queued else []
        for server in self.servers:
            server.close()
        await asyncio.gather(*(self._take(connection) for connection in _accepted(queues)))
        for each in queues:
            each.close()
        until = asyncio.get_running_loop().time() + FIRST_REQUEST
        # Asked again and again, since uvicorn's protocols tell nobody when a request has come.
        while self._is_awaited() and asyncio.get_running_loop().time() < until and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def _is_needed(self) -> bool:
        """Whether somebody may still ask: of a process that has a successor, who is connected."""
        return self._takes_queued or bool(self.server_state.connections)

    async def _take(self, connection: socket.socket) -> None:
        """Serve a connection that nobody had accepted yet."""

        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # declared as any of asyncio's
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        try:
            await asyncio.get_running_loop().connect_accepted_socket(protocol, connection, ssl=self.config.ssl)
        except OSError:  # it has gone already, or spoke no TLS
            connection.close()

    def _is_awaited(self) -> bool:
        """Whether a connection has not sent its first request yet."""
        return any(getattr(each, "cycle", None) is None for each in self.server_state.connections)


def _accepted(queues: Sequence[socket.socket]) -> Iterator[socket.socket]:
    """Yield the connections that wait to be accepted."""
    for queue in queues:
        queue.setblocking(False)
        while True:
            try:
                connection, _ = queue.accept()
            except OSError:  # none is left
                break
            connection.setblocking(False)
            yield connection


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def serve(application: Starlette, server: DrainingServer, sockets: list[socket.socket]) -> None:
    """Serve an application until its server is told to end.

    The start waits for the database, however long it is away: a process that is replaced meanwhile must not end, again and
    again.

    :raises ConfigurationError: when the application cannot serve as it is configured.
    """
    if not server.config.loaded:
        server.config.load()  # certificates too: what is wrong with them is told before anything has begun
    pauses = chain(PAUSES, repeat(PAUSES[-1]))
    async with AsyncExitStack() as stack:
        while True:
            try:
                await stack.enter_async_context(application.router.lifespan_context(application))
                break
            except RetryableDatabaseError as error:
                log.warning("waiting for the database", reason=error.reason)
            if await server.told_within(next(pauses)):
                return
        await server.serve(sockets)
