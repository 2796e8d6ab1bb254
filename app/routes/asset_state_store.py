"""Asset state store: by name for assets and references by name, by URI for references by URI."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import Depends, Query, Request

from app.db import assets, state_store
from app.routes.operations import Operations
from app.routes.rendering import raw_json
from app.schemas.state_store import KEY_LENGTH, AssetStateStorePutBody, AssetStateStoreResponse
from app.schemas.values import text
from app.server.auth import TaskToken, execution_token
from app.tasks import service
from app.tasks.clock import utcnow
from app.tasks.transitions import Refuse

router = Operations(
    responses={401: {"description": "Unauthorized"}, 404: {"description": "Not found"}},
    dependencies=[Depends(execution_token)],
)
Text = Annotated[str, Query(min_length=1)]
NewKey = Annotated[Text, text(KEY_LENGTH)]
Token = Annotated[TaskToken, Depends(execution_token)]


@router.get("/by-name/value", response_model=AssetStateStoreResponse)
async def get_asset_state_store_by_name(request: Request, name: Text, key: Text) -> Any:
    """Get an asset state store value by asset name."""
    return await _get(request, "name", name, key)


@router.put("/by-name/value", status_code=204)
async def set_asset_state_store_by_name(
    request: Request, name: Text, key: NewKey, body: AssetStateStorePutBody, token: Token
) -> Any:
    """Set an asset state store value by asset name."""
    return await _put(request, "name", name, key, body, token)


@router.delete("/by-name/value", status_code=204)
async def delete_asset_state_store_by_name(request: Request, name: Text, key: Text) -> Any:
    """Delete a single asset state store key by asset name."""
    return await _remove(request, "name", name, key)


@router.delete("/by-name/clear", status_code=204)
async def clear_asset_state_store_by_name(request: Request, name: Text) -> Any:
    """Delete all state store keys for an asset by asset name."""
    return await _remove(request, "name", name, None)


@router.get("/by-uri/value", response_model=AssetStateStoreResponse)
async def get_asset_state_store_by_uri(request: Request, uri: Text, key: Text) -> Any:
    """Get an asset state store value by asset URI."""
    return await _get(request, "uri", uri, key)


@router.put("/by-uri/value", status_code=204)
async def set_asset_state_store_by_uri(
    request: Request, uri: Text, key: NewKey, body: AssetStateStorePutBody, token: Token
) -> Any:
    """Set an asset state store value by asset URI."""
    return await _put(request, "uri", uri, key, body, token)


@router.delete("/by-uri/value", status_code=204)
async def delete_asset_state_store_by_uri(request: Request, uri: Text, key: Text) -> Any:
    """Delete a single asset state store key by asset URI."""
    return await _remove(request, "uri", uri, key)


@router.delete("/by-uri/clear", status_code=204)
async def clear_asset_state_store_by_uri(request: Request, uri: Text) -> Any:
    """Delete all state store keys for an asset by asset URI."""
    return await _remove(request, "uri", uri, None)


async def _get(request: Request, column: str, asset: str, key: str) -> Any:
    async with service.of(request).database.autocommit() as session:
        asset_pk = await assets.active_pk(session, column=column, value=asset)
        if asset_pk is None:
            return _no_asset(column, asset)
        value = await state_store.of_asset(session, asset_pk=asset_pk, key=key)
    if value is None:
        return Refuse(404, {"reason": "not_found", "message": f"Asset state store key {key!r} not found"})
    return {"value": raw_json(value)}


async def _put(request: Request, column: str, asset: str, key: str, body: AssetStateStorePutBody, token: TaskToken) -> Any:
    app, value = service.of(request), json.dumps(body.value, allow_nan=False)
    async with app.database.autocommit() as session:
        asset_pk = await assets.active_pk(session, column=column, value=asset)
        if asset_pk is None:
            return _no_asset(column, asset)
        store = app.storage.asset_state_store
        if not await store.put(session, asset_pk=asset_pk, key=key, value=value, ti_id=token.id, now=utcnow()):
            return Refuse(404, {"reason": "not_found", "message": f"Task instance {token.id!r} not found"})
    return None


async def _remove(request: Request, column: str, asset: str, key: str | None) -> Any:
    async with service.of(request).database.autocommit() as session:
        asset_pk = await assets.active_pk(session, column=column, value=asset)
        if asset_pk is None:
            return _no_asset(column, asset)
        await state_store.remove_for_asset(session, asset_pk=asset_pk, key=key)
    return None


def _no_asset(column: str, value: str) -> Refuse:
    return Refuse(404, {"reason": "not_found", "message": f"Asset with {column}={value!r} not found"})
