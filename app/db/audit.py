"""The audit log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import insert

from app.db.session import Session
from app.db.tables import AnyRow, log

_INSERT = insert(log)
COLUMNS = ["dttm", "event", "dag_id", "task_id", "run_id", "map_index", "try_number", "logical_date", "extra", "owner"]


async def record_transition(session: Session, *, row: AnyRow, event: str, hostname: str | None, now: datetime) -> None:
    """Insert the audit row of a task instance's new state.

    :param row: the locked task instance.
    :param event: the new state.
    :param hostname: the worker's host; without one the row has no ``extra``.
    """
    await session.execute(_INSERT, transition(row, event=event, hostname=hostname, now=now))


def transition(row: AnyRow, *, event: str, hostname: str | None, now: datetime) -> dict[str, Any]:
    """Return the columns of the audit row of a task instance's new state; see :func:`record_transition`."""
    extra = json.dumps({"host_name": hostname}) if hostname else None
    return {**_about(row, event=event, extra=extra, now=now), "owner": row.owners}


async def record_for(session: Session, *, rows: Sequence[AnyRow], event: str, extra: str, now: datetime) -> None:
    """Insert one audit row for each of several task instances, as Airflow writes them: without an owner.

    :param rows: their keys and try numbers; those that have a logical date keep it.
    """
    if rows:
        await session.execute(_INSERT, [_about(row, event=event, extra=extra, now=now) for row in rows])


async def record_notes(session: Session, *, row: AnyRow, notes: Sequence[tuple[str, str]], now: datetime) -> None:
    """Insert audit rows of one task instance, as :func:`record_for` does.

    :param notes: event and extra of each.
    """
    if notes:
        await session.execute(_INSERT, [_about(row, event=event, extra=extra, now=now) for event, extra in notes])


def _about(row: AnyRow, *, event: str, extra: str | None, now: datetime) -> dict[str, Any]:
    return {
        "dttm": now,
        "event": event,
        "dag_id": row.dag_id,
        "task_id": row.task_id,
        "run_id": row.run_id,
        "map_index": row.map_index,
        "try_number": row.try_number,
        "logical_date": getattr(row, "logical_date", None),
        "extra": extra,
    }
