"""Sessions: the only begin, commit and rollback in the code base.

A handler opens its session itself, with ``async with``: FastAPI's ``yield`` dependencies end after the response was
sent, and then a client could hold a 2xx for a transaction that fails to commit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

from prometheus_client import Gauge
from sqlalchemy import Engine, Executable, PoolProxiedConnection, text
from sqlalchemy.util import greenlet_spawn

from app import metrics
from app.db.direct import DirectSession, compiler
from app.db.engine import create_engine, timeouts
from app.db.retrying import breaks_connection, translated
from app.db.slots import Slots
from app.db.tables import AnyRow
from app.errors import ConfigurationError
from app.releases import Revision, revision_of
from app.settings import DatabaseSettings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"


class Rows(Protocol):
    """The rows of a result."""

    def __iter__(self) -> Iterator[AnyRow]: ...
    def all(self) -> Sequence[AnyRow]: ...
    def one(self) -> AnyRow: ...
    def one_or_none(self) -> AnyRow | None: ...
    def scalar_one(self) -> Any: ...


class Session(Protocol):
    """What executes statements: a :class:`~app.db.direct.DirectSession`, or the fallback's ``AsyncSession``."""

    async def execute(self, statement: Executable, params: Any = None) -> Rows: ...
    async def scalar(self, statement: Executable, params: Any = None) -> Any: ...
    async def scalars(self, statement: Executable, params: Any = None) -> Iterable[Any]: ...


@dataclass(frozen=True, slots=True)
class _Taken:
    """A connection that was taken out of the pool, which costs as much as a statement.

    :param until: when it must be put back, by the monotonic clock, so that the pool can replace it by age.
    """

    proxied: PoolProxiedConnection
    session: DirectSession
    until: float


class Database:
    """The metadata database of one process.

    :param settings: where it is and how long to wait.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        self.settings = settings
        self.engine: Engine = create_engine(settings)
        self._compiled = compiler(self.engine.dialect)
        self._idle: list[_Taken] = []
        self.slots = Slots(settings.pool_size)
        self._sessions: async_sessionmaker[AsyncSession] | None = None

    @asynccontextmanager
    async def autocommit(self, *, urgent: bool = False) -> AsyncIterator[DirectSession]:
        """Open a session whose every statement is a transaction of its own: one round trip, no lock kept after it.

        :param urgent: whether it goes before those that wait for a connection and are not.
        :raises RetryableDatabaseError: when the database cannot do it now.
        :raises RejectedByDatabase: when it does not take a value.
        """
        opened = self.transaction if self.settings.pgbouncer else self._direct
        async with opened(urgent=urgent) as session:
            yield session

    @asynccontextmanager
    async def transaction(self, *, urgent: bool = False) -> AsyncIterator[DirectSession]:
        """Open a transaction; it is committed when the block ends, before anything of a response is sent.

        :param urgent: whether it goes before those that wait for a connection and are not.
        :raises RetryableDatabaseError: when the database cannot do it now, at commit too; nothing was written.
        :raises RejectedByDatabase: when it does not take a value; nothing was written.
        """
        async with self._direct(urgent=urgent) as session:
            await session.control(BEGIN)
            try:
                for name, value in timeouts(self.settings).items() if self.settings.pgbouncer else ():
                    await session.control(f"SET LOCAL {name} = {value}")
                yield session
            except BaseException:
                if session.is_open:
                    await session.control("ROLLBACK")
                raise
            if session.is_in_transaction:
                await session.control("COMMIT")

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
                self._put_back()
                async with self._sessions.begin() as session:
                    yield session

    @asynccontextmanager
    async def _direct(self, *, urgent: bool = False) -> AsyncIterator[DirectSession]:
        """Open a session on a connection of the pool, outside any transaction."""
        with translated():
            async with self.slots.held(urgent=urgent), self._connected() as session:
                yield session

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[DirectSession]:
        """Take a connection out of the pool, or the one that was given back last and was not put back yet."""
        now = time.monotonic()
        taken = self._idle.pop() if self._idle else None
        if taken is not None and now > taken.until:
            taken.proxied.close()
            taken = None
        if taken is None:
            proxied = await greenlet_spawn(self.engine.raw_connection)
            session = DirectSession(proxied.driver_connection, self._compiled)
            lifetime = self.settings.pool_recycle if self.settings.pool_recycle > 0 else inf
            taken = _Taken(proxied, session, until=now + lifetime)
        is_idle = False
        try:
            yield taken.session
            is_idle = True
        except Exception as error:
            is_idle = not breaks_connection(error)
            raise
        finally:
            if is_idle and taken.session.is_open and not taken.session.is_in_transaction:
                self._idle.append(taken)
            else:  # cancelled in a statement, lost, or left in a transaction: nobody shall get it
                taken.proxied.invalidate()
                taken.proxied.close()

    def _put_back(self) -> None:
        """Make room in the pool: whoever holds a slot finds a connection there, or may open one."""
        if self._idle:
            self._idle.pop(0).proxied.close()

    @staticmethod
    async def stop_waiting(session: Session) -> None:
        """Make every further lock that somebody else holds an error at once.

        For a transaction that holds a row and is about to write what others write too: who waits for one row while it
        holds another can deadlock. It raises ``LockTimeout`` instead, lets go of everything, and its caller comes back.
        """
        await session.execute(text("SET LOCAL lock_timeout = 1"))  # milliseconds; 0 would mean for ever

    @staticmethod
    async def abandon(session: DirectSession) -> None:
        """Roll back what a transaction wrote so far; its block ends without writing anything."""
        await session.control("ROLLBACK")

    def gauges(self) -> dict[Gauge, Callable[[], float]]:
        """Return what tells how many connections are used, and how many wait for one."""
        return {
            metrics.CONNECTIONS: self.slots.used,
            metrics.WAITING.labels("heartbeat"): partial(self.slots.waiting, urgent=True),
            metrics.WAITING.labels("other"): partial(self.slots.waiting, urgent=False),
        }

    async def close(self) -> None:
        """Close every connection."""
        while self._idle:
            self._put_back()
        await greenlet_spawn(self.engine.dispose)

    async def ping(self) -> None:
        """Ask the database for nothing.

        :raises RetryableDatabaseError: when it cannot answer now.
        """
        async with self.autocommit(urgent=True) as session:
            await session.execute(text("SELECT 1"))

    async def revision(self) -> Revision:
        """Return the metadata revision of this database.

        :raises ConfigurationError: when it is no metadata database, or of a revision that is not supported.
        :raises RetryableDatabaseError: when the database cannot be reached.
        """
        async with self.autocommit() as session:
            exists = await session.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL"))
            found = list(await session.scalars(text("SELECT version_num FROM alembic_version"))) if exists else []
        where = f"{self.settings.url.host or 'localhost'}/{self.settings.url.database}"
        if not found:
            raise ConfigurationError(
                f"[database] sql_alchemy_conn names {where}, which is not an Airflow metadata database:"
                " it has no alembic_version; run 'airflow db migrate' on it first"
            )
        if (revision := revision_of(found[0])) is None:
            raise ConfigurationError(
                f"[database] sql_alchemy_conn names {where}, a metadata database at revision {found[0]!r}:"
                " expected that of Airflow 3.2 (1d6611b6ab7c) or 3.3 (d2f4e1b3c5a7)"
            )
        return revision


def _session_maker(engine: Engine) -> async_sessionmaker[AsyncSession]:
    from app.db.async_session import maker  # see there why not before

    return maker(engine)
