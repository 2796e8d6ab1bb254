"""What all models share."""

from __future__ import annotations

import uuid
from enum import StrEnum
from typing import Annotated, Any

import pydantic
from pydantic import ConfigDict, WithJsonSchema


class BaseModel(pydantic.BaseModel):
    """A model that ignores fields it does not know."""

    model_config = ConfigDict(populate_by_name=True)


class StrictBaseModel(BaseModel):
    """A model that refuses fields it does not know."""

    model_config = ConfigDict(populate_by_name=True, extra="forbid")


# Left out, and not null, where a task instance is in no region.
RegionId = Annotated[uuid.UUID | None, WithJsonSchema({"type": "string", "format": "uuid"})]
RegionIndex = Annotated[int | None, WithJsonSchema({"type": "integer"})]


def without_newer(**fields: bool) -> Any:
    """Return what leaves out fields that the Task SDK of a later release sends always, though they say nothing here.

    Workers may be newer than the database: a report that is refused for such a field leaves its task ``running``.

    :param fields: by name, whether any value of it says nothing, or null alone.
    """

    def left_out(payload: Any) -> Any:
        if isinstance(payload, dict) and not fields.keys().isdisjoint(payload):
            return {k: v for k, v in payload.items() if k not in fields or not (fields[k] or v is None)}
        return payload

    return pydantic.model_validator(mode="before")(staticmethod(left_out))


def newer() -> Any:
    """Return what refuses a payload that an API date does not have, in one sentence rather than one for each field."""

    def refuse(_: Any) -> Any:
        raise ValueError("it came with a newer API date than that of this request")

    return pydantic.model_validator(mode="before")(staticmethod(refuse))


class TerminalTIState(StrEnum):
    """The states in which a task instance has ended."""

    SUCCESS = "success"
    FAILED = "failed"
    SKIPPED = "skipped"
    UPSTREAM_FAILED = "upstream_failed"
    REMOVED = "removed"


class IntermediateTIState(StrEnum):
    """The states in which a task instance neither runs nor has ended."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RESTARTING = "restarting"
    UP_FOR_RETRY = "up_for_retry"
    UP_FOR_RESCHEDULE = "up_for_reschedule"
    DEFERRED = "deferred"
    AWAITING_INPUT = "awaiting_input"


class TaskInstanceState(StrEnum):
    """All states of a task instance; one that was created and not yet scheduled has none."""

    REMOVED = "removed"
    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCESS = "success"
    RESTARTING = "restarting"
    FAILED = "failed"
    UP_FOR_RETRY = "up_for_retry"
    UP_FOR_RESCHEDULE = "up_for_reschedule"
    UPSTREAM_FAILED = "upstream_failed"
    SKIPPED = "skipped"
    DEFERRED = "deferred"
    AWAITING_INPUT = "awaiting_input"


class DagRunState(StrEnum):
    """All states of a Dag run."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"


class DagRunType(StrEnum):
    """What made a Dag run."""

    BACKFILL_JOB = "backfill"
    SCHEDULED = "scheduled"
    MANUAL = "manual"
    OPERATOR_TRIGGERED = "operator_triggered"
    ASSET_TRIGGERED = "asset_triggered"
    ASSET_MATERIALIZATION = "asset_materialization"
