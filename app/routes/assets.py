"""Assets."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query, Request

from app.db import assets
from app.db.tables import AnyRow
from app.routes.operations import Operations
from app.routes.rendering import asset_body
from app.schemas.assets import AssetResponse
from app.server.auth import execution_token
from app.tasks import service
from app.tasks.transitions import Refuse

router = Operations(
    responses={404: {"description": "Asset not found"}, 401: {"description": "Unauthorized"}},
    dependencies=[Depends(execution_token)],
)


@router.get("/by-name", response_model=AssetResponse)
async def get_asset_by_name(request: Request, name: Annotated[str, Query(description="The name of the Asset")]) -> Any:
    """Get an Airflow Asset by `name`."""
    async with service.of(request).database.autocommit() as session:
        row = await assets.active(session, column="name", value=name)
    return _answer(row, f"Asset with name {name} not found")


@router.get("/by-uri", response_model=AssetResponse)
async def get_asset_by_uri(request: Request, uri: Annotated[str, Query(description="The URI of the Asset")]) -> Any:
    """Get an Airflow Asset by `uri`."""
    async with service.of(request).database.autocommit() as session:
        row = await assets.active(session, column="uri", value=uri)
    return _answer(row, f"Asset with URI {uri} not found")


@router.get("/by-alias", response_model=list[AssetResponse])
async def get_assets_by_alias(
    request: Request, alias_name: Annotated[str, Query(description="The name of the AssetAlias")]
) -> Any:
    """Get all Airflow Assets resolved from an AssetAlias by `alias_name`."""
    async with service.of(request).database.autocommit() as session:
        return [asset_body(row) for row in await assets.of_alias(session, name=alias_name)]


def _answer(row: AnyRow | None, missing: str) -> Any:
    return Refuse(404, {"reason": "not_found", "message": missing}) if row is None else asset_body(row)
