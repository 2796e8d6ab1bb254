"""What a worker's report does to other task instances of its run: those downstream, and all of them where a failure is fast.

Nothing here waits for a row that somebody holds: what is free is changed, and who finds the rest held comes back.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.dags import serialized_dag
from app.db import dags
from app.db.recording import Along
from app.db.session import Session
from app.db.siblings import Changed, Siblings
from app.db.tables import AnyRow
from app.errors import LockTimeout
from app.tasks.clock import utcnow
from app.tasks.service import Service
from app.tasks.transitions import NOT_FOUND, Refuse


async def skip_downstream(service: Service, *, ti_id: uuid.UUID, tasks: Sequence[tuple[str, int | None]]) -> Refuse | None:
    """Skip tasks of a task instance's run that have not started; repeated, it finds nothing left to skip.

    One in a loop skips those of its own pass, one outside those of all passes.

    :param tasks: (task id, map index); without a map index all instances of the task.
    :raises RetryableDatabaseError: what was skipped so far stays skipped; the same request goes on from there.
    """
    skip = service.storage.siblings.skip
    async with service.database.autocommit() as session:
        changed = await _all(lambda: skip(session, tasks=tasks, asker=ti_id, now=utcnow()))
    return NOT_FOUND if changed is None else None


@dataclass(frozen=True, slots=True)
class Others:
    """The other tasks of a failed task's run: running ones fail, waiting ones are skipped, teardowns stay."""

    stored: Siblings
    dag_id: str
    run_id: str
    spared: Collection[str]
    logical_date: datetime | None
    in_teams: bool

    @classmethod
    async def of(cls, service: Service, session: Session, row: AnyRow) -> Others:
        """Return the others of a task instance, teardowns found in its run's version of the Dag."""
        found = await dags.tasks_of_run(session, dag_id=row.dag_id, run_id=row.run_id)
        spared = {task_id for task_id, task in found.items() if serialized_dag.is_teardown(task)} | {row.task_id}
        return cls(service.storage.siblings, row.dag_id, row.run_id, spared, row.logical_date, service.settings.multi_team)

    def stopped(self) -> Along:
        """Return what stops those that nobody holds; it never waits, so it goes along with the failure itself."""
        return self.stored.stopped(
            dag_id=self.dag_id,
            run_id=self.run_id,
            except_tasks=self.spared,
            logical_date=self.logical_date,
            in_teams=self.in_teams,
            now=utcnow(),
        )


async def stop_held(service: Service, row: AnyRow) -> None:
    """Stop the others that somebody held while the failure was recorded."""
    async with service.database.autocommit() as session:
        others = await Others.of(service, session, row)
        await _all(lambda: others.stored.stop(session, stopped=others.stopped()))


async def _all(change: Callable[[], Awaitable[Changed | None]]) -> Changed | None:
    """Change task instances, each time those that nobody holds, until none is left to change; return what came last.

    :raises LockTimeout: when somebody holds those that are left; what was changed stays so.
    """
    while (changed := await change()) is not None and changed.left:
        if not changed.done:
            raise LockTimeout("somebody holds some of the task instances")
    return changed
