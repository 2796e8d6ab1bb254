"""Task instances: what workers report, and what they are told."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, JsonValue, Tag, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from app.schemas.assets import AssetProfile
from app.schemas.base import (
    BaseModel,
    IntermediateTIState,
    StrictBaseModel,
    TaskInstanceState,
    TerminalTIState,
    without_newer,
)
from app.schemas.connections import ConnectionResponse
from app.schemas.dag_runs import DagRun
from app.schemas.values import (
    Integer,
    JsonbValues,
    JsonObjects,
    Label,
    Near,
    Pid,
    Seconds,
    Span,
    Tasks,
    Text,
    UtcDateTime,
    text,
)
from app.schemas.variables import VariableResponse


def _state(value: str) -> WithJsonSchema:
    """Document a fixed ``state`` with a default, while requests must still send it."""
    return WithJsonSchema({"type": "string", "enum": [value], "default": value})


class TIEnterRunningPayload(StrictBaseModel):
    """A worker starts a task instance."""

    state: Annotated[Literal[TaskInstanceState.RUNNING], _state("running")]
    hostname: Annotated[str, text(1000)]
    unixname: Annotated[str, text(1000)]
    pid: Integer
    start_date: UtcDateTime


class TerminalStateNonSuccess(StrEnum):
    """The ends that need no further information."""

    FAILED = "failed"
    SKIPPED = "skipped"
    REMOVED = "removed"
    UPSTREAM_FAILED = "upstream_failed"


class TITerminalStatePayload(StrictBaseModel):
    """A task instance ended otherwise than in success."""

    _newer = without_newer(loop_decision=False, retry_reason=True, hostname=True, pid=True)

    state: TerminalStateNonSuccess
    end_date: UtcDateTime
    rendered_map_index: Label | None = None


class TISuccessStatePayload(StrictBaseModel):
    """A task instance succeeded."""

    _newer = without_newer(loop_decision=False)

    state: Annotated[Literal[TerminalTIState.SUCCESS], _state("success")]
    end_date: UtcDateTime
    task_outlets: Annotated[list[AssetProfile], Field(default_factory=list)]
    outlet_events: Annotated[JsonObjects, Field(default_factory=list)]
    rendered_map_index: Label | None = None


class TIServerTerminatedPayload(BaseModel):
    """A worker of Task SDK 1.4 says that the process of a task instance that the server took from it is dead.

    No released document of ours has it, for no server of its time takes it.
    """

    state: Literal["server_terminated"]
    end_date: UtcDateTime | None = None
    hostname: str | None = None
    pid: int | None = None


class TITargetStatePayload(StrictBaseModel):
    """A state that a worker does not report; the contract has it, every server refuses it."""

    state: IntermediateTIState


class TIDeferredStatePayload(StrictBaseModel):
    """A task instance waits for a trigger."""

    state: Annotated[Literal[IntermediateTIState.DEFERRED], _state("deferred")]
    classpath: Annotated[str, text(1000)]
    trigger_kwargs: Annotated[dict[str, JsonValue] | str, Field(default_factory=dict)]
    trigger_timeout: Span | None = None
    queue: Annotated[str, text(256)] | None = None
    next_method: Annotated[str, text(1000)]
    next_kwargs: Annotated[JsonbValues, Field(default_factory=dict)]
    rendered_map_index: Label | None = None


class TIRescheduleStatePayload(StrictBaseModel):
    """A sensor asks to be run again later."""

    state: Annotated[Literal[IntermediateTIState.UP_FOR_RESCHEDULE], _state("up_for_reschedule")]
    reschedule_date: UtcDateTime
    end_date: Near


class TIAwaitingInputStatePayload(StrictBaseModel):
    """A task instance waits for a person's input."""

    state: Annotated[Literal[IntermediateTIState.AWAITING_INPUT], _state("awaiting_input")]
    timeout: Span | None = None
    next_method: Annotated[str, text(1000)]
    next_kwargs: Annotated[JsonbValues, Field(default_factory=dict)]
    rendered_map_index: Label | None = None


class TIRetryStatePayload(StrictBaseModel):
    """A task instance failed and has tries left."""

    state: Annotated[Literal[IntermediateTIState.UP_FOR_RETRY], _state("up_for_retry")]
    end_date: UtcDateTime
    rendered_map_index: Label | None = None
    retry_delay_seconds: Seconds | None = None
    retry_reason: Text | None = None


def _state_tag(payload: Any) -> str:
    """Choose the payload's model by its ``state``."""
    state = payload.get("state") if isinstance(payload, dict) else getattr(payload, "state", None)
    if state in ("server_terminated", "success", "deferred", "up_for_reschedule", "awaiting_input", "up_for_retry"):
        return str(state)
    return "_terminal_" if state in ("failed", "skipped", "removed", "upstream_failed") else "_other_"


TIStateUpdate = Annotated[
    Annotated[TITerminalStatePayload, Tag("_terminal_")]
    | Annotated[TISuccessStatePayload, Tag("success")]
    | Annotated[TITargetStatePayload, Tag("_other_")]
    | Annotated[TIDeferredStatePayload, Tag("deferred")]
    | Annotated[TIRescheduleStatePayload, Tag("up_for_reschedule")]
    | Annotated[TIAwaitingInputStatePayload, Tag("awaiting_input")]
    | Annotated[TIRetryStatePayload, Tag("up_for_retry")]
    | SkipJsonSchema[Annotated[TIServerTerminatedPayload, Tag("server_terminated")]],
    Discriminator(_state_tag),
]


class TISkippedDownstreamTasksStatePayload(StrictBaseModel):
    """Tasks to skip: ids, or pairs of id and map index."""

    tasks: Tasks


class TIHeartbeatInfo(StrictBaseModel):
    """A worker process says that its task instance is alive."""

    hostname: str
    pid: Pid


class TIRunContext(BaseModel):
    """What a worker needs to run a task instance."""

    dag_run: DagRun
    task_reschedule_count: int = 0
    max_tries: int
    variables: Annotated[list[VariableResponse], Field(default_factory=list)]
    connections: Annotated[list[ConnectionResponse], Field(default_factory=list)]
    next_method: str | None = None
    next_kwargs: dict[str, Any] | str | None = None
    xcom_keys_to_clear: Annotated[list[str], Field(default_factory=list)]
    should_retry: bool = False
    start_date: UtcDateTime | None = None


class PrevSuccessfulDagRunResponse(BaseModel):
    """The times of the previous successful run of a task instance's Dag."""

    data_interval_start: UtcDateTime | None = None
    data_interval_end: UtcDateTime | None = None
    start_date: UtcDateTime | None = None
    end_date: UtcDateTime | None = None


class PreviousTIResponse(BaseModel):
    """A task instance of an earlier run."""

    task_id: str
    dag_id: str
    run_id: str
    logical_date: UtcDateTime | None = None
    start_date: UtcDateTime | None = None
    end_date: UtcDateTime | None = None
    state: str | None = None
    try_number: int
    map_index: int | None = -1
    duration: float | None = None


class TaskStatesResponse(BaseModel):
    """States by run id and task id."""

    task_states: dict[str, Any]


class TaskBreadcrumbsResponse(BaseModel):
    """What is known of the ended task instances of a run."""

    breadcrumbs: Iterable[dict[str, Any]]


class InactiveAssetsResponse(BaseModel):
    """Those of a task's inlets and outlets that are inactive."""

    inactive_assets: Annotated[list[AssetProfile], Field(default_factory=list)]
