"""Human-in-the-loop requests: one a task instance, with the response once there is one."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, null, select, update
from sqlalchemy.dialects.postgresql import insert

from app.db.session import Session
from app.db.tables import AnyRow, hitl_detail

_COLUMNS = tuple(column for column in hitl_detail.c if column.name not in ("ti_id", "created_at"))
_BY_TI = select(*_COLUMNS).where(hitl_detail.c.ti_id == bindparam("pk"))


async def get(session: Session, *, ti_id: uuid.UUID) -> AnyRow | None:
    """Return a task instance's request, or None."""
    return (await session.execute(_BY_TI, {"pk": ti_id})).one_or_none()


_ASKED = ("options", "subject", "body", "defaults", "multiple", "params", "assignees")
_new = insert(hitl_detail)
_FORGOTTEN = {"responded_by": null(), "responded_at": null(), "chosen_options": null(), "params_input": {}}
_ASK = _new.on_conflict_do_update(
    index_elements=["ti_id"],
    set_={**{name: _new.excluded[name] for name in (*_ASKED, "created_at")}, **_FORGOTTEN},
).returning(*_COLUMNS)


async def ask(session: Session, *, ti_id: uuid.UUID, request: Mapping[str, Any], now: datetime) -> AnyRow:
    """Make a request, in one statement; one that an earlier try made, and its response, are forgotten.

    :param request: options, subject, body, defaults, multiple, params and assignees.
    :raises MissingReference: when there is no such task instance.
    """
    asked = {name: request[name] for name in _ASKED}
    return (await session.execute(_ASK, {"ti_id": ti_id, "created_at": now, "params_input": {}, **asked})).one()


_RESPOND = (
    update(hitl_detail)
    .where(hitl_detail.c.ti_id == bindparam("pk"), hitl_detail.c.responded_at.is_(None))
    .values(
        responded_at=bindparam("now"),
        responded_by=null(),
        chosen_options=bindparam("chosen"),
        params_input=bindparam("given"),
    )
    .returning(*_COLUMNS)
)


async def respond(
    session: Session, *, ti_id: uuid.UUID, chosen_options: Sequence[str], params_input: Mapping[str, Any], now: datetime
) -> AnyRow | None:
    """Record a response, once: one statement, guarded by its own WHERE; None when there is one, or no request."""
    parameters = {"pk": ti_id, "now": now, "chosen": list(chosen_options), "given": dict(params_input)}
    return (await session.execute(_RESPOND, parameters)).one_or_none()
