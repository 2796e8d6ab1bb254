"""Reschedules: how often, and since when, a try has waited for its turn again."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import bindparam, insert, select

from app.db.recording import Along, Part
from app.db.session import Session
from app.db.tables import task_reschedule

_GIVEN = {
    name: bindparam(f"reschedule_{name}", type_=task_reschedule.c[name].type)
    for name in ("ti_id", "start_date", "end_date", "duration", "reschedule_date")
}
_RECORDING = Part(
    lambda changed: [
        insert(task_reschedule).from_select(list(_GIVEN), select(*_GIVEN.values()).select_from(changed)).cte("rescheduled")
    ]
)


def recorded(*, ti_id: uuid.UUID, start_date: datetime, end_date: datetime, reschedule_date: datetime) -> Along:
    """Return what inserts a row into a task's reschedules; its duration is whole seconds, cut towards zero."""
    duration = int((end_date - start_date).total_seconds())
    return Along(
        _RECORDING,
        {
            "reschedule_ti_id": ti_id,
            "reschedule_start_date": start_date,
            "reschedule_end_date": end_date,
            "reschedule_duration": duration,
            "reschedule_reschedule_date": reschedule_date,
        },
    )


_OF_TASK = select(task_reschedule.c.start_date).where(task_reschedule.c.ti_id == bindparam("pk")).limit(1)
_FIRST = {
    is_by_time: _OF_TASK.order_by(task_reschedule.c.start_date if is_by_time else task_reschedule.c.id)
    for is_by_time in (False, True)
}


async def first(session: Session, *, ti_id: uuid.UUID, by_time: bool) -> datetime | None:
    """Return when a task was first rescheduled, or None.

    :param by_time: whether the first is that which began first; else that which was written first.
    """
    found: datetime | None = await session.scalar(_FIRST[by_time], {"pk": ti_id})
    return found
