"""Callbacks: what executors run beside tasks, when a deadline was missed."""

from __future__ import annotations

import uuid

from sqlalchemy import bindparam, select, update
from sqlalchemy import exists as any_of

from app.db.session import Session
from app.db.tables import callback

_THIS = callback.c.id == bindparam("pk")
_START = update(callback).where(_THIS, callback.c.state == "queued").values(state="running").returning(callback.c.id)
_STATE = select(callback.c.state).where(_THIS)
_EXISTS = select(any_of().where(_THIS))


async def start(session: Session, *, callback_id: uuid.UUID) -> bool:
    """Start a callback that is queued, once: one guarded statement; say whether it was."""
    return await session.scalar(_START, {"pk": callback_id}) is not None


async def state(session: Session, *, callback_id: uuid.UUID) -> str | None:
    """Return the state of a callback, or None when there is none."""
    found: str | None = await session.scalar(_STATE, {"pk": callback_id})
    return found


async def exists(session: Session, *, callback_id: uuid.UUID) -> bool:
    """Say whether there is a callback with this id."""
    return bool(await session.scalar(_EXISTS, {"pk": callback_id}))
