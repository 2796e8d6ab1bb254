"""Sessions: the only begin, commit and rollback in the code base.

A handler opens its session itself, with ``async with``: FastAPI's ``yield`` dependencies end after the response was
sent, and then a client could hold a 2xx for a transaction that fails to commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client import Gauge
from sqlalchemy import Engine, Executable, text

from app.db.direct import Compiler, CompilingSession, DirectSession, compiler
from app.db.engine import beginning, connect_arguments, create_engine
from app.db.pool import Pool
from app.db.retrying import ComingBack, breaks_connection, raise_ours, translated
from app.db.slots import Slots
from app.db.tables import AnyRow
from app.errors import ConfigurationError, ConnectionLost, ReadOnlyServer, RetryableDatabaseError
from app.server import metrics, patience
from app.settings import DatabaseSettings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

PING_TIMEOUT = 2.0  # seconds; who cannot do its work tells before the one who asks has gone
FALLBACK_TIMEOUT = 4.0  # seconds for the whole transaction of the fallback

_READ_ONLY = text("SELECT current_setting('transaction_read_only')")
_HAS_REVISION = text("SELECT to_regclass('alembic_version') IS NOT NULL")
_REVISION = text("SELECT version_num FROM alembic_version")


class Rows(Protocol):
    """The rows of a result."""

    def __iter__(self) -> Iterator[AnyRow]: ...
    def all(self) -> Sequence[AnyRow]: ...
    def one(self) -> AnyRow: ...
    def one_or_none(self) -> AnyRow | None: ...


class Session(Protocol):
    """What executes statements: a :class:`~app.db.direct.DirectSession`, or the fallback's ``AsyncSession``."""

    async def execute(self, statement: Executable, params: Any = None) -> Rows: ...
    async def scalar(self, statement: Executable, params: Any = None) -> Any: ...
    async def scalars(self, statement: Executable, params: Any = None) -> Iterable[Any]: ...


class Database:
    """The metadata database of one process.

    :param settings: where it is and how long to wait.
    :param is_patient: whether a session waits for a connection as long as its client waits for it; else it tries once.
    """

    def __init__(self, settings: DatabaseSettings, *, is_patient: bool = True) -> None:
        self.settings = settings
        self._is_patient = is_patient
        self._pool = Pool(settings, lambda url: connect_arguments(settings, url))
        self._begin = beginning(settings)
        self.engine: Engine = create_engine(settings, lambda *_, **__: self._pool.connect())
        self._compiled = compiler(self.engine.dialect)
        self.slots = Slots(settings.pool_size)
        self._sessions: async_sessionmaker[AsyncSession] | None = None
        self.coming_back = ComingBack(within=settings.lock_timeout)

    def autocommit(self, *, urgent: bool = False) -> AbstractAsyncContextManager[DirectSession]:
        """Open a session whose every statement is a transaction of its own: one round trip, no lock kept after it.

        :param urgent: whether it goes before those that wait for a connection and are not.
        :raises RetryableDatabaseError: when the database cannot do it now.
        :raises RejectedByDatabase: when it does not take a value.
        """
        return self.transaction(urgent=urgent) if self.settings.pgbouncer else self._direct(urgent=urgent)

    @asynccontextmanager
    async def transaction(self, *, urgent: bool = False) -> AsyncIterator[DirectSession]:
        """Open a transaction; it is committed when the block ends, before anything of a response is sent.

        :param urgent: whether it goes before those that wait for a connection and are not.
        :raises RetryableDatabaseError: when the database cannot do it now, at commit too; nothing was written.
        :raises RejectedByDatabase: when it does not take a value; nothing was written.
        """
        async with self._direct(urgent=urgent) as session:
            await session.control(self._begin)
            try:
                yield session
            except BaseException:
                if session.is_open:
                    await session.control("ROLLBACK")
                raise
            if session.is_in_transaction:
                await session.control("COMMIT")

    def _direct(self, *, urgent: bool = False, is_patient: bool = True) -> _Direct:
        """Open a session on a connection of the pool, outside any transaction."""
        return _Direct(self.slots, self._pool, self._compiled, urgent=urgent, is_patient=is_patient and self._is_patient)

    def compiling(self) -> CompilingSession:
        """Return a session that compiles what others will execute."""
        return CompilingSession(self._compiled)

    @asynccontextmanager
    async def fallback(self) -> AsyncIterator[AsyncSession]:
        """Open a transaction in an ``AsyncSession`` of its own, for what is left to do when a session has failed.

        Nothing of the way that failed is used again: neither its connection nor the code that executes its statements.

        :raises RetryableDatabaseError: when the database cannot do it now, at commit too; nothing was written.
        """
        if self._sessions is None:
            self._sessions = await asyncio.to_thread(_session_maker, self.engine)
        with translated():
            async with self.slots.held():
                self._pool.make_room()
                with ExitStack() as bounds:
                    async with self._sessions() as session:
                        connection = await (await session.connection()).get_raw_connection()
                        assert connection.driver_connection is not None, "it was just taken"
                        terminate = connection.driver_connection.terminate
                        bounds.callback(asyncio.get_running_loop().call_later(FALLBACK_TIMEOUT, terminate).cancel)
                        yield session
                        await session.commit()

    @staticmethod
    async def abandon(session: DirectSession) -> None:
        """Roll back what a transaction wrote so far; its block ends without writing anything."""
        await session.control("ROLLBACK")

    def gauges(self) -> dict[Gauge, Callable[[], float]]:
        """Return what tells how many connections are used, and how many wait for one, or for a lock without one."""
        return {
            metrics.CONNECTIONS: self.slots.used,
            metrics.WAITING.labels("heartbeat"): partial(self.slots.waiting, urgent=True),
            metrics.WAITING.labels("other"): partial(self.slots.waiting, urgent=False),
            metrics.HELD.labels("lock"): lambda: self.coming_back.away,
        }

    async def close(self) -> None:
        """End every connection."""
        await self._pool.close()

    def forget_connections(self) -> None:
        """Use no connection again that was opened before now."""
        self._pool.forget()

    @property
    def where(self) -> str:
        """Host and name of the database, for people."""
        return f"{self.settings.url.host or 'localhost'}/{self.settings.url.database}"

    async def ping(self) -> str:
        """Ask the database whether it does what requests need, within :data:`PING_TIMEOUT`; return its metadata revision.

        :raises RetryableDatabaseError: when it is read-only, or cannot answer now.
        :raises ConfigurationError: when it is no metadata database.
        """
        try:
            async with asyncio.timeout(PING_TIMEOUT), self._direct(urgent=True, is_patient=False) as session:
                if await session.scalar(_READ_ONLY) != "off":
                    raise ReadOnlyServer("the database is read-only")
                return await self._alembic_version(session)
        except TimeoutError:
            raise ConnectionLost(f"the database did not answer within {PING_TIMEOUT:g} s") from None

    async def alembic_version(self) -> str:
        """Return the metadata revision of this database, as Airflow's migrations name it.

        :raises ConfigurationError: when it is no metadata database.
        :raises RetryableDatabaseError: when the database cannot be reached.
        """
        async with self.autocommit(urgent=True) as session:
            return await self._alembic_version(session)

    async def _alembic_version(self, session: DirectSession) -> str:
        exists = await session.scalar(_HAS_REVISION)
        found = list(await session.scalars(_REVISION)) if exists else []
        if not found:
            raise ConfigurationError(
                f"[database] sql_alchemy_conn names {self.where}, which is not an Airflow metadata database:"
                " it has no alembic_version; run 'airflow db migrate' on it first"
            )
        return str(found[0])


class _Direct:
    """A session on a connection of the pool, for one block; every request has one, so it is no generator.

    Who loses the connection hears so when there is another, or when the time is over: a client that is told at once comes
    back at once, while nothing has changed, and has so many attempts.
    """

    __slots__ = ("_compiled", "_is_patient", "_pool", "_pooled", "_slots", "_until", "_urgent")

    def __init__(self, slots: Slots, pool: Pool, compiled: Compiler, *, urgent: bool, is_patient: bool) -> None:
        self._slots, self._pool, self._compiled = slots, pool, compiled
        self._urgent, self._is_patient = urgent, is_patient

    async def __aenter__(self) -> DirectSession:
        now = asyncio.get_running_loop().time
        self._until = until = (patience.arrival.get() or now()) + patience.CONNECTION if self._is_patient else now()
        await self._slots.take(urgent=self._urgent)
        try:
            self._pooled = pooled = await self._pool.take(until=until)
        except BaseException as error:
            self._slots.give_back()
            raise_ours(error)
            raise
        return DirectSession(self._pool, pooled, self._compiled, until=until)

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            if error is None:
                self._pool.give_back(self._pooled)
            elif not isinstance(error, Exception):  # cancelled, in a statement perhaps
                self._pooled.connection.terminate()
            elif not breaks_connection(error):
                self._pool.give_back(self._pooled)
            else:
                self._pool.lose(self._pooled)
                with suppress(RetryableDatabaseError):
                    await self._pool.prove(until=self._until)
        finally:
            self._slots.give_back()
        if error is not None:
            raise_ours(error)


def _session_maker(engine: Engine) -> async_sessionmaker[AsyncSession]:
    from app.db.async_session import maker  # see there why not before

    return maker(engine)
