"""Tries: how a release keeps those that ended, and what begins the next one.

To a worker a try has an id of its own, which is its token's. Airflow 3.2 and 3.3 keep the last try in ``task_instance``;
when another begins, what was is copied into ``task_instance_history`` and the row gets a new id, which what refers to it
follows. Another way is to leave the row where it is, archived, and to insert its successor. The interface fits both.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    CTE,
    Column,
    ColumnElement,
    DateTime,
    String,
    Uuid,
    bindparam,
    case,
    cast,
    delete,
    exists,
    extract,
    false,
    func,
    insert,
    select,
    true,
)
from sqlalchemy.sql.dml import ReturningInsert

from app.db.recording import Along, Part
from app.db.schema import Schema, attempt_columns, known, writes
from app.db.session import Session
from app.db.tables import AnyRow, hitl_detail, task_reschedule
from app.db.uuids import uuid7

ENDED = ("success", "failed", "skipped", "upstream_failed", "removed")
NOTHING: Mapping[str, Any] = {}
Changes = Sequence[tuple[uuid.UUID, Mapping[str, Any]]]  # columns of task instances, by the id before


class Tries(ABC):
    """The tries of a release's task instances.

    :ivar live: matches the rows of ``task_instance`` that are a last try. All statements that look for task instances by
        something else than what only a last try has (it runs, it waits for the scheduler) must say so.
    :ivar keep_end_dates: whether a try that ended keeps the end that was told; else it ends when another begins.
    :ivar counts_ahead: whether a try has its number before it is scheduled; else the scheduler gives it.
    """

    live: ColumnElement[bool]
    keep_end_dates: bool
    counts_ahead: bool

    @abstractmethod
    async def is_archived(self, session: Session, *, ti_id: uuid.UUID) -> bool:
        """Say whether this id is that of a try that ended when another began."""

    @abstractmethod
    def next_begun(
        self, *, row: AnyRow, values: Mapping[str, Any], begun: Mapping[str, Any] = NOTHING, now: datetime
    ) -> tuple[Mapping[str, Any], Along]:
        """Return what ends the try of a task instance as failed and begins the next one: its columns, and what goes along.

        :param row: the task instance as it was seen.
        :param values: columns of the task instance as the worker's report sets them: its state, when it ended, what a retry
            policy said.
        :param begun: further columns in which the next try differs.
        """

    @abstractmethod
    async def end_all(self, session: Session, *, dag_id: str, run_id: str, now: datetime) -> set[uuid.UUID]:
        """End the last tries of a run's locked task instances; one that has not ended counts as failed now.

        :returns: the ids of those that had not been ended so before.
        """

    @abstractmethod
    async def begin_all(self, session: Session, *, changes: Changes) -> None:
        """Begin another try of task instances whose last one was ended by :meth:`end_all`.

        :param changes: the columns in which each next try differs from the last one.
        """


class HistoryTries(Tries):
    """Tries as Airflow 3.2 and 3.3 keep them: a row of ``task_instance_history`` each, but for the last.

    :param keep_end_dates: see :class:`Tries`; and whether a label that was reported last is the ended try's.
    """

    def __init__(self, schema: Schema, *, keep_end_dates: bool = True) -> None:
        self.live = true()
        self.counts_ahead = False
        self.keep_end_dates = keep_end_dates
        self._schema = schema
        self._table = schema.task_instance
        self._history = schema.table(
            "task_instance_history", Column("task_instance_id", Uuid, primary_key=True), *attempt_columns()
        )
        requests = [Column(column.name, column.type) for column in hitl_detail.c if column.name != "ti_id"]
        self._requests = schema.table("hitl_detail_history", Column("ti_history_id", Uuid, primary_key=True), *requests)
        self._is_archived = select(exists().where(self._history.c.task_instance_id == bindparam("pk")))
        self._ending: dict[frozenset[str], Part] = {}
        self._of_run = self._table.c.dag_id == bindparam("dag_id"), self._table.c.run_id == bindparam("run_id")
        archived = self._copy(self._ended_now(), *self._of_run).cte("archived")
        of_run = delete(task_reschedule).where(task_reschedule.c.ti_id.in_(select(self._table.c.id).where(*self._of_run)))
        self._end_run = select(archived.c.task_instance_id).add_cte(self._copied_requests(archived), of_run.cte("forgotten"))

    async def is_archived(self, session: Session, *, ti_id: uuid.UUID) -> bool:
        return bool(await session.scalar(self._is_archived, {"pk": ti_id}))

    def next_begun(
        self, *, row: AnyRow, values: Mapping[str, Any], begun: Mapping[str, Any] = NOTHING, now: datetime
    ) -> tuple[Mapping[str, Any], Along]:
        ended = {name: values[name] for name in ("end_date", "duration", "retry_delay_override", "retry_reason")}
        if self.keep_end_dates:
            ended |= {name: values[name] for name in ("rendered_map_index",) if name in values}
        else:
            ended["end_date"] = now
            ended["duration"] = (now - row.start_date).total_seconds() if row.start_date else None
        told = known(self._history, {**ended, "state": "failed"})
        if (names := frozenset(told)) not in self._ending:
            self._ending[names] = self._ended(names)
        return {**values, **begun, "id": uuid7()}, Along(self._ending[names], {f"ended_{name}": told[name] for name in told})

    async def end_all(self, session: Session, *, dag_id: str, run_id: str, now: datetime) -> set[uuid.UUID]:
        keys = {"dag_id": dag_id, "run_id": run_id}
        return set(await session.scalars(self._end_run, {**keys, "now": now}))

    async def begin_all(self, session: Session, *, changes: Changes) -> None:
        await self._set(session, [(pk, {**values, "id": uuid7()}) for pk, values in changes])

    async def _set(self, session: Session, changes: Changes) -> None:
        """Set columns of locked task instances, each its own; one statement for all that change the same columns."""
        alike: dict[frozenset[str], list[dict[str, Any]]] = {}
        for pk, values in changes:
            of_release = known(self._table, values)
            alike.setdefault(frozenset(of_release), []).append(writes(pk, of_release))
        for names, rows in alike.items():
            await session.execute(self._schema.setting(names), rows)

    def _ended(self, names: Collection[str]) -> Part:
        """Return what copies one try, in which these columns differ, and forgets its reschedules; made once a kind."""
        row, history = self._table, self._history
        told = {name: bindparam(f"ended_{name}", type_=history.c[name].type) for name in sorted(names)}

        def writes(changed: CTE) -> list[CTE]:
            has_changed = exists(select(changed.c.id))
            archived = self._copy(told, row.c.id == bindparam("pk"), has_changed).cte("archived")
            forgotten = delete(task_reschedule).where(task_reschedule.c.ti_id == bindparam("pk"), has_changed)
            return [archived, self._copied_requests(archived), forgotten.cte("forgotten")]

        if self.keep_end_dates:
            return Part(writes)
        reported = self._schema.bound(["end_date", "duration"])  # kept by a try that was cleared before
        return Part(writes, sets={name: case((self._was_tried(), reported[name]), else_=told[name]) for name in reported})

    def _was_tried(self) -> ColumnElement[bool]:
        """Match a task instance whose try is in the history."""
        attempt = ("dag_id", "task_id", "run_id", "map_index", "try_number")
        return exists().where(*(self._history.c[name] == self._table.c[name] for name in attempt))

    def _copied_requests(self, archived: CTE) -> CTE:
        """Return what copies what was asked of a person in tries that are archived."""
        names = [column.name for column in self._requests.c if column.name != "ti_history_id"]
        asked = select(hitl_detail.c.ti_id, *(hitl_detail.c[name] for name in names))
        asked = asked.join(archived, archived.c.task_instance_id == hitl_detail.c.ti_id)
        return insert(self._requests).from_select(["ti_history_id", *names], asked).cte("requests")

    def _copy(self, changed: Mapping[str, ColumnElement[Any]], *where: ColumnElement[bool]) -> ReturningInsert[Any]:
        row, history = self._table, self._history
        index = case((row.c.map_index >= 0, cast(row.c.map_index, String)))
        label = changed.get("rendered_map_index", row.c.rendered_map_index)
        changed = {**changed, "rendered_map_index": func.coalesce(label, index)}  # it has a label for every mapped task
        columns = [column.key for column in history.c if column.key != "task_instance_id"]
        copied = select(row.c.id, *(changed.get(name, row.c[name]) for name in columns)).where(*where, ~self._was_tried())
        statement = insert(history).from_select(["task_instance_id", *columns], copied)
        return statement.returning(history.c.task_instance_id)

    def _ended_now(self) -> dict[str, ColumnElement[Any]]:
        """Return the columns of a try that may not have ended, as one that failed now."""
        row = self._table
        has_ended = row.c.state.in_(ENDED)
        no_end = ~func.coalesce(has_ended, false())
        if self.keep_end_dates:
            no_end &= row.c.end_date.is_(None)
        now = bindparam("now", type_=DateTime(timezone=True))
        return {
            "state": case((has_ended, row.c.state), else_="failed"),
            "end_date": case((no_end, now), else_=row.c.end_date),
            "duration": case((no_end, extract("epoch", now - row.c.start_date)), else_=row.c.duration),
        }
