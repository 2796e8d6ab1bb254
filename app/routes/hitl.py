"""Human in the loop."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import Depends, Request

from app.db import hitl
from app.db.tables import AnyRow
from app.routes.operations import Operations, refusal
from app.routes.rendering import any_json
from app.schemas.hitl import HITLDetailRequest, HITLDetailResponse, UpdateHITLDetailPayload
from app.server.auth import own_execution_token
from app.tasks import service
from app.tasks.clock import utcnow
from app.tasks.transitions import Refuse

router = Operations(dependencies=[Depends(own_execution_token)])
NOT_FOUND = Refuse(
    404,
    {
        "reason": "not_found",
        "message": "HITLDetail not found. This happens most likely due to clearing task instance before receiving response.",
    },
)


@router.post("/{task_instance_id}", status_code=201, response_model=HITLDetailRequest)
async def upsert_hitl_detail(request: Request, task_instance_id: UUID, payload: HITLDetailRequest) -> Any:
    """Ask a person; asked again, a response to the earlier try is forgotten."""
    asked = payload.model_dump(exclude={"ti_id", "assigned_users"})
    asked["assignees"] = [user.model_dump() for user in payload.assigned_users]
    async with service.of(request).database.autocommit() as session:
        row = await hitl.ask(session, ti_id=task_instance_id, request=asked, now=utcnow())
    return {
        "ti_id": task_instance_id,
        "options": row.options,
        "subject": row.subject,
        "body": row.body,
        "defaults": row.defaults,
        "multiple": row.multiple,
        "params": any_json(row.params),
        "assigned_users": row.assignees or [],
    }


@router.patch(
    "/{task_instance_id}",
    response_model=HITLDetailResponse,
    responses={404: refusal("No request of this task instance"), 409: refusal("It was answered before")},
)
async def update_hitl_detail(request: Request, task_instance_id: UUID, payload: UpdateHITLDetailPayload) -> Any:
    """Record the response to a task's request."""
    async with service.of(request).database.autocommit() as session:
        row = await hitl.respond(
            session,
            ti_id=task_instance_id,
            chosen_options=payload.chosen_options,
            params_input=payload.params_input,
            now=utcnow(),
        )
        if row is None:
            if await hitl.get(session, ti_id=task_instance_id) is None:
                return NOT_FOUND
            return Refuse(409, f"Human-in-the-loop detail for Task Instance with id {task_instance_id} already exists.")
    return _response(row)


@router.get(
    "/{task_instance_id}",
    response_model=HITLDetailResponse,
    responses={404: refusal("No request of this task instance")},
)
async def get_hitl_detail(request: Request, task_instance_id: UUID) -> Any:
    """Get the response to a task's request."""
    async with service.of(request).database.autocommit() as session:
        row = await hitl.get(session, ti_id=task_instance_id)
    return NOT_FOUND if row is None else _response(row)


def _response(row: AnyRow) -> dict[str, Any]:
    return {
        "response_received": row.responded_at is not None,
        "responded_by_user": row.responded_by,
        "responded_at": row.responded_at,
        "chosen_options": row.chosen_options or [],
        "params_input": any_json(row.params_input or {}),
    }
