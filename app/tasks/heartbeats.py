"""Heartbeats that arrive while others are recorded go together: one statement, one commit, one flush.

Whoever comes while none is recorded goes at once. Those that come meanwhile are the next batch. Nothing waits for a row that
somebody holds: who met one comes back, and goes with those who come then.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from datetime import timedelta

from app.db import heartbeats
from app.db.heartbeats import Process
from app.db.session import Database
from app.errors import RejectedByDatabase
from app.schemas.task_instances import TIHeartbeatInfo
from app.server import metrics
from app.tasks.clock import utcnow

LARGEST = 1000  # heartbeats in a batch, so that no transaction gets long: more of them are several batches
LATE = 0.5  # seconds after which the next batch goes on another connection: with the statement timeout below a client's 5 s


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A heartbeat that goes with others; ``recorded`` becomes whether it was."""

    process: Process
    recorded: asyncio.Future[bool]


class Heartbeats:
    """The heartbeats of one process.

    :param database: where they are recorded.
    :param write_interval: seconds after a recorded one in which others are verified only; 0 records each.
    """

    def __init__(self, database: Database, *, write_interval: float = 0.0) -> None:
        self._database = database
        self._interval = timedelta(seconds=write_interval)
        self._under_way: list[Process] | None = None  # those for which the ones that come now wait
        self._waiting: list[_Waiting] = []
        self._late: asyncio.TimerHandle | None = None
        self._batches: set[asyncio.Task[None]] = set()

    async def record(self, *, ti_id: uuid.UUID, payload: TIHeartbeatInfo) -> bool:
        """Record a heartbeat if this very process runs the task instance, and if it is due.

        :returns: whether it was recorded, or need not be; if not, it may be only that somebody held the row.
        :raises RejectedByDatabase: it does not take a value of this heartbeat.
        :raises RetryableDatabaseError: nothing was written.
        """
        process = (ti_id, payload.hostname, payload.pid)
        if self._under_way is None:
            return bool(await self._recorded([process]))
        recorded: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(process, recorded))
        self._bound()
        try:
            return await recorded
        finally:
            del recorded  # else an error refers to itself, by this frame; and to the request, until garbage is collected

    async def _recorded(self, processes: list[Process]) -> set[Process]:
        """Record these, while those that come now wait; and then let them go."""
        self._under_way = processes
        try:
            async with self._database.autocommit(urgent=True) as session:
                if self._interval:
                    return await heartbeats.verify(session, processes=processes, now=utcnow(), interval=self._interval)
                return await heartbeats.record(session, processes=processes, now=utcnow())
        finally:
            if self._under_way is processes:
                self._go_on()

    def _bound(self) -> None:
        """See to it that those who wait do not wait for long, whatever happens to the batch before them."""
        if self._late is None:
            self._late = asyncio.get_running_loop().call_later(LATE, self._go_on)

    def _go_on(self) -> None:
        """Let those that wait go; who comes next waits for them alone."""
        self._under_way = None
        if self._late is not None:
            self._late.cancel()
            self._late = None
        if self._waiting:
            batch, self._waiting = self._waiting[:LARGEST], self._waiting[LARGEST:]
            self._under_way = [each.process for each in batch]
            task = asyncio.create_task(self._record_batch(batch, self._under_way))
            self._batches.add(task)  # the event loop keeps none alive
            task.add_done_callback(self._batches.discard)
        if self._waiting:
            self._bound()

    async def _record_batch(self, batch: list[_Waiting], processes: list[Process]) -> None:
        """Record a batch, and tell each of it what is its own.

        :param batch: empty once it failed: an error knows this frame, and would refer to itself by who waits for it.
        """
        metrics.BATCH.observe(len(batch))
        try:
            recorded = await self._recorded(processes)
        except Exception as error:  # whatever it is, it is raised where each of them waits
            if not isinstance(error, RejectedByDatabase) or len(batch) == 1:
                _raise(batch, error)
        else:
            for each in batch:
                if not each.recorded.done():
                    each.recorded.set_result(each.process in recorded)
            return
        while batch:  # one has a value that PostgreSQL does not take: each goes alone
            await self._record_batch([batch[0]], [batch.pop(0).process])


def _raise(batch: list[_Waiting], error: Exception) -> None:
    for each in batch:
        if not each.recorded.done():
            each.recorded.set_exception(error)
    batch.clear()
