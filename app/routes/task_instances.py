"""Task instances."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import Body, Depends, Query, Request, Response

from app.dags import serialized_dag
from app.db import assets, dag_runs, dags
from app.db.session import Session
from app.db.tables import AnyRow
from app.routes.operations import Operations, refusal
from app.routes.rendering import dag_run_body, raw_json, row_body
from app.schemas.base import TaskInstanceState
from app.schemas.task_instances import (
    DagRunNoteUpdatePayload,
    InactiveAssetsResponse,
    PreviousTIResponse,
    PrevSuccessfulDagRunResponse,
    TaskBreadcrumbsResponse,
    TaskStatesResponse,
    TIEnterRunningPayload,
    TIHeartbeatInfo,
    TIRunContext,
    TIServerTerminatedPayload,
    TISkippedDownstreamTasksStatePayload,
    TIStateUpdate,
)
from app.schemas.values import Integer, Label, ShownValues, UtcDateTime
from app.server import bodies
from app.server.auth import REFRESH_HEADER, WORKLOAD, TaskToken, execution_token, own_execution_token, own_run_token
from app.tasks import attempts, ended_processes, reporting, service, siblings
from app.tasks.clock import utcnow
from app.tasks.transitions import ARCHIVED, NOT_FOUND, Refuse, Same, may_retry

router = Operations()
own = Depends(own_execution_token)
anyone = Depends(execution_token)

NOT_FOUND_DOC: dict[int | str, dict[str, Any]] = {404: refusal("Task Instance not found")}
GROUP_DOC: dict[int | str, dict[str, Any]] = {
    404: refusal("Dag or task group not found"),
    409: refusal("Several task instances are meant"),
}
Filter = Annotated[list[str] | None, Query()]


@router.put(
    "/{task_instance_id}/heartbeat",
    status_code=204,
    dependencies=[own],
    responses={
        **NOT_FOUND_DOC,
        409: refusal("The TI attempting to heartbeat should be terminated for the given reason"),
        410: refusal("Task Instance not found in the TI table but exists in the Task Instance History table"),
        422: refusal("Invalid payload for the state transition"),
    },
)
async def ti_heartbeat(request: Request, task_instance_id: UUID, ti_payload: TIHeartbeatInfo) -> Any:
    """Update the heartbeat of a TaskInstance to mark it as alive & still running."""
    return await reporting.heartbeat(service.of(request), ti_id=task_instance_id, payload=ti_payload)


@router.patch(
    "/{task_instance_id}/run",
    response_model=TIRunContext,
    responses={
        **NOT_FOUND_DOC,
        409: refusal("The TI is already in the requested state"),
        422: refusal("Invalid payload for the state transition"),
        500: refusal("What the Dag says of the task's arguments is not valid"),
    },
)
async def ti_run(
    request: Request,
    response: Response,
    task_instance_id: UUID,
    ti_run_payload: Annotated[TIEnterRunningPayload, Body()],
    token: Annotated[TaskToken, Depends(own_run_token)],
) -> Any:
    """Run a TaskInstance that is queued."""
    app = service.of(request)
    is_told = service.api_date(request) >= attempts.SINCE
    started = await reporting.start_task(app, ti_id=task_instance_id, payload=ti_run_payload, with_arguments=is_told)
    if started is NOT_FOUND:
        return await attempts.not_found(request, ti_id=task_instance_id)
    if isinstance(started, Refuse):
        return started
    if token.scope == WORKLOAD:
        claims = {"sub": str(task_instance_id), "scope": "execution"}
        response.headers[REFRESH_HEADER] = app.tokens.mint(claims)
    return _run_context(started, app)


@router.patch(
    "/{task_instance_id}/state",
    status_code=204,
    dependencies=[own],
    responses={
        200: {"description": "The TI was already in the requested state"},
        404: {"description": "Task Instance not found"},
        409: {"description": "The TI is not in a valid state for this transition"},
        410: {"description": "The try was archived"},
        422: {"description": "Invalid payload for the state transition"},
    },
)
async def ti_update_state(
    request: Request, task_instance_id: UUID, ti_patch_payload: Annotated[TIStateUpdate, Body()]
) -> Any:
    """Update the state of a TaskInstance; some states need further information."""
    if isinstance(ti_patch_payload, TIServerTerminatedPayload):
        return await ended_processes.acknowledge(service.of(request), ti_id=task_instance_id, payload=ti_patch_payload)
    decision = await reporting.report_state(service.of(request), ti_id=task_instance_id, payload=ti_patch_payload)
    if decision is ARCHIVED and service.api_date(request) < attempts.SINCE:
        return NOT_FOUND
    if isinstance(decision, Refuse):
        return decision
    return Response(status_code=200) if isinstance(decision, Same) else None


@router.put(
    "/{task_instance_id}/rtif",
    status_code=201,
    dependencies=[own],
    operation_id="put_rtif",
    summary="Set Rendered Task Instance Fields",
    responses={
        **NOT_FOUND_DOC,
        410: refusal("Task Instance not found in the TI table but exists in the Task Instance History table"),
        422: refusal("Invalid payload for the setting rendered task instance fields"),
    },
)
async def ti_put_rtif(request: Request, task_instance_id: UUID, put_rtif_payload: Annotated[ShownValues, Body()]) -> Any:
    """Store a task instance's template fields as rendered by its worker."""
    app = service.of(request)
    if not put_rtif_payload:
        return Refuse(422, {"reason": "invalid_value", "message": "The rendered fields must not be empty"})
    is_large = bodies.seen(request.scope) is not None
    fields = await asyncio.to_thread(_shown, app, put_rtif_payload) if is_large else _shown(app, put_rtif_payload)
    async with app.database.autocommit() as session:  # the clean-up may fail alone: what is left goes with the next one
        row = await app.storage.rendered_fields.put(session, ti_id=task_instance_id, fields=fields)
        if row is None:
            return await _gone(request, session, task_instance_id)
        keep = app.settings.rendered_fields_runs
        await app.storage.rendered_fields.clean_up(session, dag_id=row.dag_id, task_id=row.task_id, keep=keep)
    return {"message": "Rendered task instance fields successfully set"}


@router.patch(
    "/{task_instance_id}/rendered-map-index",
    status_code=204,
    dependencies=[own],
    responses={**NOT_FOUND_DOC, 422: refusal("Invalid rendered_map_index value")},
)
async def ti_patch_rendered_map_index(
    request: Request, task_instance_id: UUID, rendered_map_index: Annotated[Label, Body()]
) -> Any:
    """Set the label of a mapped task instance while it runs."""
    if not rendered_map_index:
        return Refuse(422, "rendered_map_index cannot be empty")
    app = service.of(request)
    async with app.database.autocommit() as session:
        found = await app.storage.task_instances.set_label(
            session, ti_id=task_instance_id, label=rendered_map_index, now=utcnow()
        )
    if found:
        return None
    if service.api_date(request) < attempts.SINCE:
        return Refuse(404, "Task Instance not found")
    return await attempts.not_found(request, ti_id=task_instance_id)


@router.patch(
    "/{task_instance_id}/dag-run-note",
    status_code=204,
    dependencies=[own],
    responses={**NOT_FOUND_DOC, 422: refusal("Invalid payload for the DagRun note update")},
)
async def update_dag_run_note(request: Request, task_instance_id: UUID, body: DagRunNoteUpdatePayload) -> Any:
    """Write the note of a task instance's run, in nobody's name; no text takes it away, null leaves it."""
    app = service.of(request)
    async with app.database.autocommit() as session:
        row = await app.storage.task_instances.identity(session, ti_id=task_instance_id)
        if row is not None and body.note is not None:
            await dag_runs.set_note(session, dag_id=row.dag_id, run_id=row.run_id, note=body.note, now=utcnow())
    return await attempts.not_found(request, ti_id=task_instance_id) if row is None else None


@router.patch(
    "/{task_instance_id}/skip-downstream",
    status_code=204,
    dependencies=[own],
    responses={
        **NOT_FOUND_DOC,
        400: refusal("A task is named that cannot be"),
        409: refusal("A task is named of which several are meant"),
        422: refusal("Invalid payload for the state transition"),
    },
)
async def ti_skip_downstream(
    request: Request, task_instance_id: UUID, ti_patch_payload: TISkippedDownstreamTasksStatePayload
) -> Any:
    """Skip tasks downstream of this one that have not started."""
    app = service.of(request)
    bare = None if app.revision.tasks.bare_ids_skip_all else -1
    tasks = [task if isinstance(task, tuple) else (task, bare) for task in ti_patch_payload.tasks]
    return await siblings.skip_downstream(app, ti_id=task_instance_id, tasks=tasks)


@router.get(
    "/{task_instance_id}/previous-successful-dagrun",
    response_model=PrevSuccessfulDagRunResponse,
    dependencies=[own],
    responses={404: refusal("Task Instance or Dag Run not found")},
)
async def get_previous_successful_dagrun(request: Request, task_instance_id: UUID) -> Any:
    """Get the times of the last successful run before this task instance's own."""
    async with service.of(request).database.autocommit() as session:
        row = await dag_runs.previous_successful(session, ti_id=task_instance_id)
    names = ("data_interval_start", "data_interval_end", "start_date", "end_date")
    return {name: getattr(row, name, None) for name in names}


@router.get(
    "/{task_instance_id}/validate-inlets-and-outlets",
    response_model=InactiveAssetsResponse,
    dependencies=[own],
    responses=NOT_FOUND_DOC,
)
async def validate_inlets_and_outlets(request: Request, task_instance_id: UUID) -> Any:
    """Tell which of a task's inlets and outlets are inactive assets."""
    app = service.of(request)
    async with app.database.autocommit() as session:
        row = await app.storage.task_instances.identity(session, ti_id=task_instance_id)
        if row is None:
            return NOT_FOUND
        tasks = await dags.tasks_of_run(session, dag_id=row.dag_id, run_id=row.run_id)
        declared = serialized_dag.assets_of(tasks.get(row.task_id, {}))
        inactive = declared - await assets.active_keys(session, keys=declared) if declared else set()
    return {"inactive_assets": [{"name": name, "uri": uri, "type": "Asset"} for name, uri in sorted(inactive)]}


@router.get("/count", response_model=int, dependencies=[anyone], responses=GROUP_DOC)
async def get_task_instance_count(
    request: Request,
    dag_id: str,
    map_index: Annotated[Integer | None, Query()] = None,
    task_ids: Filter = None,
    task_group_id: Annotated[str | None, Query()] = None,
    logical_dates: Annotated[list[UtcDateTime] | None, Query()] = None,
    run_ids: Filter = None,
    states: Filter = None,
) -> Any:
    """Get the count of task instances matching the given criteria."""
    shared = {"of_dag": dag_id, "run_ids": run_ids, "logical_dates": logical_dates, "at_index": map_index}
    app = service.of(request)
    async with app.database.autocommit() as session:
        pairs = None
        if task_group_id:
            group = await _group_states(app, session, task_group_id, shared)
            if isinstance(group, Refuse):
                return group
            pairs = sorted({(row.task_id, row.map_index) for row in group}) or [(task_group_id, -1)]
        return await app.storage.queries.count(session, states=states, pairs=pairs, task_ids=task_ids, **shared)


@router.get("/states", response_model=TaskStatesResponse, dependencies=[anyone], responses=GROUP_DOC)
async def get_task_instance_states(
    request: Request,
    dag_id: str,
    map_index: Annotated[Integer | None, Query()] = None,
    task_ids: Filter = None,
    task_group_id: Annotated[str | None, Query()] = None,
    logical_dates: Annotated[list[UtcDateTime] | None, Query()] = None,
    run_ids: Filter = None,
) -> Any:
    """Get the states for Task Instances with the given criteria."""
    shared = {"of_dag": dag_id, "run_ids": run_ids, "logical_dates": logical_dates, "at_index": map_index}
    rows: list[AnyRow] = []
    app = service.of(request)
    async with app.database.autocommit() as session:
        if task_ids or not task_group_id:
            rows += await app.storage.queries.states(session, task_ids=task_ids, **shared)
        if task_group_id:
            group = await _group_states(app, session, task_group_id, shared)
            if isinstance(group, Refuse):
                return group
            rows += group
    by_run: dict[str, dict[str, str | None]] = {}
    for row in rows:
        name = row.task_id if row.map_index < 0 else f"{row.task_id}_{row.map_index}"
        by_run.setdefault(row.run_id, {})[name] = row.state
    return {"task_states": by_run}


@router.get("/breadcrumbs", response_model=TaskBreadcrumbsResponse, dependencies=[anyone])
async def get_task_instance_breadcrumbs(request: Request, dag_id: str, run_id: str) -> Any:
    """Get what is known of the ended task instances of a run."""
    app = service.of(request)
    async with app.database.autocommit() as session:
        rows = await app.storage.queries.breadcrumbs(session, dag_id=dag_id, run_id=run_id)
    return {"breadcrumbs": [_in_its_region(row_body(row)) for row in rows]}


@router.get(
    "/previous/{dag_id}/{task_id}",
    response_model=PreviousTIResponse | None,
    responses={409: refusal("Several task instances are meant")},
)
async def get_previous_task_instance(
    request: Request,
    dag_id: str,
    task_id: str,
    token: Annotated[TaskToken, Depends(execution_token)],
    logical_date: Annotated[UtcDateTime | None, Query()] = None,
    map_index: Annotated[Integer, Query()] = -1,
    state: Annotated[TaskInstanceState | None, Query()] = None,
) -> Any:
    """Get the newest task instance of a task before a logical date, or else before the asking run, and in a state."""
    app = service.of(request)
    async with app.database.autocommit() as session:
        row = await app.storage.queries.previous(
            session, dag_id=dag_id, task_id=task_id, map_index=map_index, before=logical_date, asker=token.id, state=state
        )
    return None if row is None else _in_its_region(row_body(row))


def _in_its_region(told: dict[str, Any]) -> dict[str, Any]:
    """Return what is told of a task instance without its region if it is in none."""
    if told.get("region_id") is None:
        return {name: value for name, value in told.items() if not name.startswith("region_")}
    return {**told, "region_id": str(told["region_id"])}


def _run_context(started: reporting.StartedTask, app: service.Service) -> dict[str, Any]:
    """Return what a worker is told when it starts a task instance."""
    row = started.row
    run = dag_run_body(row, events=started.events, team_name=started.team_name)
    run |= {"start_date": row.run_start_date, "end_date": row.run_end_date, "state": row.run_state}
    context: dict[str, Any] = {
        "dag_run": run,
        "task_reschedule_count": started.reschedules,
        "max_tries": row.max_tries,
        "variables": [],
        "connections": [],
        "xcom_keys_to_clear": started.xcom_keys,
        "should_retry": may_retry(row),
        "multi_team": app.settings.multi_team,
    }
    if started.first_reschedule is not None:
        context["first_task_reschedule_start_date"] = started.first_reschedule
    if started.loop is not None:
        context["loop"] = started.loop
    if started.arguments is not None:
        context["arg_bindings"] = started.arguments
    if row.next_method:
        context |= {"next_method": row.next_method, "next_kwargs": raw_json(row.next_kwargs)}
        if app.revision.tasks.resume_tells_start:
            context["start_date"] = row.start_date
    return context


async def _group_states(
    app: service.Service, session: Session, group_id: str, shared: dict[str, Any]
) -> Sequence[AnyRow] | Refuse:
    """Return the task instances of a task group, found in the newest version of the Dag."""
    dag_id = shared["of_dag"]
    root = await dags.root_task_group(session, dag_id=dag_id)
    if root is None:
        return Refuse(404, {"reason": "not_found", "message": f"The Dag with ID: `{dag_id}` was not found"})
    task_ids = serialized_dag.tasks_in_group(root, group_id)
    if task_ids is None:
        message = f"Task group {group_id} not found in DAG {dag_id}"
        return Refuse(404, {"reason": "not_found", "message": message})
    return await app.storage.queries.states(session, task_ids=task_ids, **shared) if task_ids else []


def _shown(app: service.Service, fields: Any) -> str:
    """Return rendered fields as they are stored: JSON text without what sounds secret."""
    return json.dumps(app.secrets.redact(fields))


async def _gone(request: Request, session: Session, ti_id: UUID) -> Refuse:
    """Tell an archived try from an id that never was, where this revision does."""
    app = service.of(request)
    if not app.revision.tasks.archived_rtif_is_gone:
        return Refuse(404, "Not Found")
    if not await app.storage.tries.is_archived(session, ti_id=ti_id):
        return NOT_FOUND
    return ARCHIVED if service.api_date(request) < attempts.SINCE else attempts.GONE
