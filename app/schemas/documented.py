"""Models that the released OpenAPI documents have although no operation uses them: the Task SDK is generated from those."""

from __future__ import annotations

import uuid
from enum import StrEnum
from typing import Any

from app.schemas.base import BaseModel, RegionId, RegionIndex


class HTTPExceptionResponse(BaseModel):
    """The body of a refusal."""

    detail: str | dict[str, Any]


class TaskInstance(BaseModel):
    """A task instance, as executors hand it to workers."""

    id: uuid.UUID
    task_id: str
    dag_id: str
    run_id: str
    try_number: int
    dag_version_id: uuid.UUID
    map_index: int = -1
    region_id: RegionId = None
    region_index: RegionIndex = None
    hostname: str | None = None
    context_carrier: dict[str, Any] | None = None
    queue: str = "default"


class BundleInfo(BaseModel):
    """Where a Dag's files are."""

    name: str
    version: str | None = None
    version_data: dict[str, Any] | None = None


class DagAttributeTypes(StrEnum):
    """What a serialized Dag's attributes are."""

    OP = "operator"
    TASK_GROUP = "taskgroup"


class TriggerRule(StrEnum):
    """When a task may run, by its upstream tasks."""

    ALL_SUCCESS = "all_success"
    ALL_FAILED = "all_failed"
    ALL_DONE = "all_done"
    ALL_DONE_MIN_ONE_SUCCESS = "all_done_min_one_success"
    ALL_DONE_SETUP_SUCCESS = "all_done_setup_success"
    ONE_SUCCESS = "one_success"
    ONE_FAILED = "one_failed"
    ONE_DONE = "one_done"
    NONE_FAILED = "none_failed"
    NONE_SKIPPED = "none_skipped"
    ALWAYS = "always"
    NONE_FAILED_MIN_ONE_SUCCESS = "none_failed_min_one_success"
    ALL_SKIPPED = "all_skipped"


class WeightRule(StrEnum):
    """How a task's weight is computed."""

    DOWNSTREAM = "downstream"
    UPSTREAM = "upstream"
    ABSOLUTE = "absolute"
