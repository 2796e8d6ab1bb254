"""Task state store."""

from __future__ import annotations

import json
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Path, Request

from app.routes.operations import Operations
from app.routes.rendering import raw_json
from app.schemas.state_store import KEY_LENGTH, TaskStateStorePutBody, TaskStateStoreResponse
from app.schemas.values import text
from app.server.auth import own_execution_token
from app.tasks import service
from app.tasks.clock import utcnow
from app.tasks.transitions import Refuse

router = Operations(
    responses={
        401: {"description": "Unauthorized"},
        403: {"description": "Access denied"},
        404: {"description": "Not found"},
    },
    dependencies=[Depends(own_execution_token)],
)
Key = Annotated[str, Path(min_length=1)]
NewKey = Annotated[Key, text(KEY_LENGTH)]


@router.get("/{task_instance_id}/{key:path}", response_model=TaskStateStoreResponse)
async def get_task_state_store(request: Request, task_instance_id: UUID, key: Key) -> Any:
    """Get value for a task state store key."""
    app = service.of(request)
    async with app.database.autocommit() as session:
        row = await app.storage.task_state_store.get(session, ti_id=task_instance_id, key=key)
    if row is None:
        return _no_task(task_instance_id)
    if row.value is None:
        return Refuse(404, {"reason": "not_found", "message": f"Task state store key {key!r} not found"})
    return {"value": raw_json(row.value)}


@router.put("/{task_instance_id}/{key:path}", status_code=204)
async def set_task_state_store(request: Request, task_instance_id: UUID, key: NewKey, body: TaskStateStorePutBody) -> Any:
    """Set a task state store key, creating or updating the row."""
    value = json.dumps(body.value, allow_nan=False)
    app = service.of(request)
    async with app.database.autocommit() as session:
        found = await app.storage.task_state_store.put(
            session, ti_id=task_instance_id, key=key, value=value, expires_at=body.expires_at, now=utcnow()
        )
    return None if found else _no_task(task_instance_id)


@router.delete("/{task_instance_id}/{key:path}", status_code=204)
async def delete_task_state_store(request: Request, task_instance_id: UUID, key: Key) -> Any:
    """Delete a single task state store key."""
    app = service.of(request)
    async with app.database.autocommit() as session:
        found = await app.storage.task_state_store.remove(session, ti_id=task_instance_id, key=key)
    return None if found else _no_task(task_instance_id)


@router.delete("/{task_instance_id}", status_code=204)
async def clear_task_state_store(request: Request, task_instance_id: UUID) -> Any:
    """Delete all task state store keys for this task instance."""
    app = service.of(request)
    async with app.database.autocommit() as session:
        found = await app.storage.task_state_store.remove(session, ti_id=task_instance_id)
    return None if found else _no_task(task_instance_id)


def _no_task(ti_id: UUID) -> Refuse:
    return Refuse(404, {"reason": "not_found", "message": f"Task instance {ti_id} not found"})
