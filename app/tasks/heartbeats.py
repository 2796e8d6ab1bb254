"""Heartbeats that arrive while others are recorded go together: one statement, one commit, one flush.

One goes alone, as long as no other does; it may wait for its row. Those that come meanwhile go in one batch after another.
A batch skips the rows that somebody holds, and is a transaction of its own: it waits for no row, so it keeps nobody waiting
and cannot take part in a deadlock. What it skipped, or did not find running in the process that asks, is asked alone.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass

from app import metrics
from app.db import task_instances
from app.db.session import Database
from app.errors import RejectedByDatabase
from app.schemas.task_instances import TIHeartbeatInfo
from app.tasks.clock import utcnow

LARGEST = 1000  # heartbeats in a batch, so that no transaction gets long: more of them are several batches


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A heartbeat that goes with others; ``recorded`` becomes whether it was."""

    process: task_instances.Process
    recorded: asyncio.Future[bool]


class Heartbeats:
    """The heartbeats of one process.

    :param database: where they are recorded.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_one_alone = False
        self._waiting: list[_Waiting] = []
        self._batches: asyncio.Task[None] | None = None

    async def record(self, *, ti_id: uuid.UUID, payload: TIHeartbeatInfo) -> bool:
        """Record a heartbeat if this very process runs the task instance.

        :returns: whether it was recorded; if not, it may be only that somebody held the row.
        :raises RetryableDatabaseError: nothing was written.
        """
        if not self._is_one_alone:
            self._is_one_alone = True
            try:
                async with self._database.autocommit(urgent=True) as session:
                    return await task_instances.heartbeat(
                        session, ti_id=ti_id, hostname=payload.hostname, pid=payload.pid, now=utcnow()
                    )
            except RejectedByDatabase:  # no such host can have been recorded
                return False
            finally:
                self._is_one_alone = False
        recorded: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting((ti_id, payload.hostname, payload.pid), recorded))
        if self._batches is None:
            self._batches = asyncio.create_task(self._record_batches())
        return await recorded

    async def _record_batches(self) -> None:
        """Record batch after batch, until nobody waits."""
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:LARGEST], self._waiting[LARGEST:]
                await self._record_batch(batch)
        finally:
            self._batches = None

    async def _record_batch(self, batch: list[_Waiting]) -> None:
        recorded: set[task_instances.Process] = set()
        metrics.BATCH.observe(len(batch))
        try:
            async with self._database.autocommit(urgent=True) as session:
                recorded = await task_instances.heartbeats(session, processes=[each.process for each in batch], now=utcnow())
        except RejectedByDatabase:
            pass  # one has a value that PostgreSQL does not take: each is asked alone
        except Exception as error:  # whatever it is, it is raised where each of them waits
            batch, self._waiting = [*batch, *self._waiting], []  # who came meanwhile hears it too: nobody waits twice
            for each in batch:
                if not each.recorded.done():
                    each.recorded.set_exception(error)
        for each in batch:
            if not each.recorded.done():
                each.recorded.set_result(each.process in recorded)
