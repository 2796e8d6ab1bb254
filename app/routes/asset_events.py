"""Asset events."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, NamedTuple

from fastapi import Depends, Query, Request

from app.db import assets
from app.db.tables import AnyRow
from app.routes.operations import Operations, refusal
from app.routes.rendering import asset_body, raw_json
from app.schemas.assets import AssetEventsResponse
from app.schemas.values import Text, UtcDateTime, within
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
Extra = Annotated[
    list[Text] | None, Query(description="Filter by extra JSON key-value pairs. Format: key=value. Repeat for AND logic.")
]
Partition = Annotated[str | None, Query()]
PartitionPattern = Annotated[
    str | None, Query(description="Filter results by matching this regular expression against the field value.")
]
Limit = Annotated[Annotated[int, within(0, 2**63 - 1)] | None, Query(description="The maximum number of results to return")]


@router.get("/by-asset", response_model=AssetEventsResponse, responses={400: refusal("Neither name nor uri was supplied")})
async def get_asset_event_by_asset_name_uri(
    request: Request,
    name: Annotated[str | None, Query(description="The name of the Asset")],
    uri: Annotated[str | None, Query(description="The URI of the Asset")],
    after: After = None,
    before: Before = None,
    ascending: Ascending = True,
    limit: Limit = None,
    extra: Extra = None,
    partition_key: Partition = None,
    partition_key_regexp_pattern: PartitionPattern = None,
) -> Any:
    """Get the events of an asset."""
    partition = Partitions(partition_key, partition_key_regexp_pattern)
    if not name and not uri:
        return Refuse(400, {"reason": "Missing parameter", "message": "name and uri cannot both be None"})
    which = {"name": name, "uri": uri, "after": after, "before": before}
    return await _events(request, limit, extra, partition, ascending=ascending, **which)


@router.get("/by-asset-alias", response_model=AssetEventsResponse)
async def get_asset_event_by_asset_alias(
    request: Request,
    name: Annotated[str, Query(description="The name of the Asset Alias")],
    after: After = None,
    before: Before = None,
    ascending: Ascending = True,
    limit: Limit = None,
    extra: Extra = None,
    partition_key: Partition = None,
    partition_key_regexp_pattern: PartitionPattern = None,
) -> Any:
    """Get the events that came through an alias."""
    partition = Partitions(partition_key, partition_key_regexp_pattern)
    which = {"alias_name": name, "after": after, "before": before}
    return await _events(request, limit, extra, partition, ascending=ascending, **which)


class Partitions(NamedTuple):
    """The partition of the events that are asked for: its key, or what matches it."""

    key: str | None
    pattern: str | None


async def _events(request: Request, limit: int | None, extra: list[str] | None, partition: Partitions, **which: Any) -> Any:
    app = service.of(request)
    if partition.pattern is not None and (refused := _refuse_pattern(partition.pattern, app.settings.regexp_timeout)):
        return refused
    said: dict[str, str] = {}
    for item in extra or ():
        name, equals, value = item.partition("=")
        if not equals:
            message = f"Invalid extra parameter format: {item!r}. Expected 'key=value'."
            return Refuse(422, {"reason": "Invalid parameter", "message": message})
        said[name] = value
    async with app.database.transaction() if partition.pattern is not None else app.database.autocommit() as session:
        if partition.pattern is not None:
            await assets.bound_search(session, seconds=app.settings.regexp_timeout)
        rows = await assets.events(
            session, limit=limit, extra=said, partition_key=partition.key, partition_pattern=partition.pattern, **which
        )
    return {"asset_events": [_event_body(row) for row in rows]}


def _refuse_pattern(pattern: str, timeout: float) -> Refuse | None:
    """Refuse a regular expression that is none, or any where the operator has not set how long one may take."""
    try:
        re.compile(pattern)
    except re.error as error:
        return Refuse(400, f"Invalid regular expression: {error}")
    if timeout > 0:
        return None
    return Refuse(
        400,
        "Regexp query filters are disabled. Set [api] regexp_query_timeout to a positive number of seconds to enable them.",
    )


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
