"""The discipline itself: a run's task instances get a new Dag version in bounded batches, locked in primary-key order.

When a Dag has changed, the scheduler updates all unfinished task instances of a run with one statement, in no particular
order, while it holds the run's own row. Whoever holds one of those rows and waits for the run, or for another of them,
deadlocks with it. Here that one statement becomes: lock a batch in primary-key order, passing over rows that somebody
else holds (``FOR UPDATE SKIP LOCKED``), update the batch by id, until none is left. The scheduler waits for no row.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import State
from sqlalchemy import event, false, or_, select, update
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.sql.dml import Update

log = logging.getLogger("airflow.scheduler_lock_discipline")

OURS = "scheduler_lock_discipline"  # marks our own statements, which are executed as they are
PATIENCE = 1.0  # seconds for requests to give back the rows they hold; they take milliseconds
PAUSE = 0.02  # seconds between two looks

Run = tuple[str, str]


class Batches:
    """Gives the unfinished task instances of runs a new Dag version.

    :param size: the most rows that one statement locks.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.left: dict[Run, UUID] = {}

    def update(self, session: Session, run: Run, version: UUID) -> None:
        """Update all that can be locked, and remember a run of which some could not."""
        deadline = time.monotonic() + PATIENCE
        while True:
            while self._update_batch(session, run, version):
                pass
            remaining = session.scalar(select(TaskInstance.id).where(*_outdated(run, version)).limit(1))
            if remaining is None:
                self.left.pop(run, None)
                return
            if time.monotonic() > deadline:
                self.left[run] = version
                log.info("some task instances of %s %s are held; their Dag version follows in the next loop", *run)
                return
            time.sleep(PAUSE)

    def finish(self, session: Session, run: Run) -> None:
        """Update what an earlier loop had to leave."""
        if (version := self.left.get(run)) is not None:
            self.update(session, run, version)

    def _update_batch(self, session: Session, run: Run, version: UUID) -> int:
        """Lock one batch in primary-key order, update it, and return how many rows it had."""
        lock = select(TaskInstance.id).where(*_outdated(run, version)).order_by(TaskInstance.id).limit(self.size)
        ids = list(session.scalars(lock.with_for_update(of=TaskInstance, skip_locked=True)))
        if ids:
            session.execute(
                update(TaskInstance).where(TaskInstance.id.in_(ids)).values(dag_version_id=version),
                execution_options={"synchronize_session": False, OURS: True},
            )
        return len(ids)


def apply(*, batch_size: int) -> None:
    """Give the scheduler of this process the discipline; a second call changes nothing."""
    original = SchedulerJobRunner._verify_integrity_if_dag_changed
    if not hasattr(original, OURS):
        wrapped = _disciplined(original, Batches(batch_size))
        setattr(wrapped, OURS, True)
        SchedulerJobRunner._verify_integrity_if_dag_changed = wrapped


def _disciplined(original: Callable[..., bool], batches: Batches) -> Callable[..., bool]:
    @functools.wraps(original)
    def verify_integrity_if_dag_changed(self: Any, dag_run: Any, session: Session) -> bool:
        run = (dag_run.dag_id, dag_run.run_id)
        batches.finish(session, run)
        with _bulk_update_replaced(session, run, batches):
            return original(self, dag_run=dag_run, session=session)

    return verify_integrity_if_dag_changed


@contextmanager
def _bulk_update_replaced(session: Session, run: Run, batches: Batches) -> Iterator[None]:
    """Do the batches instead of an UPDATE of the Dag version of many task instances, on this session."""

    def replace(state: ORMExecuteState) -> Any:
        version = _new_version(state)
        if version is None:
            return None
        batches.update(session, run, version)
        return session.execute(select(TaskInstance.id).where(false()))

    event.listen(session, "do_orm_execute", replace)
    try:
        yield
    finally:
        event.remove(session, "do_orm_execute", replace)


def _new_version(state: ORMExecuteState) -> UUID | None:
    """Return the Dag version that a bulk update of task instances sets, or None for any other statement."""
    statement = state.statement
    if not isinstance(statement, Update) or state.execution_options.get(OURS):
        return None
    if getattr(statement.table, "name", None) != TaskInstance.__tablename__:
        return None
    values = {column.key: value for column, value in (statement._values or {}).items()}
    if values.keys() != {"dag_version_id"}:
        return None
    return values["dag_version_id"].value


def _outdated(run: Run, version: UUID) -> tuple[Any, ...]:
    """Match the unfinished task instances of a run that have another Dag version."""
    dag_id, run_id = run
    states = [state for state in State.unfinished if state is not None]
    return (
        TaskInstance.dag_id == dag_id,
        TaskInstance.run_id == run_id,
        or_(TaskInstance.state.in_(states), TaskInstance.state.is_(None)),
        or_(TaskInstance.dag_version_id != version, TaskInstance.dag_version_id.is_(None)),
    )
