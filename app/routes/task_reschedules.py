"""Task reschedules."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import Depends, Request

from app.db import reschedules
from app.routes.operations import Operations
from app.schemas.values import UtcDateTime
from app.server.auth import own_execution_token
from app.tasks import service

router = Operations(responses={401: {"description": "Unauthorized"}, 404: {"description": "Task Instance not found"}})


@router.get(
    "/{task_instance_id}/start_date",
    response_model=UtcDateTime | None,
    dependencies=[Depends(own_execution_token)],
)
async def get_start_date(request: Request, task_instance_id: UUID) -> Any:
    """Get when a task was first rescheduled, or None."""
    app = service.of(request)
    async with app.database.autocommit() as session:
        return await reschedules.first(session, ti_id=task_instance_id, by_time=app.revision.tasks.reschedules_by_time)
