"""Connection tests: a worker fetches the connection once, and its result may store it."""

from __future__ import annotations

import json
import re
from uuid import UUID

from app.db import connection_tests
from app.db.session import Session
from app.db.tables import AnyRow
from app.schemas.connection_tests import TERMINAL, ConnectionTestResultBody
from app.settings.connection import Connection
from app.tasks.clock import utcnow
from app.tasks.service import Service
from app.tasks.transitions import Refuse

CONN_ID = re.compile(r"[\w#!()\-.:/\\]{1,250}")  # what Airflow's own model takes for a new connection


async def fetch(service: Service, *, test_id: UUID) -> Connection | Refuse:
    """Return the connection to test, once: the test is running from then on.

    :raises RetryableDatabaseError: nothing was written.
    """
    async with service.database.transaction() as session:
        row = await service.storage.connection_tests.start(session, test_id=test_id, now=utcnow())
        if row is None:
            state = await service.storage.connection_tests.state(session, test_id=test_id)
            return _refusal(
                test_id, state, f"is in state {state}; credentials can only be fetched once while PENDING or QUEUED."
            )
        connection = service.secrets.decrypted(row, conn_id=row.connection_id)
        if connection is None:
            await service.database.abandon(session)
            return _refusal(
                test_id, row.connection_id, "cannot be fetched: no [core] fernet_key decrypts its password and extra"
            )
    return connection


async def finish(service: Service, *, test_id: UUID, result: ConnectionTestResultBody) -> Refuse | None:
    """Record the result of a test, and store the connection that succeeded if that was asked for.

    :raises RetryableDatabaseError: nothing was written.
    """
    tests = service.storage.connection_tests
    state, message = result.state.value, result.result_message
    async with service.database.transaction() as session:
        tested = await tests.finish(session, test_id=test_id, state=state, result_message=message, now=utcnow())
        if tested is None:
            found = await tests.state(session, test_id=test_id)
            kind = "already in terminal state" if found in TERMINAL else "not in an active state"
            return _refusal(test_id, found, f"is {kind}: {found}")
        is_to_store = tested.state == "success" and tested.commit_on_success
        if is_to_store and (refusal := await _save(service, session, tested)) is not None:
            await service.database.abandon(session)
            return refusal
    return None


async def _save(service: Service, session: Session, tested: AnyRow) -> Refuse | None:
    """Store the connection that a test tested, if Airflow's own model would take it."""
    conn_id = tested.connection_id
    connection = service.secrets.decrypted(tested, conn_id=conn_id)
    if connection is None:
        return _unsaved(conn_id, "no [core] fernet_key decrypts its password and extra")
    if connection.extra and not _is_object(connection.extra):
        return _unsaved(conn_id, "its extra must be a JSON object")
    if not CONN_ID.fullmatch(conn_id) and not await connection_tests.is_stored(session, conn_id=conn_id):
        return _unsaved(conn_id, "the id of a new connection has up to 250 letters, digits, and _#!()-.:/\\")
    values = service.secrets.stored(connection)
    await connection_tests.save_connection(session, conn_id=conn_id, team_name=tested.team_name, values=values)
    return None


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _unsaved(conn_id: str, why: str) -> Refuse:
    message = f"The result was not recorded, since connection {conn_id!r} cannot be stored: {why}"
    return Refuse(422, {"reason": "invalid_connection", "message": message})


def _refusal(test_id: UUID, state: str | None, message: str) -> Refuse:
    if state is None:
        return Refuse(404, {"reason": "not_found", "message": f"Connection test {test_id} not found"})
    return Refuse(409, {"reason": "conflict", "message": f"Connection test {test_id} {message}"})
