"""How a database connection is made, judged and thrown away.

asyncpg waits for ever. Here every wait has a bound of ours, and what hangs is terminated, never closed politely. Connections
die together: a failover, a firewall that forgets, a restart. So one that is lost tells on all that were opened before that
moment, and none of them is used again.

While the database cannot be reached, is failing over or refuses our login, who needs a connection waits for it, and one
prober tries for all of them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

import asyncpg
import structlog
from sqlalchemy.engine import URL

from app.db.hosts import connect_to_one, keep_alive
from app.db.moments import send_moments_as_they_are
from app.db.retrying import classify
from app.errors import ConfigurationError, ConnectionLost
from app.settings import DatabaseSettings

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT = 2.0  # seconds; a lost SYN is sent again after one, and the client waits five
ANSWER_MARGIN = 0.5  # seconds that the answer to a statement may take beyond the server's own statement timeout
LOOK_EVERY = 0.25  # seconds between two looks at statements whose answer does not come; a timer for each costs as much as it
PAUSES = (0.1, 0.2, 0.3, 0.5)  # seconds between two probes; the last again and again
ASK_TIMEOUT = 3.0  # seconds for what tells the URL, a command or a secrets backend
ASK_EVERY = 1.0  # seconds at least between two questions for the URL

REFUSED_LOGIN = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidPasswordError)  # 28000, 28P01
# What the server says to a login, whatever it says; a server that only reads; and what the network does.
UNREACHABLE = (asyncpg.PostgresError, asyncpg.InternalClientError, OSError)
ENDED_UNASKED = (asyncpg.AdminShutdownError, asyncpg.IdleSessionTimeoutError)  # 57P01, 57P05


def is_ended_unasked(error: Exception) -> bool:
    """Say whether the server ended the session from outside, and told so: then what it was sent has not been executed.

    Between its last word and the end of the connection, asyncpg refuses to send anything: it expects more of that word.
    """
    if isinstance(error, asyncpg.InternalClientError):
        return str(error).startswith("cannot switch to state")
    return isinstance(error, ENDED_UNASKED) or isinstance(error.__cause__, ENDED_UNASKED)


class Pooled:
    """A connection of the pool.

    :param generation: how many connections had been lost, of those that told on others, when it was opened.
    :param expires: when it is replaced, by the event loop's clock.
    :param asked: when the statement that it is about was sent, by ``time.perf_counter``, or None.
    """

    __slots__ = ("asked", "connection", "expires", "generation")

    def __init__(self, connection: asyncpg.Connection, *, generation: int, expires: float) -> None:
        self.connection, self.generation, self.expires = connection, generation, expires
        self.asked: float | None = None


class Pool:
    """The connections of one process. It does not count them: whoever takes one holds a slot.

    :param settings: where the database is, and where to ask again when it refuses the login.
    :param arguments: returns what asyncpg connects to a URL with.
    """

    def __init__(self, settings: DatabaseSettings, arguments: Callable[[URL], dict[str, Any]]) -> None:
        self._settings = settings
        self._url = settings.url
        self._arguments = arguments
        self._lifetime = settings.pool_recycle if settings.pool_recycle > 0 else inf
        self.longest_statement = settings.statement_timeout + ANSWER_MARGIN  # seconds, client side
        self._generation = 0
        self._idle: list[Pooled] = []
        self._opened: set[Pooled] = set()  # those that were not found closed yet
        self._looking: asyncio.TimerHandle | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._prober: asyncio.Task[None] | None = None
        self._error: BaseException | None = None  # why no connection could be opened
        self._asking: asyncio.Future[URL] | None = None
        self._asked = -inf

    async def take(self, *, until: float) -> Pooled:
        """Take out the connection that was given back last, or open one; while none can be had, wait.

        :param until: when to give up, by the event loop's clock; if that is over, one that is there is taken all the same.
        :raises RetryableDatabaseError: why there is none.
        """
        now = asyncio.get_running_loop().time
        while True:
            while self._idle:
                pooled = self._idle.pop()
                if pooled.expires > now() and not pooled.connection.is_closed():
                    return pooled
                pooled.connection.terminate()
            if self._prober is None:
                try:
                    return await self._open()
                except UNREACHABLE as error:
                    self._error = error.with_traceback(None)
            await self._wait(until)

    def give_back(self, pooled: Pooled) -> None:
        """Keep a connection for the next who needs one, if it can still be used."""
        connection = pooled.connection
        if pooled.generation != self._generation or connection.is_closed() or connection.is_in_transaction():
            connection.terminate()
        else:
            self._idle.append(pooled)
            self._wake(1)

    def lose(self, pooled: Pooled) -> None:
        """Throw away a connection that is of no use any more, and all that were opened before now."""
        pooled.connection.terminate()
        if pooled.generation == self._generation:  # else it was told on before
            log.warning("a database connection was lost: those opened before are not used again", idle=len(self._idle))
            self.forget()

    def forget(self) -> None:
        """Let no connection that was opened before now be used again, once it is given back."""
        self._generation += 1
        while self._idle:
            self._idle.pop().connection.terminate()

    async def renew(self, pooled: Pooled, *, until: float) -> None:
        """Give who holds a connection that was lost another one.

        :raises RetryableDatabaseError: there is none until then.
        """
        self.lose(pooled)
        other = await self.take(until=until)
        pooled.connection, pooled.generation, pooled.expires = other.connection, other.generation, other.expires
        self._opened = self._opened - {other} | {pooled}

    async def prove(self, *, until: float) -> None:
        """Wait until a connection can be had, and keep it for the next.

        :raises RetryableDatabaseError: there is none until then.
        """
        self.give_back(await self.take(until=until))

    def make_room(self) -> None:
        """End a connection that nobody uses, if there is one: for who holds a slot, and opens one beside the pool."""
        if self._idle:
            self._idle.pop(0).connection.terminate()

    async def close(self) -> None:
        """End every connection that nobody uses."""
        while self._idle:
            self._idle.pop().connection.terminate()
        if self._looking is not None:
            self._looking.cancel()
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)

    async def connect(self) -> asyncpg.Connection:
        """Open a connection to a server that writes; where it refuses the login, ask for the URL again, once.

        :raises asyncpg.PostgresError: what the server said.
        :raises asyncpg.TargetServerAttributeNotMatched: it is a standby, or read-only for another reason.
        :raises OSError: it cannot be reached, or did not answer in time.
        """
        url = self._url
        try:
            return await self._connect(url)
        except REFUSED_LOGIN:
            await self._ask_again()
            if self._url == url:
                raise
        return await self._connect(self._url)

    async def _open(self) -> Pooled:
        generation = self._generation
        connection = await self.connect()
        loop = asyncio.get_running_loop()
        pooled = Pooled(connection, generation=generation, expires=loop.time() + self._lifetime)
        self._opened.add(pooled)
        self._looking = self._looking or loop.call_later(LOOK_EVERY, self._look)
        return pooled

    def _look(self) -> None:
        """Terminate what did not answer a statement in time; who waits for the answer hears that the connection was lost."""
        too_early = time.perf_counter() - self.longest_statement
        self._opened = {pooled for pooled in self._opened if not pooled.connection.is_closed()}
        for pooled in self._opened:
            if pooled.asked is not None and pooled.asked < too_early:
                pooled.connection.terminate()
        self._looking = asyncio.get_running_loop().call_later(LOOK_EVERY, self._look) if self._opened else None

    async def _connect(self, url: URL) -> asyncpg.Connection:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            connection = await connect_to_one(
                self._arguments(url),
                target_session_attrs="read-write",  # PostgreSQL 14 says unasked whether it is
            )
            try:
                keep_alive(connection, url)
                await _exchange_json_as_text(connection)
                await send_moments_as_they_are(connection)
            except BaseException:
                connection.terminate()
                raise
        return connection

    async def _ask_again(self) -> None:
        """Ask for the URL again, once for all who were refused: passwords and tokens are rotated."""
        loop = asyncio.get_running_loop()
        if self._asking is None:
            if self._settings.ask is None or loop.time() - self._asked < ASK_EVERY:
                return
            self._asking = asyncio.ensure_future(asyncio.to_thread(self._settings.ask))
        asking = self._asking
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                self._url = await asyncio.shield(asking)
        except Exception as error:  # an operator's own code may tell it, and fail in any way: it is asked again
            reason = str(error) if isinstance(error, ConfigurationError) else type(error).__name__
            log.warning("the database refuses the login, and what tells its URL does not answer", error=reason)
        else:
            log.info("the database refused the login, its URL was asked for again")
        if self._asking is asking and asking.done():
            self._asking, self._asked = None, loop.time()

    async def _wait(self, until: float) -> None:
        """Wait until something has changed: a connection was given back, or one could be opened."""
        loop = asyncio.get_running_loop()
        if until > loop.time():
            turn = loop.create_future()
            self._waiting.append(turn)
            self._prober = self._prober or asyncio.create_task(self._probe())
            try:
                async with asyncio.timeout_at(until):
                    await turn
                return
            except TimeoutError:
                pass
            finally:
                if turn in self._waiting:
                    self._waiting.remove(turn)
        assert self._error is not None
        ours = classify(self._error) or ConnectionLost("the database cannot be reached")
        raise type(ours)(str(ours)) from self._error

    def _wake(self, count: int) -> None:
        for _ in range(min(count, len(self._waiting))):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)

    async def _probe(self) -> None:
        """Try to open a connection as long as anybody waits for one."""
        log.warning("no database connection can be had: requests wait for one", error=type(self._error).__name__)
        attempts = 0
        try:
            while self._waiting:
                await asyncio.sleep(PAUSES[min(attempts, len(PAUSES) - 1)])
                attempts += 1
                try:
                    pooled = await self._open()
                except UNREACHABLE as error:
                    self._error = error.with_traceback(None)
                else:
                    log.info("database connections can be had again", attempts=attempts)
                    return self.give_back(pooled)
        finally:
            self._prober = None
            self._wake(len(self._waiting))  # each may open its own now, and hear for itself what is wrong


async def _exchange_json_as_text(connection: asyncpg.Connection) -> None:
    """Send and receive JSON as SQLAlchemy's types have it: they encode it, and read what was decoded."""
    for name, version in (("json", b""), ("jsonb", b"\x01")):  # the binary form of jsonb begins with its version
        await connection.set_type_codec(
            name,
            schema="pg_catalog",
            format="binary",
            encoder=lambda text, version=version: version + text.encode(),
            decoder=lambda data, version=version: json.loads(data[len(version) :]),
        )
