"""Dag runs, with the asset events that one consumed."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, JsonValue

from app.schemas.base import BaseModel, DagRunState, DagRunType, StrictBaseModel
from app.schemas.values import JsonbObject, Text, UtcDateTime, text


class AssetReferenceAssetEventDagRun(StrictBaseModel):
    """The asset of a consumed event."""

    name: str
    uri: str
    extra: dict[str, JsonValue]


class AssetAliasReferenceAssetEventDagRun(StrictBaseModel):
    """An alias through which a consumed event came."""

    name: str


class AssetEventDagRunReference(StrictBaseModel):
    """An asset event that a Dag run consumed."""

    asset: AssetReferenceAssetEventDagRun
    extra: dict[str, JsonValue]
    source_task_id: str | None
    source_dag_id: str | None
    source_run_id: str | None
    source_map_index: int | None
    source_aliases: list[AssetAliasReferenceAssetEventDagRun]
    timestamp: UtcDateTime
    partition_key: str | None = None


class DagRun(StrictBaseModel):
    """A Dag run, as far as a task needs it."""

    dag_id: str
    run_id: str
    logical_date: UtcDateTime | None
    data_interval_start: UtcDateTime | None
    data_interval_end: UtcDateTime | None
    run_after: UtcDateTime
    start_date: UtcDateTime | None
    end_date: UtcDateTime | None
    clear_number: int = 0
    run_type: DagRunType
    state: DagRunState
    conf: dict[str, Any] | None = None
    triggering_user_name: str | None = None
    consumed_asset_events: list[AssetEventDagRunReference]
    partition_key: str | None
    partition_date: UtcDateTime | None = None
    note: str | None = None
    team_name: str | None = None


class TriggerDAGRunPayload(StrictBaseModel):
    """What a triggered Dag run gets."""

    logical_date: UtcDateTime | None = None
    run_after: UtcDateTime | None = None
    conf: Annotated[JsonbObject, Field(default_factory=dict)]
    reset_dag_run: bool = False
    partition_key: Text | None = None
    note: Annotated[str, text(1000)] | None = None


class DagRunStateResponse(BaseModel):
    """The state of a Dag run."""

    state: DagRunState
