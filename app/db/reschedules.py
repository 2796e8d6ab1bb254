"""Reschedules: how often, and since when, a try has waited for its turn again."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import bindparam, insert, select

from app.db.session import Session
from app.db.tables import task_reschedule


async def record(
    session: Session, *, ti_id: uuid.UUID, start_date: datetime, end_date: datetime, reschedule_date: datetime
) -> None:
    """Insert a row into a task's reschedules; its duration is whole seconds, cut towards zero."""
    await session.execute(
        insert(task_reschedule).values(
            ti_id=ti_id,
            start_date=start_date,
            end_date=end_date,
            duration=int((end_date - start_date).total_seconds()),
            reschedule_date=reschedule_date,
        )
    )


_FIRST = (
    select(task_reschedule.c.start_date)
    .where(task_reschedule.c.ti_id == bindparam("pk"))
    .order_by(task_reschedule.c.id)
    .limit(1)
)


async def first(session: Session, *, ti_id: uuid.UUID) -> datetime | None:
    """Return when a task was first rescheduled, or None."""
    found: datetime | None = await session.scalar(_FIRST, {"pk": ti_id})
    return found
