"""Connections, as stored."""

from __future__ import annotations

from sqlalchemy import bindparam, or_, select

from app.db.session import Session
from app.db.tables import AnyRow, connection

_BY_ID = (
    select(
        connection.c.conn_type,
        connection.c.host,
        connection.c.schema,
        connection.c.login,
        connection.c.password,
        connection.c.port,
        connection.c.extra,
        connection.c.is_encrypted,
        connection.c.is_extra_encrypted,
    )
    .where(
        connection.c.conn_id == bindparam("name"),
        or_(connection.c.team_name == bindparam("team"), connection.c.team_name.is_(None)),
    )
    .limit(1)
)


async def get(session: Session, *, conn_id: str, team_name: str | None) -> AnyRow | None:
    """Return a stored connection; the team's own, or one that belongs to no team."""
    return (await session.execute(_BY_ID, {"name": conn_id, "team": team_name})).one_or_none()
