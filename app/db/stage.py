"""A stage: the metadata database, on which all that requests do can be done, and nothing happens.

All sessions of a stage are on one connection, in one transaction that is rolled back. What requests write stands there in
temporary tables of the same names, which PostgreSQL finds before Airflow's own; and the transaction is read-only, so that
PostgreSQL itself refuses whatever would write to one of Airflow's tables, lock a row of it or move a sequence.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Executable, Text, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY

from app.db import partitions
from app.db.direct import DirectSession
from app.db.retrying import translated
from app.db.session import Database
from app.settings import DatabaseSettings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

# What tasks, and those who trigger and clear runs, write; a release's own tables are in its `Schema.written`.
WRITTEN = (
    "asset_alias_asset_event",
    "asset_dag_run_queue",
    "asset_event",
    "asset_partition_dag_run",
    "asset_state_store",
    "callback",
    "dag_run",
    "dag_run_note",
    "dagrun_asset_event",
    "deadline",
    "hitl_detail",
    "hitl_detail_history",
    "log",
    "partitioned_asset_key_log",
    "rendered_task_instance_fields",
    "task_instance",
    "task_instance_history",
    "task_instance_note",
    "task_map",
    "task_reschedule",
    "task_state_store",
    "trigger",
    "xcom",
)
FIRST_ID = 2**30  # of rows on the stage: far above those that tables which are not copied refer to

_names = bindparam("names", type_=ARRAY(Text))
_SCENERY = (
    text("""
        SELECT format('CREATE TEMPORARY TABLE %1$I (LIKE %1$I INCLUDING ALL)', relname)
          FROM pg_class WHERE relname = ANY (:names) AND relkind IN ('r', 'p') AND pg_table_is_visible(oid) ORDER BY relname
    """).bindparams(_names),
    text("""
        SELECT format('CREATE TEMPORARY SEQUENCE %1$I START %4$s OWNED BY pg_temp.%2$I.%3$I;'
                      ' ALTER TABLE pg_temp.%2$I ALTER %3$I'
                      ' SET DEFAULT nextval(''pg_temp.%1$I''::regclass)',
                      left(relname, 40) || '_stage_seq', relname, attname, CAST(:first AS int))
          FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.adnum
         WHERE relname = ANY (:names) AND pg_table_is_visible(c.oid)
           AND pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%' ORDER BY relname
    """).bindparams(_names, first=FIRST_ID),
    text("""
        SELECT format('ALTER TABLE pg_temp.%I ADD %s', c.relname, pg_get_constraintdef(k.oid))
          FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_class f ON f.oid = k.confrelid
         WHERE k.contype = 'f' AND c.relname = ANY (:names) AND f.relname = ANY (:names)
           AND pg_table_is_visible(c.oid) AND pg_table_is_visible(f.oid) ORDER BY c.relname, k.conname
    """).bindparams(_names),
)


class Stage(Database):
    """The metadata database, while :meth:`stands` nothing but read.

    :param settings: where it is.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        super().__init__(replace(settings, pool_size=1), is_patient=False)
        self._session: _StageSession | None = None

    @asynccontextmanager
    async def stands(self, *, written: Collection[str] = WRITTEN) -> AsyncIterator[None]:
        """Let sessions be opened until the block ends.

        :param written: the tables that may be written to, which are empty at first; the others are as they are.
        :raises RetryableDatabaseError: when the database cannot do it now.
        """
        with translated():
            now = asyncio.get_running_loop().time()
            pooled = await self._pool.take(until=now)
            session = _StageSession(self._pool, pooled, self._compiled, until=now)
            try:
                await session.control(self._begin)
                if written:
                    named = {"names": sorted(written)}
                    found = [await session.scalars(each, named) for each in _SCENERY]
                    await session.control("; ".join(command for commands in found for command in commands))
                await session.control("SET TRANSACTION READ ONLY")
                self._session = session
                yield
            finally:
                self._session = None
                if session.is_open:
                    await session.control("ROLLBACK")
                pooled.connection.terminate()  # what it has prepared was for tables that are gone

    @asynccontextmanager
    async def scene(self) -> AsyncIterator[DirectSession]:
        """Open a session, all that is done in which is undone when the block ends, and what others do meanwhile."""
        assert self._session is not None, "the stage does not stand"
        session = self._session
        await session.control("SAVEPOINT scene")
        try:
            yield session
        finally:
            if session.is_open:
                await session.control("ROLLBACK TO scene; RELEASE scene")

    def autocommit(self, *, urgent: bool = False) -> Any:
        """Open a session; see :meth:`app.db.session.Database.autocommit`."""
        return self.transaction(urgent=urgent)

    @asynccontextmanager
    async def transaction(self, *, urgent: bool = False) -> AsyncIterator[DirectSession]:
        """Open a transaction within the stage's own; see :meth:`app.db.session.Database.transaction`."""
        assert self._session is not None, "the stage does not stand"
        session = self._session
        with translated():
            await session.control("SAVEPOINT act")
            try:
                yield session
            except BaseException:
                if session.is_open:
                    await session.control("ROLLBACK TO act; RELEASE act")
                raise
            await session.control("RELEASE act")

    @staticmethod
    async def abandon(session: DirectSession) -> None:
        """Undo what a transaction wrote so far; see :meth:`app.db.session.Database.abandon`."""
        await session.control("ROLLBACK TO act")

    @asynccontextmanager
    async def fallback(self) -> AsyncIterator[AsyncSession]:
        """Raise what a session failed of: nothing is left to save on a stage, and its reason is what is looked for."""
        raise sys.exception() or AssertionError("nothing has failed")
        yield


class _StageSession(DirectSession):
    """A session of a stage: it takes none of the locks that are no row's, for nobody else is there to be kept away."""

    __slots__ = ()

    async def _rows(self, statement: Executable, params: Any) -> Sequence[Any]:
        return () if statement is partitions.LOCK else await super()._rows(statement, params)
