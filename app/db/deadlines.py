"""Deadlines of runs, made of their Dag's alerts; the scheduler looks whether they are met."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, insert, select

from app.db.session import Session
from app.db.tables import AnyRow, callback, deadline, deadline_alert, serialized_dag
from app.db.uuids import uuid7

_ALERTS = (
    select(deadline_alert.c.id, deadline_alert.c.reference, deadline_alert.c.interval, deadline_alert.c.callback_def)
    .join(serialized_dag, serialized_dag.c.id == deadline_alert.c.serialized_dag_id)
    .where(serialized_dag.c.dag_version_id == bindparam("version_id"))
    .order_by(deadline_alert.c.id)
)


async def alerts(session: Session, *, version_id: uuid.UUID) -> Sequence[AnyRow]:
    """Return the alerts of a Dag version."""
    return (await session.execute(_ALERTS, {"version_id": version_id})).all()


_CALLBACK, _DEADLINE = insert(callback), insert(deadline)


async def create(
    session: Session,
    *,
    run_pk: int,
    planned: Sequence[Mapping[str, Any]],
    bundle_name: str | None,
    now: datetime,
) -> None:
    """Insert the deadlines of a run, each with its callback.

    :param planned: the alert's id, ``deadline_time``, and the ``type`` and ``data`` of the callback.
    :param bundle_name: of its Dag, where callbacks name it.
    """
    for each in planned:
        ids = {"callback": uuid7(), "deadline": uuid7()}
        values = {
            "id": ids["callback"],
            "type": each["type"],
            "fetch_method": "import_path",
            "data": each["data"],
            "state": "scheduled",
            "priority_weight": 1,
            "bundle_name": bundle_name,
            "created_at": now,
        }
        await session.execute(_CALLBACK, values)
        row = {
            "id": ids["deadline"],
            "created_at": now,
            "last_updated_at": now,
            "dagrun_id": run_pk,
            "deadline_time": each["deadline_time"],
            "missed": False,
            "callback_id": ids["callback"],
            "deadline_alert_id": each["alert_id"],
        }
        await session.execute(_DEADLINE, row)
