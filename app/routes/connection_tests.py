"""Connection tests."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import Depends, Request

from app.db import connection_tests
from app.routes.operations import Operations
from app.schemas.connection_tests import TERMINAL, ConnectionTestConnectionResponse, ConnectionTestResultBody
from app.server.auth import own_connection_test_token
from app.settings.connection import as_response
from app.tasks import service
from app.tasks.clock import utcnow
from app.tasks.transitions import Refuse

router = Operations(dependencies=[Depends(own_connection_test_token)])
NOT_FOUND_DOC: dict[int | str, dict[str, Any]] = {404: {"description": "Connection test not found"}}


@router.get(
    "/{connection_test_id}/connection",
    response_model=ConnectionTestConnectionResponse,
    responses={**NOT_FOUND_DOC, 409: {"description": "Connection test already in RUNNING or terminal state"}},
)
async def get_connection_test_connection(request: Request, connection_test_id: UUID) -> Any:
    """Get the connection to test, once: the test is running from then on."""
    app = service.of(request)
    async with app.database.autocommit() as session:
        row = await connection_tests.start(session, test_id=connection_test_id, now=utcnow())
        if row is None:
            state = await connection_tests.state(session, test_id=connection_test_id)
            message = f"is in state {state}; credentials can only be fetched once while PENDING or QUEUED."
            return _refusal(connection_test_id, state, message)
    return as_response(app.secrets.decrypted(row, conn_id=row.connection_id))


@router.patch(
    "/{connection_test_id}",
    status_code=204,
    responses={**NOT_FOUND_DOC, 409: {"description": "Connection test already in a terminal state"}},
)
async def patch_connection_test(request: Request, connection_test_id: UUID, body: ConnectionTestResultBody) -> Any:
    """Update the result of a connection test."""
    app = service.of(request)
    async with app.database.transaction() as session:
        tested = await connection_tests.finish(
            session,
            test_id=connection_test_id,
            state=body.state.value,
            result_message=body.result_message,
            now=utcnow(),
        )
        if tested is None:
            state = await connection_tests.state(session, test_id=connection_test_id)
            kind = "already in terminal state" if state in TERMINAL else "not in an active state"
            return _refusal(connection_test_id, state, f"is {kind}: {state}")
        if body.state == "success" and tested.commit_on_success:
            values = app.secrets.stored(tested)
            await connection_tests.save_connection(
                session, conn_id=tested.connection_id, team_name=tested.team_name, values=values
            )
    return None


def _refusal(test_id: UUID, state: str | None, message: str) -> Refuse:
    if state is None:
        return Refuse(404, {"reason": "not_found", "message": f"Connection test {test_id} not found"})
    return Refuse(409, {"reason": "conflict", "message": f"Connection test {test_id} {message}"})
