"""Connection tests."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import Depends, Request

from app.routes.operations import Operations
from app.schemas.connection_tests import ConnectionTestConnectionResponse, ConnectionTestResultBody
from app.server.auth import own_connection_test_token
from app.settings.connection import as_response
from app.tasks import connection_tests, service
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
    found = await connection_tests.fetch(service.of(request), test_id=connection_test_id)
    return found if isinstance(found, Refuse) else as_response(found)


@router.patch(
    "/{connection_test_id}",
    status_code=204,
    responses={**NOT_FOUND_DOC, 409: {"description": "Connection test already in a terminal state"}},
)
async def patch_connection_test(request: Request, connection_test_id: UUID, body: ConnectionTestResultBody) -> Any:
    """Update the result of a connection test."""
    return await connection_tests.finish(service.of(request), test_id=connection_test_id, result=body)
