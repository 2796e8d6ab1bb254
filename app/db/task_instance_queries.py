"""What tasks ask about task instances other than their own: how many there are, their states, earlier ones."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Double,
    Integer,
    Table,
    Text,
    bindparam,
    case,
    cast,
    extract,
    func,
    literal_column,
    or_,
    select,
    tuple_,
)

from app.db.earlier import IsEarlier, Newest, is_before, newest
from app.db.filtered import Filtered, one_of
from app.db.schema import Schema
from app.db.session import Session
from app.db.tables import UNBOUNDED, AnyRow, dag_run, date_of, task_instance
from app.db.tries import Tries
from app.schemas.base import TerminalTIState

TERMINAL = [state.value for state in TerminalTIState]


class TaskInstanceQueries:
    """What is asked of a release's task instances by their coordinates: the last try of each counts."""

    def __init__(self, schema: Schema, tries: Tries) -> None:
        row = schema.task_instance
        self._map_index = schema.map_index(row)
        is_newest_pass = schema.is_newest_pass(row)
        map_index = self._map_index.label("map_index")
        silent_for = cast(extract("epoch", func.now() - row.c.last_heartbeat_at), Double)
        # In the statement's text, so that PostgreSQL knows how few they are.
        running, restarting, queued = [literal_column(f"'{state}'", Text) for state in ("running", "restarting", "queued")]
        at_work = row.c.state.in_((running, restarting))
        self._counts = select(
            func.count().filter(at_work).label("running"),
            func.count().filter(row.c.state == queued).label("queued"),
            func.count().filter(at_work, bindparam("late", type_=Double) < silent_for).label("late"),
            func.max(silent_for).filter(at_work).label("longest_silence"),
        ).where(or_(at_work, row.c.state == queued))
        logical_dates = one_of(dag_run.c.logical_date, "logical_dates")
        of_dates = select(dag_run.c.run_id).where(dag_run.c.dag_id == bindparam("of_dag"), logical_dates)
        filters = {
            "of_dag": row.c.dag_id == bindparam("of_dag"),
            "task_ids": one_of(row.c.task_id, "task_ids"),
            "run_ids": one_of(row.c.run_id, "run_ids"),
            "at_index": self._map_index == bindparam("at_index"),
            "logical_dates": row.c.run_id.in_(of_dates),
        }
        in_places = select(
            func.unnest(bindparam("in_places", type_=ARRAY(Text))),
            func.unnest(bindparam("at_indexes", type_=ARRAY(Integer))),
        )
        self._states = Filtered(
            select(row.c.run_id, row.c.task_id, map_index, row.c.state).where(tries.live, is_newest_pass), **filters
        )
        self._count = Filtered(
            select(func.count()).select_from(row).where(tries.live, is_newest_pass),
            **filters,
            in_places=tuple_(row.c.task_id, self._map_index).in_(in_places),
            states=one_of(row.c.state, "states"),
            states_or_none=one_of(row.c.state, "states_or_none") | row.c.state.is_(None),
        )
        self._breadcrumbs = (
            select(row.c.task_id, map_index, row.c.state, row.c.operator, row.c.duration, *schema.place(row))
            .where(
                row.c.dag_id == bindparam("dag_id"),
                row.c.run_id == bindparam("run_id"),
                row.c.state.in_(TERMINAL),
                tries.live,
            )
            .order_by(row.c.task_id, self._map_index, *(literal_column(each.name) for each in schema.place(row)))
        )
        self._previous = {
            (has_date, has_state): self._newest(schema, tries, is_earlier, has_state=has_state, are_dated=has_date)
            for has_date, is_earlier in ((True, is_before), (False, _is_before_asking))
            for has_state in (True, False)
        }

    def _newest(self, schema: Schema, tries: Tries, is_earlier: IsEarlier, *, has_state: bool, are_dated: bool) -> Newest:
        """Select a task's instance in the newest run that counts and has one."""
        row = schema.task_instance
        listed = [row.c[name] == bindparam(name) for name in ("dag_id", "task_id", *(["state"] if has_state else []))]
        return newest(
            row,
            *listed,
            self._map_index == bindparam("at_index"),
            tries.live,
            _in_same_pass(schema, row),
            columns=[
                *(row.c[name] for name in ("task_id", "dag_id", "run_id", "start_date", "end_date", "state", "try_number")),
                self._map_index.label("map_index"),
                row.c.duration,
                *schema.place(row),
            ],
            of_run=[dag_run.c.logical_date],
            is_earlier=is_earlier,
            listed=listed,
            are_dated=are_dated,
        )

    async def count(
        self,
        session: Session,
        *,
        states: Sequence[str] | None = None,
        pairs: Sequence[tuple[str, int]] | None = None,
        **filters: Any,
    ) -> int:
        """Count task instances.

        :param states: only these; ``"null"`` stands for no state.
        :param pairs: only these (task id, map index).
        :param filters: see :func:`states`.
        """
        places = None if pairs is None else [task_id for task_id, _ in pairs]
        in_states = {"states_or_none" if states and "null" in states else "states": states}
        statement, parameters = self._count.by(in_places=places, **in_states, **filters)
        if pairs is not None:
            parameters["at_indexes"] = [map_index for _, map_index in pairs]
        return await session.scalar(statement, parameters) or 0

    async def counts(self, session: Session, *, late: float) -> AnyRow:
        """Return how many tasks run and are queued, how many have been silent for so many seconds, the longest silence."""
        return (await session.execute(self._counts, {"late": late})).one()

    async def states(self, session: Session, **filters: Any) -> Sequence[AnyRow]:
        """Return run id, task id, map index and state of task instances.

        :param filters: ``of_dag``, and ``task_ids``, ``run_ids``, ``logical_dates``, ``at_index``, of which empty ones do
            not filter.
        """
        return (await session.execute(*self._states.by(**filters))).all()

    async def breadcrumbs(self, session: Session, *, dag_id: str, run_id: str) -> Sequence[AnyRow]:
        """Return the ended task instances of a run."""
        return (await session.execute(self._breadcrumbs, {"dag_id": dag_id, "run_id": run_id})).all()

    async def previous(
        self,
        session: Session,
        *,
        dag_id: str,
        task_id: str,
        map_index: int,
        before: datetime | None,
        asker: uuid.UUID,
        state: str | None,
    ) -> AnyRow | None:
        """Return the newest task instance of a task before a date, or before the run of the task instance that asks.

        :param before: only runs of an earlier logical date.
        :param asker: the task instance that asks: without ``before`` only runs that are earlier than its own, by
            :func:`~app.db.tables.date_of`, which is that of every run.
        :param state: only in this state.
        """
        parameters = {"dag_id": dag_id, "task_id": task_id, "at_index": map_index}
        parameters |= {"before": before, "asker": asker, "state": state}
        return await self._previous[before is not None, state is not None].row(session, parameters)


_run, _asker = dag_run.alias("run_of_asker"), task_instance.alias("asker")
_asking = (
    select(  # the newest of all is asked for by who is unknown
        func.coalesce(func.max(date_of(_run)), literal_column("'infinity'::timestamptz")).label("date"),
        func.coalesce(func.max(_run.c.id), literal_column(str(UNBOUNDED))).label("run_pk"),
    )
    .join(_asker, (_asker.c.dag_id == _run.c.dag_id) & (_asker.c.run_id == _run.c.run_id))
    .where(_asker.c.id == bindparam("asker"))
    .cte("asking")
)


def _is_before_asking(date: ColumnElement[Any]) -> ColumnElement[bool]:
    """Match runs that are earlier than that of who asks."""
    own_date, own_pk = (select(_asking.c[name]).scalar_subquery() for name in ("date", "run_pk"))
    return (date <= own_date) & (tuple_(date, dag_run.c.id) < tuple_(own_date, own_pk))


def _in_same_pass(schema: Schema, row: Table) -> ColumnElement[bool]:
    """Match a task in the pass of its loop in which who asks is itself, if that is the same task; else in the newest one."""
    asking = row.alias()
    same_task = (asking.c[name] == bindparam(name) for name in ("dag_id", "task_id"))
    of_asker = select(schema.pass_number(asking).label("number")).where(asking.c.id == bindparam("asker"), *same_task)
    own, number = select(of_asker.cte("own_pass").c.number).scalar_subquery(), schema.pass_number(row)
    return or_(number.is_(None), case((own.is_not(None), number == own), else_=schema.is_newest_pass(row)))
