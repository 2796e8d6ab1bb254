"""The audit log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, ColumnElement, bindparam, insert, select

from app.db.schema import Schema
from app.db.session import Session
from app.db.tables import AnyRow, dag, dag_bundle_team

_COLUMNS = ("dttm", "event", "dag_id", "task_id", "run_id", "map_index", "try_number", "logical_date", "extra", "owner")
_TEAM = (
    select(dag_bundle_team.c.team_name)
    .join(dag, dag.c.bundle_name == dag_bundle_team.c.dag_bundle_name)
    .where(bindparam("log_in_teams", type_=Boolean), dag.c.dag_id == bindparam("log_dag_id"))
    .limit(1)
    .scalar_subquery()
)


class AuditLog:
    """The audit log of a release's database; a release may keep of which try a row tells, and of which team.

    :ivar values: by column, what a row is made of: parameters that are bound as ``log_NAME``; see :meth:`transition`.
    """

    def __init__(self, schema: Schema) -> None:
        log = schema.log
        self._tells_try = "task_instance_id" in log.c
        names = (*_COLUMNS, "task_instance_id") if self._tells_try else _COLUMNS
        self.values: dict[str, ColumnElement[Any]] = {
            name: bindparam(f"log_{name}", type_=log.c[name].type) for name in names
        }
        if self._tells_try:
            self.values["team_name"] = _TEAM
        self._insert = insert(log).values(self.values)

    async def record_transition(
        self, session: Session, *, row: AnyRow, event: str, hostname: str | None, in_teams: bool, now: datetime
    ) -> None:
        """Insert the audit row of a task instance's new state.

        :param row: the locked task instance.
        :param event: the new state.
        :param hostname: the worker's host; without one the row has no ``extra``.
        :param in_teams: whether the Dag may be a team's.
        """
        parameters = self.transition(row, event=event, hostname=hostname, in_teams=in_teams, now=now)
        await session.execute(self._insert, parameters)

    def transition(self, row: AnyRow, *, event: str, hostname: str | None, in_teams: bool, now: datetime) -> dict[str, Any]:
        """Return the parameters of the audit row of a task instance's new state; see :meth:`record_transition`."""
        extra = json.dumps({"host_name": hostname}) if hostname else None
        return self._about(row, event=event, extra=extra, owner=row.owners, in_teams=in_teams, now=now)

    async def record_for(
        self,
        session: Session,
        *,
        rows: Sequence[AnyRow],
        logical_date: datetime | None,
        event: str,
        extra: str,
        in_teams: bool,
        now: datetime,
    ) -> None:
        """Insert one audit row for each of several task instances of a run, as Airflow writes them: without an owner.

        :param rows: their keys and try numbers.
        :param logical_date: of their run, which is told where the try is.
        """
        if rows:
            date = logical_date if self._tells_try else None
            about = [
                self._about(row, event=event, extra=extra, in_teams=in_teams, now=now) | {"log_logical_date": date}
                for row in rows
            ]
            await session.execute(self._insert, about)

    async def record_notes(
        self, session: Session, *, row: AnyRow, notes: Sequence[tuple[str, str]], in_teams: bool, now: datetime
    ) -> None:
        """Insert audit rows of one task instance, as :meth:`record_for` does.

        :param notes: event and extra of each.
        """
        if notes:
            about = [self._about(row, event=event, extra=extra, in_teams=in_teams, now=now) for event, extra in notes]
            await session.execute(self._insert, about)

    def _about(
        self, row: AnyRow, *, event: str, extra: str | None, in_teams: bool, now: datetime, owner: str | None = None
    ) -> dict[str, Any]:
        told = {
            "dttm": now,
            "event": event,
            "dag_id": row.dag_id,
            "task_id": row.task_id,
            "run_id": row.run_id,
            "map_index": row.map_index,
            "try_number": row.try_number,
            "logical_date": getattr(row, "logical_date", None),
            "extra": extra,
            "owner": owner,
        }
        if self._tells_try:
            told |= {"task_instance_id": row.id, "in_teams": in_teams}
        return {f"log_{name}": value for name, value in told.items()}
