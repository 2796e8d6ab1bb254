"""Variables."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Path, Query, Request

from app.db import teams, variables
from app.db.session import Database
from app.routes.operations import Operations
from app.schemas.values import text
from app.schemas.variables import VariableKeysResponse, VariablePostBody, VariableResponse
from app.server.auth import TaskToken, execution_token
from app.tasks import service, task_scope
from app.tasks.transitions import Refuse

router = Operations()
RESPONSES: dict[int | str, dict[str, Any]] = {
    401: {"description": "Unauthorized"},
    403: {"description": "Task does not have access to the variable"},
    404: {"description": "Variable not found"},
}
Key = Annotated[str, Path(min_length=1)]
NewKey = Annotated[Key, text(250)]


async def own_team(request: Request, token: Annotated[TaskToken, Depends(execution_token)]) -> str | None:
    """Return the team of the asking task, in multi-team mode.

    :raises RefusedRequest: 403, in scope ``own``, when there is no such task.
    """
    app = service.of(request)
    await task_scope.require_task_instance(request, ti_id=token.id)
    if not app.settings.multi_team:
        return None
    return await app.database.coming_back(_team, database=app.database, ti_id=token.id)


async def _team(*, database: Database, ti_id: UUID) -> str | None:
    async with database.autocommit() as session:
        return await teams.of_task_instance(session, ti_id=ti_id)


async def writing_team(request: Request, token: Annotated[TaskToken, Depends(execution_token)]) -> str | None:
    """Return the team of the asking task, if it may write variables.

    :raises RefusedRequest: 403, in scope ``own``.
    """
    task_scope.require_wide(request, ti_id=token.id)
    return await own_team(request, token)


Team = Annotated[str | None, Depends(own_team)]
WritingTeam = Annotated[str | None, Depends(writing_team)]


@router.get("/keys", response_model=VariableKeysResponse, responses={401: {"description": "Unauthorized"}})
async def get_variable_keys(
    request: Request,
    team_name: Team,
    prefix: Annotated[str | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> Any:
    """Get Airflow Variable keys, optionally filtered by prefix."""
    async with service.of(request).database.autocommit() as session:
        keys, total = await variables.keys(session, prefix=prefix, team_name=team_name, limit=limit, offset=offset)
    return {"keys": keys, "total_entries": total}


@router.get("/{variable_key:path}", response_model=VariableResponse, responses=RESPONSES)
async def get_variable(request: Request, variable_key: Key, team_name: Team) -> Any:
    """Get an Airflow Variable."""
    value = await service.of(request).secrets.variable(variable_key, team_name)
    if value is None:
        return Refuse(404, {"reason": "not_found", "message": f"Variable with key '{variable_key}' not found"})
    return {"key": variable_key, "value": value}


@router.put("/{variable_key:path}", status_code=201, responses=RESPONSES)
async def put_variable(request: Request, variable_key: NewKey, body: VariablePostBody, team_name: WritingTeam) -> Any:
    """Set an Airflow Variable; a value of null is stored as the text ``None``, as Airflow stores it."""
    app = service.of(request)
    value, is_encrypted = await app.secrets.encrypted(str(body.value))
    async with app.database.autocommit() as session:
        await variables.put(
            session,
            key=variable_key,
            value=value,
            is_encrypted=is_encrypted,
            description=body.description,
            team_name=team_name,
            keeps_team=app.revision.teams.keep_variables,
        )
    return {"message": "Variable successfully set"}


@router.delete("/{variable_key:path}", status_code=204, responses=RESPONSES)
async def delete_variable(request: Request, variable_key: Key, team_name: WritingTeam) -> Any:
    """Delete an Airflow Variable."""
    async with service.of(request).database.autocommit() as session:
        await variables.remove(session, key=variable_key, team_name=team_name)
    return None
