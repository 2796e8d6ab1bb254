"""Triggers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import insert

from app.db.session import Session
from app.db.tables import trigger
from app.releases import Revision


async def create(
    session: Session,
    *,
    classpath: str,
    kwargs: Mapping[str, Any] | str,
    queue: str | None,
    team_name: str | None,
    now: datetime,
    revision: Revision,
) -> int:
    """Insert a trigger and return its id.

    :param kwargs: a string was encrypted by the worker and is kept as it is; a mapping is stored as plain JSON. The
        triggerer reads both.
    """
    values = {
        "classpath": classpath,
        "kwargs": kwargs if isinstance(kwargs, str) else json.dumps(kwargs),
        "queue": queue,
        "team_name": team_name,
        "created_date": now,
    }
    statement = insert(trigger).values(**revision.known("trigger", values)).returning(trigger.c.id)
    return int((await session.execute(statement)).scalar_one())
