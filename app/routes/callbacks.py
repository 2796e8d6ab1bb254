"""Callbacks."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import Depends, Request, Response

from app.db import callbacks
from app.routes.operations import Operations, refusal
from app.server.auth import REFRESH_HEADER, own_callback_token
from app.tasks import service
from app.tasks.transitions import Refuse

router = Operations(dependencies=[Depends(own_callback_token)])


@router.patch(
    "/{callback_id}/run",
    status_code=204,
    responses={404: refusal("Callback not found"), 409: refusal("The callback token was already exchanged")},
)
async def run_callback(request: Request, response: Response, callback_id: UUID) -> Any:
    """Start a callback, once: its worker swaps the token that it was sent with for one that it works with."""
    app = service.of(request)
    async with app.database.autocommit() as session:
        if not await callbacks.start(session, callback_id=callback_id):
            return _refused(callback_id, await callbacks.state(session, callback_id=callback_id))
    response.headers[REFRESH_HEADER] = app.tokens.mint({"sub": str(callback_id), "scope": "execution"})
    return None


def _refused(callback_id: UUID, state: str | None) -> Refuse:
    if state is None:
        return Refuse(404, {"reason": "not_found", "message": f"Callback {callback_id} not found"})
    message = f"Callback {callback_id} is in state {state}; its token can only be exchanged once while QUEUED."
    return Refuse(409, {"reason": "invalid_state", "message": message, "previous_state": state})
