"""XComs."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import Field

from app.dags import loops
from app.db import teams
from app.db.session import Database, Session
from app.db.tables import AnyRow
from app.db.xcoms import Values, XComKey
from app.errors import RefusedRequest, invalid_value
from app.routes.operations import Operations, refusal
from app.routes.rendering import raw_json
from app.schemas.values import BigInteger, Integer, json_text, text, within
from app.schemas.xcoms import (
    GetXcomFilterParams,
    GetXComSliceFilterParams,
    XComResponse,
    XComSequenceIndexResponse,
    XComSequenceSliceResponse,
)
from app.server import bodies
from app.server.auth import TaskToken, execution_token
from app.tasks import service, task_scope, xcoms
from app.tasks.clock import utcnow
from app.tasks.transitions import Refuse
from app.tasks.xcoms import Question

SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}


async def accessible_key(
    request: Request,
    dag_id: str,
    run_id: str,
    task_id: str,
    key: Annotated[str, Path(min_length=1)],
    token: Annotated[TaskToken, Depends(execution_token)],
) -> XComKey:
    """Return the XCom key in the path, if the asking task may use it.

    In multi-team mode (since 3.3) a task reads XComs of its own team's and of global Dags, and writes its own team's only;
    in scope ``own``, which says more of what it writes, it reads those of its own Dag.

    :raises RefusedRequest: 403, for another team's or Dag's.
    """
    app = service.of(request)
    await task_scope.require_own_dag(request, ti_id=token.id, dag_id=dag_id)
    if app.settings.multi_team and app.revision.teams.own_xcoms:
        asking, owning = await app.database.coming_back(_teams, database=app.database, ti_id=token.id, dag_id=dag_id)
        if asking != owning and not (owning is None and request.method in SAFE_METHODS):
            message = "Task does not have access to this XCom in multi-team mode"
            raise RefusedRequest(403, {"reason": "access_denied", "message": message})
    return XComKey(dag_id, run_id, task_id, key)


async def _teams(*, database: Database, ti_id: UUID, dag_id: str) -> tuple[str | None, str | None]:
    async with database.autocommit() as session:
        return await teams.of_task_instance(session, ti_id=ti_id), await teams.of_dag(session, dag_id=dag_id)


async def countable_key(
    request: Request,
    dag_id: str,
    run_id: str,
    task_id: str,
    key: str,
    token: Annotated[TaskToken, Depends(execution_token)],
) -> XComKey:
    """Return the XCom key in the path of a HEAD request, whose length the contract does not bound; see above."""
    return await accessible_key(request, dag_id, run_id, task_id, key, token)


async def new_key(
    request: Request,
    dag_id: str,
    run_id: str,
    task_id: Annotated[str, text(250)],
    key: Annotated[str, Path(min_length=1), text(512)],
    token: Annotated[TaskToken, Depends(execution_token)],
) -> XComKey:
    """Return the XCom key in the path of a request that writes it, within its columns; see above."""
    return await accessible_key(request, dag_id, run_id, task_id, key, token)


router = Operations(
    responses={
        400: refusal("The request is not one for this XCom"),
        401: {"description": "Unauthorized"},
        409: refusal("Several task instances match the producer"),
        403: {"description": "Task does not have access to the XCom"},
        404: {"description": "XCom not found"},
    }
)
# The body is stored as it comes, so it is no parameter of the handler; this documents it.
BODY_DOC = {
    "requestBody": {
        "description": "A JSON-formatted value",
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/JsonValue"},
                "examples": {
                    "simple_value": {"summary": "Simple value", "value": '"value1"'},
                    "list_value": {"summary": "List value", "value": '["value1"]'},
                    "dict_value": {"summary": "Dictionary value", "value": '{"key2": "value2"}'},
                },
            }
        },
    }
}
MAPPED_LENGTH = "Number of mapped tasks this value expands into"
RETURNED = "return_value"  # the key of what a task returns
TELLS_ARCHIVED = "2026-10-30"  # the API date since which a try that ended is told so
Length = Annotated[int, Field(ge=0), within(0, 2**31 - 1)]
Key = Annotated[XComKey, Depends(accessible_key)]
Token = Annotated[TaskToken, Depends(execution_token)]
PATH = "/{dag_id}/{run_id}/{task_id}/{key:path}"


@router.get(PATH + "/item/{offset}", response_model=XComSequenceIndexResponse)
async def get_mapped_xcom_by_index(
    request: Request, key: Key, offset: BigInteger, token: Token, previous_iteration: Annotated[bool, Query()] = False
) -> Any:
    """Get a single XCom value from a mapped task by sequence index."""
    question = Question(key, token.id, is_previous=previous_iteration)

    async def ask(session: Session, values: Values) -> AnyRow | None:
        return await values.at(session, key=key, offset=offset, asker=token.id)

    row = await xcoms.read(service.of(request), question, ask)
    if row is None or isinstance(row, Refuse):
        return row or _not_found(key, f"offset={offset}")
    return raw_json(row.value)


@router.get(PATH + "/slice", response_model=XComSequenceSliceResponse)
async def get_mapped_xcom_by_slice(
    request: Request, key: Key, params: Annotated[GetXComSliceFilterParams, Query()], token: Token
) -> Any:
    """Get XCom values from a mapped task by sequence slice."""
    is_prior = params.include_prior_dates
    question = Question(key, token.id, is_prior=is_prior, is_previous=params.previous_iteration)
    bounds: dict[str, int | None] = {"start": params.start, "stop": params.stop, "step": params.step}

    async def ask(session: Session, values: Values) -> list[bytes | None]:
        return await values.sliced(session, key=key, asker=token.id, is_prior=is_prior, **bounds)

    found = await xcoms.read(service.of(request), question, ask)
    return found if isinstance(found, Refuse) else [raw_json(value) for value in found]


@router.head(
    PATH,
    responses={
        200: {
            "description": "Metadata about the number of matching XCom values",
            "headers": {"Content-Range": {"schema": {"pattern": r"^map_indexes \d+$"}}},
        }
    },
)
async def head_xcom(
    request: Request,
    key: Key,
    token: Token,
    map_index: Annotated[Integer | None, Query()] = None,
    previous_iteration: Annotated[bool, Query()] = False,
) -> Any:
    """Return the count of mapped XCom values in the ``Content-Range`` header."""
    if map_index is not None:
        message = "Cannot specify map_index in a HEAD request"
        return Refuse(400, {"reason": "invalid_request", "message": message})

    async def ask(session: Session, values: Values) -> int:
        return await values.count(session, key=key)

    count = await xcoms.read(service.of(request), Question(key, token.id, is_previous=previous_iteration), ask)
    if isinstance(count, Refuse):
        return count
    return Response(headers={"Content-Range": f"map_indexes {count}"}, media_type="application/json")


@router.get(PATH, response_model=XComResponse)
async def get_xcom(request: Request, key: Key, params: Annotated[GetXcomFilterParams, Query()], token: Token) -> Any:
    """Get a single XCom value."""
    offset, is_prior = params.offset, params.include_prior_dates
    question = Question(
        key,
        token.id,
        map_index=params.map_index if offset is None else None,
        is_prior=is_prior,
        is_previous=params.previous_iteration,
        tells_archived=service.api_date(request) >= TELLS_ARCHIVED,
    )

    async def ask(session: Session, values: Values) -> AnyRow | None:
        if offset is None:
            return await values.get(session, key=key, map_index=params.map_index, asker=token.id, is_prior=is_prior)
        return await values.at(session, key=key, offset=offset, asker=token.id, is_prior=is_prior, not_null=True)

    row = await xcoms.read(service.of(request), question, ask)
    if row is None or isinstance(row, Refuse):
        return row or _not_found(key, f"map_index={params.map_index}" if offset is None else f"offset={offset}")
    return {"key": key.key, "value": raw_json(row.value)}


@router.post(PATH, status_code=201, openapi_extra=BODY_DOC)
async def set_xcom(
    request: Request,
    key: Annotated[XComKey, Depends(new_key)],
    token: Token,
    map_index: Annotated[Integer, Query()] = -1,
    dag_result: Annotated[bool, Query(description="Whether this XCom is a dag result")] = False,
    mapped_length: Annotated[Length | None, Query(description=MAPPED_LENGTH)] = None,
) -> Any:
    """Set an XCom."""
    app = service.of(request)
    await task_scope.require_own_xcom(request, ti_id=token.id, key=key, map_index=map_index)
    value = await _json_text(request)
    if app.revision.xcoms.of_tries and key.key.startswith(loops.RESERVED_KEYS):
        return Refuse(400, "Reserved loop XCom key")
    if refusal := _refuse_length(mapped_length, key, app):
        return refusal
    pushed: dict[str, Any] = {"value": value, "dag_result": dag_result, "mapped_length": mapped_length}
    is_single = mapped_length is None  # one statement, which needs no transaction around it
    async with app.database.autocommit() if is_single else app.database.transaction() as session:
        refusal = await xcoms.push(session, app, key=key, map_index=map_index, asker=token.id, now=utcnow(), **pushed)
    return refusal or {"message": "XCom successfully set"}


def _refuse_length(length: int | None, key: XComKey, app: service.Service) -> Refuse | None:
    if length is None:
        return None
    if app.revision.xcoms.of_tries and key.key != RETURNED:
        message = f"mapped_length is only valid for the {RETURNED!r} key."
        return Refuse(400, {"reason": "invalid_mapped_length_key", "message": message})
    if length > app.settings.max_map_length:
        message = "pushed value is too large to map as a downstream's dependency"
        return Refuse(400, {"reason": "unmappable_return_value_length", "message": message})
    return None


@router.delete(PATH)
async def delete_xcom(request: Request, key: Key, token: Token, map_index: Annotated[Integer, Query()] = -1) -> Any:
    """Delete a single XCom value."""
    await task_scope.require_own_xcom(request, ti_id=token.id, key=key, map_index=map_index)
    app = service.of(request)
    async with app.database.autocommit() as session:
        refusal = await xcoms.remove(session, app, key=key, map_index=map_index, asker=token.id)
    return refusal or {"message": f"XCom with key: {key.key} successfully deleted."}


def _not_found(key: XComKey, which: str) -> Refuse:
    message = (
        f"XCom with key={key.key!r} {which} not found for task {key.task_id!r} in DAG run {key.run_id!r} of {key.dag_id!r}"
    )
    return Refuse(404, {"reason": "not_found", "message": message})


async def _json_text(request: Request) -> bytes:
    """Return the body as the JSON text to store: exactly what came, once it is known to be JSON.

    No body stands for null; no content type for JSON. A large body is decoded by PostgreSQL alone, which refuses what is no
    JSON too; only where its numbers need it, it is decoded here.

    :raises RequestValidationError: when it is not JSON, declared to be something else, or cannot be stored.
    """
    body = bodies.content(request.scope)
    if not body:
        return b"null"
    declared = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if not (declared == "application/json" or (declared.startswith("application/") and declared.endswith("+json"))):
        message = "The body must be JSON, with 'Content-Type: application/json'"
        raise RequestValidationError([{"type": "json_type", "loc": ("body",), "msg": message}])
    large = bodies.seen(request.scope)
    if large is None:
        return _checked(body)
    if not large.has_large_exponents:
        return body
    if large.values > bodies.DECODED_VALUES:
        message = f"must not hold numbers with exponents of three digits among more than {bodies.DECODED_VALUES} values"
        raise RefusedRequest(422, invalid_value(message, "body"))
    return await asyncio.to_thread(_checked, body)


def _checked(body: bytes) -> bytes:
    try:
        return json_text(body).encode()
    except json.JSONDecodeError as error:
        problem = {"type": "json_invalid", "loc": ("body", error.pos), "msg": "JSON decode error", "input": {}}
        raise RequestValidationError([{**problem, "ctx": {"error": error.msg}}]) from error
    except ValueError as error:
        problem = {"type": "json_invalid", "loc": ("body",), "msg": "JSON decode error", "input": {}}
        raise RequestValidationError([{**problem, "ctx": {"error": str(error)}}]) from error
