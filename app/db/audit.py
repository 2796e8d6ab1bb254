"""The audit log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import CTE, Boolean, ColumnElement, Insert, bindparam, insert, select

from app.db.schema import Schema
from app.db.session import Session
from app.db.tables import AnyRow, dag, dag_bundle_team

_COLUMNS = ("dttm", "event", "dag_id", "task_id", "run_id", "map_index", "try_number", "logical_date", "extra", "owner")
_KEYS = ("dag_id", "task_id", "run_id", "map_index", "try_number")


class AuditLog:
    """The audit log of a release's database; a release may keep of which try a row tells, and of which team.

    Its rows are made of parameters that are bound as ``log_NAME``; see :meth:`transition`.
    """

    def __init__(self, schema: Schema) -> None:
        self._log = log = schema.log
        self._tells_try = "task_instance_id" in log.c
        names = (*_COLUMNS, "task_instance_id") if self._tells_try else _COLUMNS
        self._values: dict[str, ColumnElement[Any]] = {
            name: bindparam(f"log_{name}", type_=log.c[name].type) for name in names
        }
        if self._tells_try:
            self._values["team_name"] = _team_of(bindparam("log_dag_id"))
        self._insert = insert(log).values(self._values)

    def copied(self, changed: CTE) -> Insert:
        """Return the statement that inserts an audit row for a changed task instance, of what :meth:`transition` returns."""
        return insert(self._log).from_select([*self._values], select(*self._values.values()).select_from(changed))

    def of_each(
        self, rows: CTE, *, event: ColumnElement[str], extra: ColumnElement[str], now: ColumnElement[datetime]
    ) -> Insert:
        """Return the statement that inserts an audit row for each of several task instances, as Airflow writes them.

        They have no owner. It binds ``log_in_teams``, and ``log_logical_date`` of their run, which is told where the try is.

        :param rows: their ids, keys and try numbers.
        """
        values: dict[str, Any] = {"dttm": now, "event": event, "extra": extra, **{name: rows.c[name] for name in _KEYS}}
        if self._tells_try:
            date = bindparam("log_logical_date", type_=self._log.c.logical_date.type)
            values |= {"task_instance_id": rows.c.id, "team_name": _team_of(rows.c.dag_id), "logical_date": date}
        return insert(self._log).from_select([*values], select(*values.values()))

    def transition(self, row: AnyRow, *, event: str, hostname: str | None, in_teams: bool, now: datetime) -> dict[str, Any]:
        """Return the parameters of the audit row of a task instance's new state.

        :param row: the task instance.
        :param event: the new state.
        :param hostname: the worker's host; without one the row has no ``extra``.
        :param in_teams: whether the Dag may be a team's.
        """
        extra = json.dumps({"host_name": hostname}) if hostname else None
        return self._about(row, event=event, extra=extra, owner=row.owners, in_teams=in_teams, now=now)

    async def record_notes(
        self, session: Session, *, row: AnyRow, notes: Sequence[tuple[str, str]], in_teams: bool, now: datetime
    ) -> None:
        """Insert audit rows of one task instance, without an owner.

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
            "logical_date": row.logical_date,
            "extra": extra,
            "owner": owner,
        }
        if self._tells_try:
            told |= {"task_instance_id": row.id, "in_teams": in_teams}
        return {f"log_{name}": value for name, value in told.items()}


def _team_of(dag_id: ColumnElement[str]) -> ColumnElement[Any]:
    """Select the team of a Dag, if Dags may be a team's."""
    return (
        select(dag_bundle_team.c.team_name)
        .join(dag, dag.c.bundle_name == dag_bundle_team.c.dag_bundle_name)
        .where(bindparam("log_in_teams", type_=Boolean), dag.c.dag_id == dag_id)
        .limit(1)
        .scalar_subquery()
    )
