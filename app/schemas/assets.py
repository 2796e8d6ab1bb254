"""Assets."""

from __future__ import annotations

from datetime import datetime

from pydantic import JsonValue

from app.schemas.base import BaseModel, StrictBaseModel
from app.schemas.values import Text


class AssetProfile(StrictBaseModel):
    """What names an asset, an alias or a reference; ``type`` says which."""

    name: Text | None = None
    uri: Text | None = None
    type: str


class AssetResponse(BaseModel):
    """An asset, as far as a task needs it."""

    name: str
    uri: str
    group: str
    extra: dict[str, JsonValue] | None = None


class DagRunAssetReference(StrictBaseModel):
    """A Dag run that an asset event made."""

    run_id: str
    dag_id: str
    logical_date: datetime | None
    start_date: datetime | None
    end_date: datetime | None
    state: str
    data_interval_start: datetime | None
    data_interval_end: datetime | None
    partition_key: str | None


class AssetEventResponse(BaseModel):
    """An asset event, as far as a task needs it."""

    id: int
    timestamp: datetime
    extra: dict[str, JsonValue] | None = None
    asset: AssetResponse
    created_dagruns: list[DagRunAssetReference]
    source_task_id: str | None = None
    source_dag_id: str | None = None
    source_run_id: str | None = None
    source_map_index: int | None = None
    partition_key: str | None = None


class AssetEventsResponse(BaseModel):
    """Asset events."""

    asset_events: list[AssetEventResponse]
