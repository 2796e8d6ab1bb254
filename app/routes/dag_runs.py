"""Dag runs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query, Request

from app.db import dag_runs
from app.routes.operations import Operations
from app.routes.rendering import dag_run_body
from app.schemas.base import DagRunState
from app.schemas.dag_runs import DagRun, DagRunStateResponse, TriggerDAGRunPayload
from app.schemas.values import UtcDateTime
from app.server.auth import TaskToken, execution_token
from app.tasks import clearing, service, triggering
from app.tasks.transitions import Refuse

router = Operations(dependencies=[Depends(execution_token)])
NOT_FOUND_DOC: dict[int | str, dict[str, Any]] = {404: {"description": "Dag run not found"}}


@router.get("/count", response_model=int)
async def get_dr_count(
    request: Request,
    dag_id: str,
    logical_dates: Annotated[list[UtcDateTime] | None, Query()] = None,
    run_ids: Annotated[list[str] | None, Query()] = None,
    states: Annotated[list[str] | None, Query()] = None,
) -> Any:
    """Get the count of Dag runs matching the given criteria."""
    async with service.of(request).database.autocommit() as session:
        return await dag_runs.count(session, dag_id=dag_id, logical_dates=logical_dates, run_ids=run_ids, states=states)


@router.get("/previous", response_model=DagRun | None)
async def get_previous_dagrun(
    request: Request,
    dag_id: str,
    logical_date: UtcDateTime,
    state: Annotated[DagRunState | None, Query()] = None,
) -> Any:
    """Get the previous Dag run before the given logical date, optionally filtered by state."""
    async with service.of(request).database.autocommit() as session:
        row = await dag_runs.previous(session, dag_id=dag_id, before=logical_date, state=state)
    return None if row is None else dag_run_body(row)


@router.get("/{dag_id}/{run_id}", response_model=DagRun, responses=NOT_FOUND_DOC)
async def get_dag_run(request: Request, dag_id: str, run_id: str) -> Any:
    """Get detail of a Dag run."""
    async with service.of(request).database.autocommit() as session:
        row = await dag_runs.get(session, dag_id=dag_id, run_id=run_id)
    return _not_found(dag_id, run_id) if row is None else dag_run_body(row)


@router.post(
    "/{dag_id}/{run_id}",
    status_code=204,
    responses={
        400: {"description": "Dag has import errors or the run type is not allowed"},
        404: {"description": "Dag not found for the given dag_id"},
        409: {"description": "Dag run already exists for the given dag_id"},
        422: {"description": "Invalid payload"},
    },
)
async def trigger_dag_run(
    request: Request,
    dag_id: str,
    run_id: str,
    payload: TriggerDAGRunPayload,
    token: Annotated[TaskToken, Depends(execution_token)],
) -> Any:
    """Trigger a Dag run."""
    return await triggering.trigger(service.of(request), dag_id=dag_id, run_id=run_id, payload=payload, by=token.id)


@router.post(
    "/{dag_id}/{run_id}/clear",
    status_code=204,
    responses={
        400: {"description": "Dag has import errors and cannot be triggered"},
        404: {"description": "Dag not found for the given dag_id"},
        422: {"description": "Invalid payload"},
    },
)
async def clear_dag_run(request: Request, dag_id: str, run_id: str) -> Any:
    """Clear a Dag run."""
    return await clearing.clear(service.of(request), dag_id=dag_id, run_id=run_id)


@router.get("/{dag_id}/{run_id}/state", response_model=DagRunStateResponse, responses=NOT_FOUND_DOC)
async def get_dagrun_state(request: Request, dag_id: str, run_id: str) -> Any:
    """Get a Dag run State."""
    async with service.of(request).database.autocommit() as session:
        state = await dag_runs.state(session, dag_id=dag_id, run_id=run_id)
    return _not_found(dag_id, run_id) if state is None else {"state": state}


def _not_found(dag_id: str, run_id: str) -> Refuse:
    message = f"Dag run with dag_id '{dag_id}' and run_id '{run_id}' was not found"
    return Refuse(404, {"reason": "not_found", "message": message})
