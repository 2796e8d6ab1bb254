"""What a worker's report does to other task instances of its run: those downstream, and all of them where a failure is fast.

Nothing here waits for a row that somebody holds: what is free is changed, and who finds the rest held comes back.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement

from app.dags import serialized_dag
from app.db import dags
from app.db.audit import AuditLog
from app.db.session import Session
from app.db.siblings import Siblings
from app.db.tables import AnyRow
from app.errors import LockTimeout
from app.tasks.clock import utcnow
from app.tasks.service import Service
from app.tasks.transitions import NOT_FOUND, Refuse

FAIL_EVENT = ("fail task", "Forcing task to fail due to dag's `fail_fast` setting.")
SKIP_EVENT = ("skip task", "Skipping task due to dag's `fail_fast` setting.")


async def skip_downstream(service: Service, *, ti_id: uuid.UUID, tasks: Sequence[tuple[str, int | None]]) -> Refuse | None:
    """Skip tasks of a task instance's run that have not started; repeated, it finds nothing left to skip.

    :param tasks: (task id, map index); without a map index all instances of the task.
    :raises RetryableDatabaseError: what was skipped so far stays skipped; the same request goes on from there.
    """
    async with service.database.autocommit() as reading:
        own = await service.storage.task_instances.identity(reading, ti_id=ti_id)
    if own is None:
        return NOT_FOUND
    if tasks:
        stored = service.storage.siblings
        where = stored.skippable(dag_id=own.dag_id, run_id=own.run_id, tasks=tasks)

        async def skip(session: Session, rows: Sequence[AnyRow], now: datetime) -> None:
            await stored.skip(session, ids=[row.id for row in rows], now=now, keep_times=False)

        await _change_all(service, where, skip)
    return None


@dataclass(frozen=True, slots=True)
class Others:
    """The other tasks of a failed task's run: running ones fail, waiting ones are skipped, teardowns stay."""

    stored: Siblings
    audit: AuditLog
    where: ColumnElement[bool]
    logical_date: datetime | None
    in_teams: bool

    @classmethod
    async def of(cls, service: Service, session: Session, row: AnyRow) -> Others:
        """Return the others of a task instance, teardowns found in its run's version of the Dag."""
        found = await dags.tasks_of_run(session, dag_id=row.dag_id, run_id=row.run_id)
        spared = {task_id for task_id, task in found.items() if serialized_dag.is_teardown(task)} | {row.task_id}
        stored = service.storage.siblings
        where = stored.stoppable(dag_id=row.dag_id, run_id=row.run_id, except_tasks=spared)
        return cls(stored, service.storage.audit, where, row.logical_date, service.settings.multi_team)

    async def stop_ready(self, session: Session) -> None:
        """Stop those that nobody holds; it never waits, so the failed task's own row may be held."""
        while rows := await self.stored.lock_ready(session, where=self.where):
            await self.stop(session, rows, utcnow())

    async def stop(self, session: Session, rows: Sequence[AnyRow], now: datetime) -> None:
        """Stop these, which are locked."""
        running = [other for other in rows if other.state == "running"]
        waiting = [other for other in rows if other.state != "running"]
        if running:
            await self.stored.force_failed(session, ids=[other.id for other in running], now=now)
        if waiting:
            await self.stored.skip(session, ids=[other.id for other in waiting], now=now, keep_times=True)
        for those, (event, extra) in ((running, FAIL_EVENT), (waiting, SKIP_EVENT)):
            await self.audit.record_for(
                session,
                rows=those,
                logical_date=self.logical_date,
                event=event,
                extra=extra,
                in_teams=self.in_teams,
                now=now,
            )


async def stop_held(service: Service, row: AnyRow) -> None:
    """Stop the others that somebody held while the failure was recorded."""
    async with service.database.autocommit() as reading:
        others = await Others.of(service, reading, row)
    await _change_all(service, others.where, others.stop)


async def _change_all(
    service: Service,
    where: ColumnElement[bool],
    change: Callable[[Session, Sequence[AnyRow], datetime], Awaitable[None]],
) -> None:
    """Apply ``change`` to every matching task instance, in batches of those that nobody holds, in id order.

    :param where: matches what is left to change; a changed row must not match any more.
    :raises LockTimeout: when somebody holds those that are left; what was changed stays so.
    """
    while True:
        async with service.database.transaction() as session:
            rows = await service.storage.siblings.lock_ready(session, where=where)
            if not rows:
                break
            await change(session, rows, utcnow())
    async with service.database.autocommit() as session:
        if await service.storage.siblings.any_left(session, where=where):
            raise LockTimeout("somebody holds some of the task instances")
