"""Asset events."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Query, Request

from app.db import assets
from app.db.tables import AnyRow
from app.routes.operations import Operations
from app.routes.rendering import asset_body, raw_json
from app.schemas.assets import AssetEventsResponse
from app.schemas.values import UtcDateTime, within
from app.server.auth import execution_token
from app.tasks import service
from app.tasks.transitions import Refuse

router = Operations(
    responses={404: {"description": "Asset not found"}, 401: {"description": "Unauthorized"}},
    dependencies=[Depends(execution_token)],
)
After = Annotated[UtcDateTime | None, Query(description="The start of the time range")]
Before = Annotated[UtcDateTime | None, Query(description="The end of the time range")]
Ascending = Annotated[bool, Query(description="Whether to sort results in ascending order")]
Limit = Annotated[Annotated[int, within(0, 2**63 - 1)] | None, Query(description="The maximum number of results to return")]


@router.get("/by-asset", response_model=AssetEventsResponse)
async def get_asset_event_by_asset_name_uri(
    request: Request,
    name: Annotated[str | None, Query(description="The name of the Asset")],
    uri: Annotated[str | None, Query(description="The URI of the Asset")],
    after: After = None,
    before: Before = None,
    ascending: Ascending = True,
    limit: Limit = None,
) -> Any:
    """Get the events of an asset."""
    if not name and not uri:
        return Refuse(400, {"reason": "Missing parameter", "message": "name and uri cannot both be None"})
    return await _events(request, limit, name=name, uri=uri, after=after, before=before, ascending=ascending)


@router.get("/by-asset-alias", response_model=AssetEventsResponse)
async def get_asset_event_by_asset_alias(
    request: Request,
    name: Annotated[str, Query(description="The name of the Asset Alias")],
    after: After = None,
    before: Before = None,
    ascending: Ascending = True,
    limit: Limit = None,
) -> Any:
    """Get the events that came through an alias."""
    return await _events(request, limit, alias_name=name, after=after, before=before, ascending=ascending)


async def _events(request: Request, limit: int | None, **which: Any) -> Any:
    async with service.of(request).database.autocommit() as session:
        rows = await assets.events(session, limit=limit, **which)
    return {"asset_events": [_event_body(row) for row in rows]}


def _run_body(run: dict[str, Any]) -> dict[str, Any]:
    moments = ("logical_date", "start_date", "end_date", "data_interval_start", "data_interval_end")
    return run | {name: datetime.fromisoformat(run[name]) for name in moments if run[name] is not None}


def _event_body(row: AnyRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "timestamp": row.timestamp,
        "extra": raw_json(row.extra),
        "asset": asset_body(row, prefix="asset_"),
        "created_dagruns": [_run_body(run) for run in row.created or ()],
        "source_task_id": row.source_task_id,
        "source_dag_id": row.source_dag_id,
        "source_run_id": row.source_run_id,
        "source_map_index": row.source_map_index,
        "partition_key": row.partition_key,
    }
