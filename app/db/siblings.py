"""The task instances of a run, several at once: those that a report stops, skips or tries anew."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Integer,
    Text,
    and_,
    any_,
    bindparam,
    exists,
    extract,
    func,
    literal,
    or_,
    select,
    tuple_,
    update,
)

from app.db.schema import Schema
from app.db.session import Session
from app.db.tables import AnyRow
from app.db.tries import Tries

BATCH = 100  # rows locked at once by a report that stops others: some milliseconds of work, so nobody waits for long


class Siblings:
    """The task instances of a run in a release's database: rows that are a last try, whatever they are found by."""

    def __init__(self, schema: Schema, tries: Tries) -> None:
        self._table = row = schema.task_instance
        self._live = tries.live
        self._map_index = schema.map_index(row)
        self._keys = (
            row.c.id,
            row.c.dag_id,
            row.c.task_id,
            row.c.run_id,
            self._map_index.label("map_index"),
            row.c.try_number,
            row.c.state,
        )
        locked = select(*self._keys).where(tries.live).order_by(row.c.id)
        self._lock_ready = locked.limit(BATCH).with_for_update(of=row, key_share=True, skip_locked=True)
        self._lock_all = (
            locked.add_columns(row.c.max_tries, row.c.start_date, row.c.end_date, row.c.dag_version_id, row.c.operator)
            .add_columns(*schema.place(row))
            .where(row.c.dag_id == bindparam("dag_id"), row.c.run_id == bindparam("run_id"))
            .with_for_update(of=row)
        )

    async def lock_ready(self, session: Session, *, where: ColumnElement[bool]) -> Sequence[AnyRow]:
        """Lock those matching task instances that nobody else holds, in id order, at most :data:`BATCH` of them.

        It never waits (``SKIP LOCKED``), so a transaction that holds other rows may call it: Airflow's own multi-row updates
        lock in no particular order, and whoever waits for one row while it holds another can deadlock with them.

        :param where: from :meth:`skippable` or :meth:`stoppable`.
        :returns: their keys, try numbers and states.
        """
        return (await session.execute(self._lock_ready.where(where))).all()

    async def lock_all(self, session: Session, *, dag_id: str, run_id: str) -> Sequence[AnyRow]:
        """Lock every task instance of a run so that another try of each can begin, in id order.

        For a transaction that holds the run already.

        :raises LockTimeout: when somebody holds one of them.
        """
        return (await session.execute(self._lock_all, {"dag_id": dag_id, "run_id": run_id})).all()

    async def any_left(self, session: Session, *, where: ColumnElement[bool]) -> bool:
        """Say whether a task instance matches; without a lock."""
        return bool(await session.scalar(select(exists().where(where, self._live))))

    def skippable(self, *, dag_id: str, run_id: str, tasks: Sequence[tuple[str, int | None]]) -> ColumnElement[bool]:
        """Match those of a run's ``tasks`` (id, and map index or None for all) that have neither started nor ended.

        They are three arguments, however many they are: a statement takes 32,767.
        """
        row = self._table
        whole = [task_id for task_id, map_index in tasks if map_index is None]
        places = [task for task in tasks if task[1] is not None]
        task_ids, map_indexes = ([task[part] for task in places] for part in (0, 1))
        wanted = select(
            func.unnest(literal(task_ids, ARRAY(Text))).label("task_id"),
            func.unnest(literal(map_indexes, ARRAY(Integer))).label("map_index"),
        )
        return and_(
            row.c.dag_id == dag_id,
            row.c.run_id == run_id,
            or_(row.c.task_id == any_(literal(whole, ARRAY(Text))), tuple_(row.c.task_id, self._map_index).in_(wanted)),
            or_(row.c.state.is_(None), row.c.state.not_in(["running", "success", "failed", "skipped"])),
        )

    def stoppable(self, *, dag_id: str, run_id: str, except_tasks: Collection[str]) -> ColumnElement[bool]:
        """Match the task instances of a run that a failure stops: all that have not ended, but for ``except_tasks``."""
        row = self._table
        return and_(
            row.c.dag_id == dag_id,
            row.c.run_id == run_id,
            row.c.task_id.not_in(sorted(except_tasks)),
            or_(row.c.state.is_(None), row.c.state.not_in(["success", "failed", "skipped"])),
        )

    async def skip(self, session: Session, *, ids: Sequence[uuid.UUID], now: datetime, keep_times: bool) -> None:
        """Set locked task instances to skipped.

        :param keep_times: whether a start and end that they have already are kept, and the duration computed from them.
        """
        row = self._table
        values: dict[str, Any] = {"state": "skipped", "start_date": now, "end_date": now, "updated_at": now}
        if keep_times:
            started, ended = (func.coalesce(row.c[name], now) for name in ("start_date", "end_date"))
            values |= {"start_date": started, "end_date": ended, "duration": extract("epoch", ended - started)}
        await session.execute(update(row).where(row.c.id.in_(ids)).values(**values))

    async def force_failed(self, session: Session, *, ids: Sequence[uuid.UUID], now: datetime) -> None:
        """Set locked, running task instances to failed; their processes hear of it on their next heartbeat."""
        row = self._table
        statement = update(row).where(row.c.id.in_(ids)).values(state="failed", updated_at=now)
        await session.execute(statement)
