"""Connection tests: requests that the scheduler hands to a worker, with the connection to test."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Column, and_, bindparam, case, exists, func, select, update
from sqlalchemy.dialects.postgresql import Insert, insert

from app.db.schema import Schema
from app.db.session import Session
from app.db.tables import AnyRow, connection, connection_test_request

_FIELDS = ("conn_type", "host", "schema", "login", "password", "port", "extra", "is_encrypted", "is_extra_encrypted")
_TAKEN = (
    "Connection test succeeded, but connection `%s` was created by another request after this test was queued,"
    " so the tested values were not saved."
)


class ConnectionTests:
    """The connection tests of a release's database; they may say if a connection that exists meanwhile is replaced."""

    def __init__(self, schema: Schema) -> None:
        columns = [Column(column.name, column.type, primary_key=column.primary_key) for column in connection_test_request.c]
        table = schema.table("connection_test_request", *columns)
        fields = [table.c[name] for name in _FIELDS]
        test, now = table.c.id == bindparam("pk"), bindparam("now", type_=table.c.updated_at.type)
        state, message = (bindparam(f"new_{name}", type_=table.c[name].type) for name in ("state", "result_message"))
        result: dict[str, Any] = {"state": state, "result_message": message}
        if "commit_allows_update" in table.c:
            is_taken = exists().where(connection.c.conn_id == table.c.connection_id)
            unsaved = and_(state == "success", table.c.commit_on_success, ~table.c.commit_allows_update, is_taken)
            told = func.format(_TAKEN, table.c.connection_id)
            result = {
                "state": case((unsaved, "failed"), else_=state),
                "result_message": case((unsaved, told), else_=message),
            }
        self._state = select(table.c.state).where(test)
        self._start = (
            update(table)
            .where(test, table.c.state.in_(["pending", "queued"]))
            .values(state="running", updated_at=now)
            .returning(table.c.connection_id, *fields)
        )
        self._finish = (
            update(table)
            .where(test, table.c.state.in_(["pending", "queued", "running"]))
            .values(**result, active_connection_id=None, updated_at=now)
            .returning(table.c.connection_id, table.c.state, table.c.commit_on_success, table.c.team_name, *fields)
        )

    async def state(self, session: Session, *, test_id: uuid.UUID) -> str | None:
        """Return the state of a test, or None when there is no such test."""
        found: str | None = await session.scalar(self._state, {"pk": test_id})
        return found

    async def start(self, session: Session, *, test_id: uuid.UUID, now: datetime) -> AnyRow | None:
        """Start a test that waits, once: one guarded statement; return its connection, or None when it does not wait."""
        return (await session.execute(self._start, {"pk": test_id, "now": now})).one_or_none()

    async def finish(
        self, session: Session, *, test_id: uuid.UUID, state: str, result_message: str | None, now: datetime
    ) -> AnyRow | None:
        """End an active test: one guarded statement; return what it tested, or None when it is not active.

        A success whose connection must not be stored, since there is one meanwhile, ends as failed.
        """
        parameters = {"pk": test_id, "new_state": state, "new_result_message": result_message, "now": now}
        return (await session.execute(self._finish, parameters)).one_or_none()


_IS_STORED = select(exists().where(connection.c.conn_id == bindparam("name")))


async def is_stored(session: Session, *, conn_id: str) -> bool:
    """Say whether there is a connection of this id."""
    return bool(await session.scalar(_IS_STORED, {"name": conn_id}))


@cache
def _saving(names: frozenset[str]) -> Insert:
    """Return the statement that stores a connection, or these columns of the one of its id; made once a kind."""
    new = insert(connection)
    renewed = {name: new.excluded[name] for name in sorted(names)}
    return new.on_conflict_do_update(index_elements=["conn_id"], set_=renewed)


async def save_connection(session: Session, *, conn_id: str, team_name: str | None, values: Mapping[str, Any]) -> None:
    """Store a connection, or replace the one of this id, whose team, description, and what ``values`` lacks, are kept.

    :param values: its other columns, password and extra as they are stored.
    """
    stored = {"conn_id": conn_id, "team_name": team_name, "is_encrypted": False, **values}
    await session.execute(_saving(frozenset(values)), stored)
