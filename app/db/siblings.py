"""The task instances of a run, several at once: those that a report stops or skips, and those that are tried anew."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    DateTime,
    Integer,
    Select,
    Text,
    Uuid,
    all_,
    bindparam,
    case,
    exists,
    extract,
    func,
    or_,
    select,
    tuple_,
    update,
)

from app.db.audit import AuditLog
from app.db.filtered import one_of
from app.db.recording import Along, Part
from app.db.schema import Schema
from app.db.session import Session
from app.db.tables import AnyRow
from app.db.tries import Tries

BATCH = 10_000  # rows changed by one statement, in half a second: more than runs have, so that no report grows with them
FAIL_EVENT = ("fail task", "Forcing task to fail due to dag's `fail_fast` setting.")
SKIP_EVENT = ("skip task", "Skipping task due to dag's `fail_fast` setting.")


class Changed(NamedTuple):
    """What one statement did.

    :param done: how many task instances it changed.
    :param left: how many it left: somebody holds them, or changed them in the same moment.
    """

    done: int
    left: int


class Siblings:
    """The task instances of a run in a release's database: rows that are a last try, whatever they are found by.

    What changes several never waits: it passes over those that somebody holds (``SKIP LOCKED``), so a transaction that holds
    other rows may do it. Airflow's own multi-row updates lock in no particular order, and whoever waits for one row while it
    holds another can deadlock with them.
    """

    def __init__(self, schema: Schema, tries: Tries, audit: AuditLog) -> None:
        self._audit = audit
        self._table = row = schema.task_instance
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
        of_run = row.c.dag_id == bindparam("of_dag"), row.c.run_id == bindparam("of_run"), tries.live
        self._lock_all = (
            select(*self._keys, row.c.max_tries, row.c.start_date, row.c.end_date, row.c.dag_version_id, row.c.operator)
            .add_columns(*schema.place(row))
            .where(*of_run)
            .order_by(row.c.id)
            .with_for_update(of=row)
        )
        wanted = select(
            func.unnest(bindparam("task_ids", type_=ARRAY(Text))).label("task_id"),
            func.unnest(bindparam("map_indexes", type_=ARRAY(Integer))).label("map_index"),
        )
        have_not_started = or_(row.c.state.is_(None), row.c.state.not_in(["running", "success", "failed", "skipped"]))
        are_wanted = or_(one_of(row.c.task_id, "whole"), tuple_(row.c.task_id, self._map_index).in_(wanted))
        are_reached = schema.is_reached(row, bindparam("asker", type_=Uuid))
        own = select(row.c.dag_id, row.c.run_id).where(row.c.id == bindparam("asker", type_=Uuid), tries.live).cte("own")
        of_own_run = *(row.c[name] == select(own.c[name]).scalar_subquery() for name in ("dag_id", "run_id")), tries.live
        skipping = self._changing(*of_own_run, are_wanted, are_reached, have_not_started)
        self._skip = skipping.where(exists(select(own.c.run_id)))
        have_not_ended = or_(row.c.state.is_(None), row.c.state.not_in(["success", "failed", "skipped"]))
        is_other = row.c.task_id != all_(bindparam("spared", type_=ARRAY(Text)))
        others = *of_run, is_other, have_not_ended
        self._stop = self._changing(*others, stops=True)

        def stopped(changed: CTE) -> list[CTE]:
            return [self._changing(*others, exists(select(changed.c.id)), stops=True).cte("stopped")]

        self._stopped = Part(stopped, leaves=True)

    def _changing(self, *where: ColumnElement[bool], stops: bool = False) -> Select[Any]:
        """Return the statement that skips matching task instances, in id order.

        :param stops: whether those that run fail instead, and the audit log tells of each.
        """
        row, now = self._table, bindparam("now", type_=DateTime(timezone=True))
        ready = (
            select(*self._keys)
            .where(*where)
            .order_by(row.c.id)
            .limit(BATCH)
            .with_for_update(of=row, key_share=True, skip_locked=True)
            .cte("ready")
        )
        values: dict[str, Any] = {"state": "skipped", "start_date": now, "end_date": now, "updated_at": now}
        if stops:  # a start and end that they have already are kept; the processes of those that run hear of it
            started, ended = (func.coalesce(row.c[name], now) for name in ("start_date", "end_date"))
            times = {"start_date": started, "end_date": ended, "duration": extract("epoch", ended - started)}
            runs = ready.c.state == "running"
            values |= {name: case((runs, row.c[name]), else_=value) for name, value in times.items()}
            values["state"] = case((runs, "failed"), else_="skipped")
        done_to = update(row).where(row.c.id == ready.c.id).values(**values).returning(row.c.id).cte("done_to")
        matching = select(func.count()).select_from(row).where(*where).scalar_subquery()
        done = select(func.count()).select_from(done_to).scalar_subquery()
        counted = select(done.label("done"), (matching - done).label("left"))
        return counted.add_cte(self._logged(ready, now)) if stops else counted

    def _logged(self, stopped: CTE, now: ColumnElement[datetime]) -> CTE:
        event, extra = (
            case((stopped.c.state == "running", failed), else_=skipped)
            for failed, skipped in zip(FAIL_EVENT, SKIP_EVENT, strict=True)
        )
        return self._audit.of_each(stopped, event=event, extra=extra, now=now).cte("logged")

    async def skip(
        self, session: Session, *, tasks: Sequence[tuple[str, int | None]], asker: uuid.UUID, now: datetime
    ) -> Changed | None:
        """Skip those ``tasks`` (id, and map index or None for all) of a task instance's run that have not started or ended.

        They are three arguments, however many they are: a statement takes 32,767.

        :param asker: the id of the task instance that skips them: in the loop that it is in, they are those of its pass.
        :returns: None when there is no such task instance.
        """
        places = [task for task in tasks if task[1] is not None]
        wanted: dict[str, Any] = {"whole": [task_id for task_id, map_index in tasks if map_index is None]}
        wanted |= {"task_ids": [task[0] for task in places], "map_indexes": [task[1] for task in places]}
        row = (await session.execute(self._skip, {**wanted, "asker": asker, "now": now})).one_or_none()
        return None if row is None else Changed(row.done, row.left)

    def stopped(
        self,
        *,
        dag_id: str,
        run_id: str,
        except_tasks: Collection[str],
        logical_date: datetime | None,
        in_teams: bool,
        now: datetime,
    ) -> Along:
        """Return what stops all task instances of a run that have not ended, but for those of ``except_tasks``.

        Those that run fail, and their processes hear of it on their next heartbeat; the others are skipped.

        :param logical_date: of the run.
        :param in_teams: whether the Dag may be a team's.
        """
        parameters: dict[str, Any] = {"of_dag": dag_id, "of_run": run_id, "spared": sorted(except_tasks), "now": now}
        return Along(self._stopped, parameters | {"log_in_teams": in_teams, "log_logical_date": logical_date})

    async def stop(self, session: Session, *, stopped: Along) -> Changed:
        """Stop them alone, in one statement: those that somebody held."""
        row = (await session.execute(self._stop, stopped.parameters)).one()
        return Changed(row.done, row.left)

    async def lock_all(self, session: Session, *, dag_id: str, run_id: str) -> Sequence[AnyRow]:
        """Lock every task instance of a run so that another try of each can begin, in id order.

        For a transaction that holds the run already.

        :raises LockTimeout: when somebody holds one of them.
        """
        return (await session.execute(self._lock_all, {"of_dag": dag_id, "of_run": run_id})).all()
