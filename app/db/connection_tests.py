"""Connection tests: requests that the scheduler hands to a worker, with the connection to test."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, exists, select, update
from sqlalchemy.dialects.postgresql import insert

from app.db.session import Session
from app.db.tables import AnyRow, connection, connection_test_request

_FIELDS = ("conn_type", "host", "schema", "login", "password", "port", "extra", "is_encrypted", "is_extra_encrypted")
_STATE = select(connection_test_request.c.state).where(connection_test_request.c.id == bindparam("pk"))


async def state(session: Session, *, test_id: uuid.UUID) -> str | None:
    """Return the state of a test, or None when there is no such test."""
    found: str | None = await session.scalar(_STATE, {"pk": test_id})
    return found


async def start(session: Session, *, test_id: uuid.UUID, now: datetime) -> AnyRow | None:
    """Start a test that waits, once: one guarded statement; return its connection, or None when it does not wait."""
    statement = (
        update(connection_test_request)
        .where(connection_test_request.c.id == test_id, connection_test_request.c.state.in_(["pending", "queued"]))
        .values(state="running", updated_at=now)
        .returning(connection_test_request.c.connection_id, *(connection_test_request.c[name] for name in _FIELDS))
    )
    return (await session.execute(statement)).one_or_none()


async def finish(
    session: Session, *, test_id: uuid.UUID, state: str, result_message: str | None, now: datetime
) -> AnyRow | None:
    """End an active test: one guarded statement; return what it tested, or None when it is not active."""
    statement = (
        update(connection_test_request)
        .where(
            connection_test_request.c.id == test_id, connection_test_request.c.state.in_(["pending", "queued", "running"])
        )
        .values(state=state, result_message=result_message, active_connection_id=None, updated_at=now)
        .returning(
            connection_test_request.c.connection_id,
            connection_test_request.c.commit_on_success,
            connection_test_request.c.team_name,
            *(connection_test_request.c[name] for name in _FIELDS),
        )
    )
    return (await session.execute(statement)).one_or_none()


async def is_stored(session: Session, *, conn_id: str) -> bool:
    """Say whether there is a connection of this id."""
    return bool(await session.scalar(select(exists().where(connection.c.conn_id == conn_id))))


async def save_connection(session: Session, *, conn_id: str, team_name: str | None, values: Mapping[str, Any]) -> None:
    """Store a connection, or replace the one of this id, whose team, description, and what ``values`` lacks, are kept.

    :param values: its other columns, password and extra as they are stored.
    """
    statement = insert(connection).values(conn_id=conn_id, team_name=team_name, **{"is_encrypted": False, **values})
    await session.execute(statement.on_conflict_do_update(index_elements=["conn_id"], set_=values))
