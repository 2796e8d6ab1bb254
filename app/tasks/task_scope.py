"""What a task's token opens beside its own task instance, where the operator narrows it: ``task_scope = own``.

Airflow lets every task read and write every XCom and variable, and read every connection (Airflow #60125). Here a task then
reads the XComs of its own Dag and writes those of its own task instance, reads the variables and connections of its team and
writes none. State, heartbeats, rendered fields, questions to people and its state store are its own in either scope.
"""

from __future__ import annotations

import uuid

import structlog
from starlette.requests import Request

from app.db.schema import Coordinates
from app.db.tables import AnyRow
from app.db.xcoms import XComKey
from app.errors import RefusedRequest
from app.tasks import service

audit = structlog.get_logger("audit")

OWN = "own"


async def require_own_dag(request: Request, *, ti_id: uuid.UUID, dag_id: str) -> None:
    """Require that a Dag is the asking task's own.

    :raises RefusedRequest: 403, in scope ``own``.
    """
    asking = await _asking(request, ti_id)
    if asking is not None and asking.dag_id != dag_id:
        raise _refused(request, ti_id, "A task reads the XComs of its own Dag only")


async def require_own_xcom(request: Request, *, ti_id: uuid.UUID, key: XComKey, map_index: int) -> None:
    """Require that an XCom is the asking task instance's own.

    :raises RefusedRequest: 403, in scope ``own``.
    """
    asking = await _asking(request, ti_id)
    if asking is None:
        return
    if Coordinates.of(asking) != key.of(map_index):
        raise _refused(request, ti_id, "A task writes the XComs of its own task instance only")


async def require_task_instance(request: Request, *, ti_id: uuid.UUID) -> None:
    """Require that the asking task instance exists.

    :raises RefusedRequest: 403, in scope ``own``.
    """
    await _asking(request, ti_id)


def require_wide(request: Request, *, ti_id: uuid.UUID) -> None:
    """Require that tasks may write what belongs to nobody.

    :raises RefusedRequest: 403, in scope ``own``.
    """
    if service.of(request).settings.task_scope == OWN:
        raise _refused(request, ti_id, "A task writes no variable")


async def _asking(request: Request, ti_id: uuid.UUID) -> AnyRow | None:
    """Return the asking task instance, in scope ``own``; in Airflow's nobody asks."""
    app = service.of(request)
    if app.settings.task_scope != OWN:
        return None
    async with app.database.autocommit() as session:
        row = await app.storage.task_instances.identity(session, ti_id=ti_id)
    if row is None:
        raise _refused(request, ti_id, "The token's task instance does not exist")
    return row


def _refused(request: Request, ti_id: uuid.UUID, message: str) -> RefusedRequest:
    """Write a line of the audit log; it names who asked for what, and holds no value."""
    asked = {"method": request.method, "path": request.scope["path"], "task_instance": str(ti_id)}
    audit.warning("refused by task_scope", audit=True, reason=message, **asked)
    return RefusedRequest(403, {"reason": "access_denied", "message": f"{message} (task_scope = {OWN})"})
