"""Connections."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Request

from app.routes.operations import Operations
from app.routes.variables import Team
from app.schemas.connections import ConnectionResponse
from app.settings.connection import as_response
from app.tasks import service
from app.tasks.transitions import Refuse

router = Operations(responses={404: {"description": "Connection not found"}})


@router.get(
    "/{connection_id:path}",
    response_model=ConnectionResponse,
    responses={
        401: {"description": "Unauthorized"},
        403: {"description": "Task does not have access to the connection"},
    },
)
async def get_connection(request: Request, connection_id: Annotated[str, Path(min_length=1)], team_name: Team) -> Any:
    """Get an Airflow connection."""
    connection = await service.of(request).secrets.connection(connection_id, team_name)
    if connection is None:
        return Refuse(404, {"reason": "not_found", "message": f"Connection with ID {connection_id} not found"})
    return as_response(connection)
