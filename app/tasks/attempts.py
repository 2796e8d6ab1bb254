"""What a try asks after it was archived: since API date 2026-10-30 it changes nothing any more.

Whoever looks for the task instance by the token's id anyway says so itself, by :func:`not_found`; of all others
:func:`require_live` asks before a byte of the body is read. That is no lock: what came in may end after the try did.
"""

from __future__ import annotations

import uuid
from http import HTTPStatus

from starlette.requests import Request

from app.db import callbacks
from app.errors import RefusedRequest
from app.server.auth import TaskToken
from app.tasks import service
from app.tasks.transitions import NOT_FOUND, Refuse

SINCE = "2026-10-30"
GONE = Refuse(
    HTTPStatus.GONE,
    {
        "reason": "not_found",
        "message": "Task Instance not found in the working set; its attempt has been archived",
    },
)


async def require_live(request: Request) -> None:
    """Require that the try that asks, whose token was verified, is the last one of its task instance; or a callback.

    :raises RefusedRequest: 410 when it was archived, 404 when nothing has its id.
    """
    app, token = service.of(request), _token(request)
    async with app.database.autocommit() as session:
        if await app.storage.task_instances.is_live(session, ti_id=token.id):
            return
        if await app.storage.tries.is_archived(session, ti_id=token.id):
            raise RefusedRequest(GONE.status, GONE.detail)
        names_task = "task_instance_id" in request.path_params
        if names_task or not await callbacks.exists(session, callback_id=token.id):
            raise RefusedRequest(NOT_FOUND.status, NOT_FOUND.detail)


async def not_found(request: Request, *, ti_id: uuid.UUID) -> Refuse:
    """Return the refusal of a request whose task instance was not found, as its API date has it."""
    if service.api_date(request) < SINCE:
        return NOT_FOUND
    app = service.of(request)
    async with app.database.autocommit() as session:
        return GONE if await app.storage.tries.is_archived(session, ti_id=ti_id) else NOT_FOUND


def _token(request: Request) -> TaskToken:
    token: TaskToken = request.scope["token"]
    return token
