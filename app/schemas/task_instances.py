"""Task instances: what workers report, and what they are told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, JsonValue, RootModel, Tag, TypeAdapter, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from app.schemas.assets import AssetProfile
from app.schemas.base import (
    BaseModel,
    IntermediateTIState,
    RegionId,
    RegionIndex,
    StrictBaseModel,
    TaskInstanceState,
    TerminalTIState,
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
    bytes_within,
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


class DagRunNoteUpdatePayload(StrictBaseModel):
    """What a task writes on its run; null leaves what is there, no text takes it away."""

    note: Annotated[str, Field(max_length=1000), text()] | None = None


class TerminalStateNonSuccess(StrEnum):
    """The ends that need no further information; the last one is told of a process, and is no state of a task instance."""

    FAILED = "failed"
    SKIPPED = "skipped"
    REMOVED = "removed"
    UPSTREAM_FAILED = "upstream_failed"
    SERVER_TERMINATED = "server_terminated"


class LoopDecisionPayload(StrictBaseModel):
    """Whether a loop ends, as its gate decided."""

    stop: bool
    reason: Annotated[Text, bytes_within(512)] | None = None


class TITerminalStatePayload(StrictBaseModel):
    """A task instance ended otherwise than in success."""

    state: TerminalStateNonSuccess
    end_date: UtcDateTime
    rendered_map_index: Label | None = None
    retry_reason: Text | None = None
    hostname: str | None = None
    pid: int | None = None
    loop_decision: LoopDecisionPayload | None = None


class TISuccessStatePayload(StrictBaseModel):
    """A task instance succeeded."""

    state: Annotated[Literal[TerminalTIState.SUCCESS], _state("success")]
    end_date: UtcDateTime
    task_outlets: Annotated[list[AssetProfile], Field(default_factory=list)]
    outlet_events: Annotated[JsonObjects, Field(default_factory=list)]
    rendered_map_index: Label | None = None
    loop_decision: LoopDecisionPayload | None = None


class TIServerTerminatedPayload(BaseModel):
    """A worker of Task SDK 1.4 says that the process of a task instance that the server took from it is dead.

    The documents tell it with the other ends. It is taken at every date, and with whatever such a worker adds to it, since
    one that hears 422 ends in an error of its own.
    """

    state: Literal[TerminalStateNonSuccess.SERVER_TERMINATED]
    end_date: UtcDateTime
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


class LoopContext(BaseModel):
    """The loop that a task instance is in, as the version of its Dag has it, and in which pass."""

    node_id: str
    index: Annotated[int, Field(ge=0)]
    max_iterations: Annotated[int, Field(gt=0)]
    terminal_task_id: str
    terminal_is_mapped: bool


class ArgValueSchema(RootModel[dict[str, JsonValue]]):
    """What an argument may be, as JSON schema."""


def _kind(value: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "enum": [value]})


class XComArgBinding(BaseModel):
    """An argument of a task in another language, which is what another task returned."""

    name: str
    value_schema: ArgValueSchema | None = None
    kind: Annotated[Literal["xcom"], _kind("xcom")]
    task_id: str


class LiteralArgBinding(BaseModel):
    """An argument of a task in another language, which its Dag tells."""

    name: str
    value_schema: ArgValueSchema | None = None
    kind: Annotated[Literal["literal"], _kind("literal")]
    value: JsonValue | None = None
    from_default: bool = False


class TaskArgBinding(RootModel[Annotated[XComArgBinding | LiteralArgBinding, Field(discriminator="kind")]]):
    """An argument of a task in another language."""


_ARGUMENTS = TypeAdapter(list[TaskArgBinding])


def arguments_of(task: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the arguments of a serialized task that runs in another language, if it has any.

    :raises ValidationError: when they are not what such a worker understands.
    """
    told = task.get("_arg_bindings") if task.get("is_stub") is True else None
    if not told:
        return None
    arguments: list[dict[str, Any]] = _ARGUMENTS.dump_python(_ARGUMENTS.validate_python(told), exclude_unset=True)
    return arguments


class TIRunContext(BaseModel):
    """What a worker needs to run a task instance."""

    dag_run: DagRun
    loop: LoopContext | None = None
    task_reschedule_count: int = 0
    first_task_reschedule_start_date: UtcDateTime | None = None
    max_tries: int
    variables: Annotated[list[VariableResponse], Field(default_factory=list)]
    connections: Annotated[list[ConnectionResponse], Field(default_factory=list)]
    next_method: str | None = None
    next_kwargs: dict[str, Any] | str | None = None
    xcom_keys_to_clear: Annotated[list[str], Field(default_factory=list)]
    should_retry: bool = False
    start_date: UtcDateTime | None = None
    arg_bindings: list[TaskArgBinding] | None = None
    multi_team: bool = False


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
    region_id: RegionId = None
    region_index: RegionIndex = None
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
