"""What a report does to a task instance: pure decisions, without I/O.

Each function takes the locked row, the payload and the time, and returns

* :class:`Accept`: the columns to set, the audit event and the effects that belong to the same transaction;
* :class:`Same`: the row already is as asked, so the answer is the first one's and nothing is written;
* :class:`Refuse`: the refusal that the contract has for it.

The rules are those of Airflow's own server (3.2.1 and 3.3.2), observed on equal databases; ``docs/state-machine.md``
draws them and names the differences that are kept on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from app.schemas.base import IntermediateTIState, TaskInstanceState, TerminalTIState
from app.schemas.task_instances import (
    TIAwaitingInputStatePayload,
    TIDeferredStatePayload,
    TIEnterRunningPayload,
    TIHeartbeatInfo,
    TIRescheduleStatePayload,
    TIRetryStatePayload,
    TIServerTerminatedPayload,
    TIStateUpdate,
    TISuccessStatePayload,
    TITargetStatePayload,
    TITerminalStatePayload,
)

RETRY_REASON_LENGTH = 500  # characters; task_instance.retry_reason is varchar(500), longer reasons are cut
EMPTY_JSON = (None, "", "null", "{}", "[]", '""')


class LockedTaskInstance(Protocol):
    """The columns of a locked task instance that decisions need."""

    state: str | None
    hostname: str | None
    unixname: str | None
    pid: int | None
    try_number: int
    max_tries: int
    start_date: datetime | None
    next_method: str | None
    next_kwargs: str | None


@dataclass(frozen=True, slots=True)
class Refuse:
    """The contract's refusal of a request.

    :param status: HTTP status, 4xx.
    :param detail: the ``detail`` of the body.
    """

    status: int
    detail: Mapping[str, Any] | list[dict[str, Any]] | str


@dataclass(frozen=True, slots=True)
class Same:
    """The row already is as asked."""


@dataclass(frozen=True, slots=True)
class ArchiveTry:
    """Copy the row into the history as a failed try, and give the task instance a new id.

    :param end_date: when the try ended; None where the server's own time counts (Airflow 3.2).
    """

    end_date: datetime


@dataclass(frozen=True, slots=True)
class CreateTrigger:
    """Insert the trigger that will wake the task instance, and point to it."""

    classpath: str
    kwargs: Mapping[str, Any] | str
    queue: str | None


@dataclass(frozen=True, slots=True)
class RecordReschedule:
    """Insert a row into the task's reschedules."""

    start_date: datetime
    end_date: datetime
    reschedule_date: datetime


@dataclass(frozen=True, slots=True)
class ResumeIfAnswered:
    """Resume instead of waiting when the person's response came first; see :func:`resume`."""

    next_kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RegisterAssets:
    """Record the asset events of a success and queue the Dags that wait for them."""

    outlets: tuple[Any, ...]
    events: tuple[Mapping[str, Any], ...]

    @property
    def alias_names(self) -> set[str]:
        """The aliases among the outlets; events through others are nobody's."""
        return {outlet.name for outlet in self.outlets if outlet.type == "AssetAlias" and outlet.name}


@dataclass(frozen=True, slots=True)
class FailFast:
    """Stop the run's other tasks, if its Dag asks for that."""


Effect = ArchiveTry | CreateTrigger | RecordReschedule | ResumeIfAnswered | RegisterAssets | FailFast


class Answer(Protocol):
    """A person's response to a human-in-the-loop request."""

    chosen_options: Sequence[str] | None
    params_input: Mapping[str, Any] | None
    responded_at: datetime | None
    responded_by: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Accept:
    """The transition is valid.

    :param values: columns of the task instance to set.
    :param event: the event of the audit row.
    :param effects: what else the same transaction writes, in order.
    """

    values: Mapping[str, Any]
    event: str
    effects: tuple[Effect, ...] = field(default=())


Decision = Accept | Same | Refuse

NOT_FOUND = Refuse(404, {"reason": "not_found", "message": "Task Instance not found"})
ARCHIVED = Refuse(
    410,
    {
        "reason": "not_found",
        "message": "Task Instance not found, it may have been moved to the Task Instance History table",
    },
)


def start(
    row: LockedTaskInstance, payload: TIEnterRunningPayload, now: datetime, *, cleared_end_first: bool = False
) -> Decision:
    """Decide whether the worker process of ``payload`` may run this task instance.

    :param now: the time of this first heartbeat.
    :param cleared_end_first: whether one that was cleared while it ran is still the try that is to end.
    """
    asked_before = (row.hostname, row.unixname, row.pid) == (payload.hostname, payload.unixname, payload.pid)
    if row.state == TaskInstanceState.RUNNING and asked_before:
        return Same()
    if row.state == TaskInstanceState.RESTARTING and cleared_end_first and not asked_before:
        return Refuse(409, {"reason": "running_elsewhere", "previous_state": row.state})
    may_restart = row.state == TaskInstanceState.RESTARTING and not cleared_end_first
    if row.state != TaskInstanceState.QUEUED and not may_restart:
        return _invalid_state(row, "TI was not in a state where it could be marked as running")
    values: dict[str, Any] = {
        "state": TaskInstanceState.RUNNING.value,
        "hostname": payload.hostname,
        "unixname": payload.unixname,
        "pid": payload.pid,
        "end_date": None,
        "last_heartbeat_at": now,
        "updated_at": now,
        "retry_delay_override": None,
        "retry_reason": None,
    }
    if row.next_kwargs in EMPTY_JSON:  # a task that resumes from a deferral keeps its first start
        values["start_date"] = payload.start_date
    return Accept(values, event=TaskInstanceState.RUNNING.value)


def may_retry(row: LockedTaskInstance) -> bool:
    """Say whether an error of this try leads to another one, seen from the row as it was before it ran."""
    if row.state == TaskInstanceState.RESTARTING:
        return True
    return row.max_tries != 0 and row.try_number <= row.max_tries


def refuse_heartbeat(row: LockedTaskInstance, payload: TIHeartbeatInfo) -> Refuse | None:
    """Say why this worker process must stop, or None when it is the one that runs the task instance."""
    if (row.hostname, row.pid) != (payload.hostname, payload.pid):
        return Refuse(
            409,
            {
                "reason": "running_elsewhere",
                "message": "TI is already running elsewhere",
                "current_hostname": row.hostname,
                "current_pid": row.pid,
            },
        )
    if row.state != TaskInstanceState.RUNNING:
        return Refuse(
            409,
            {
                "reason": "not_running",
                "message": "TI is no longer in the running state and task should terminate",
                "current_state": row.state,
            },
        )
    return None


def report(row: LockedTaskInstance, payload: TIStateUpdate, now: datetime) -> Decision:
    """Decide what a worker's report of a new state does.

    :param now: the time of the report, in the server's clock.
    """
    if payload.state == row.state:
        return Same()
    if row.state != TaskInstanceState.RUNNING:
        return _invalid_state(row, "TI was not in the running state so it cannot be updated")
    match payload:
        case TISuccessStatePayload():
            effects = (RegisterAssets(tuple(payload.task_outlets), tuple(payload.outlet_events)),)
            wanted = payload.task_outlets or payload.outlet_events
            return _end(row, payload, now, effects if wanted else ())
        case TITerminalStatePayload():
            return _end(row, payload, now, (FailFast(),) if payload.state.value == "failed" else ())
        case TIRetryStatePayload():
            return _retry(row, payload, now)
        case TIDeferredStatePayload():
            return _defer(payload, now)
        case TIRescheduleStatePayload():
            return _reschedule(row, payload, now)
        case TIAwaitingInputStatePayload():
            return _await_input(payload, now)
        case TITargetStatePayload() | TIServerTerminatedPayload():
            return Refuse(422, {"reason": "invalid_state", "message": f"A worker cannot report the state '{payload.state}'"})


def still_owned(row: LockedTaskInstance, payload: TIServerTerminatedPayload) -> Refuse | None:
    """Refuse to take a process for dead whose task instance is still its own, or that does not say which it was.

    Task SDK 1.4 tells of a process that it ended because the server took the task instance from it.
    """
    if payload.hostname is None or payload.pid is None:
        return Refuse(409, {"reason": "running_elsewhere", "message": "The report does not say whose process has ended"})
    alive = row.state in (TaskInstanceState.RUNNING, TaskInstanceState.RESTARTING)
    if alive and (row.hostname, row.pid) == (payload.hostname, payload.pid):
        return _invalid_state(row, "The task instance is still this process's")
    return None


def terminated(row: LockedTaskInstance, payload: TIServerTerminatedPayload, now: datetime) -> Decision:
    """Decide what it does that the process of a task instance is dead, which the server took from it.

    One that was cleared while it ran ends its try now.
    """
    if None in (payload.hostname, payload.pid) or (row.hostname, row.pid) != (payload.hostname, payload.pid):
        return Refuse(409, {"reason": "running_elsewhere"})
    if row.state == TaskInstanceState.RESTARTING:
        end_date = payload.end_date or now
        values = {"state": None, "updated_at": now, **_ended(row, end_date)}
        return Accept(values, event="", effects=(ArchiveTry(end_date),))
    return Same() if row.state in [state.value for state in TerminalTIState] else Refuse(409, {"reason": "invalid_state"})


def fail(row: LockedTaskInstance, now: datetime) -> Accept | None:
    """Fail a task instance whose report could not be recorded, or None when it does not run any more."""
    if row.state != TaskInstanceState.RUNNING:
        return None
    values = {"state": TaskInstanceState.FAILED.value, "updated_at": now, **_ended(row, now)}
    return Accept(values, event=TaskInstanceState.FAILED.value, effects=(FailFast(),))


def _end(
    row: LockedTaskInstance,
    payload: TISuccessStatePayload | TITerminalStatePayload | TIRetryStatePayload,
    now: datetime,
    effects: tuple[Effect, ...],
) -> Accept:
    values: dict[str, Any] = {
        "state": payload.state.value,
        "next_method": None,
        "next_kwargs": None,
        "updated_at": now,
        **_ended(row, payload.end_date),
    }
    if "rendered_map_index" in payload.model_fields_set:
        values["rendered_map_index"] = payload.rendered_map_index
    if isinstance(payload, TITerminalStatePayload) and payload.state.value == "failed" and payload.retry_reason:
        values["retry_reason"] = payload.retry_reason[:RETRY_REASON_LENGTH]
    if isinstance(payload, TITerminalStatePayload):  # whose process it was, if it says so
        values |= payload.model_dump(include={"hostname", "pid"}, exclude_unset=True)
    return Accept(values, event=payload.state.value, effects=effects)


def _retry(row: LockedTaskInstance, payload: TIRetryStatePayload, now: datetime) -> Accept:
    ended = _end(row, payload, now, (ArchiveTry(payload.end_date),))
    reason = payload.retry_reason[:RETRY_REASON_LENGTH] if payload.retry_reason else None
    policy = {"retry_delay_override": payload.retry_delay_seconds, "retry_reason": reason}
    return Accept({**ended.values, **policy}, event=ended.event, effects=ended.effects)


def _defer(payload: TIDeferredStatePayload, now: datetime) -> Accept:
    values = {
        "state": IntermediateTIState.DEFERRED.value,
        "next_method": payload.next_method,
        "next_kwargs": payload.next_kwargs,
        "trigger_timeout": _deadline(now, payload.trigger_timeout),
        "updated_at": now,
    }
    trigger = CreateTrigger(payload.classpath, payload.trigger_kwargs, payload.queue)
    return Accept(values, event=IntermediateTIState.DEFERRED.value, effects=(trigger,))


def _reschedule(row: LockedTaskInstance, payload: TIRescheduleStatePayload, now: datetime) -> Accept:
    values = {
        "state": IntermediateTIState.UP_FOR_RESCHEDULE.value,
        "next_method": None,
        "next_kwargs": None,
        "updated_at": now,
        **_ended(row, payload.end_date),
    }
    reschedule = RecordReschedule(now, payload.end_date, payload.reschedule_date)
    return Accept(values, event=IntermediateTIState.UP_FOR_RESCHEDULE.value, effects=(reschedule,))


def _await_input(payload: TIAwaitingInputStatePayload, now: datetime) -> Accept:
    values = {
        "state": IntermediateTIState.AWAITING_INPUT.value,
        "trigger_id": None,
        "next_method": payload.next_method,
        "next_kwargs": payload.next_kwargs,
        "trigger_timeout": _deadline(now, payload.timeout),
        "updated_at": now,
    }
    waiting = (ResumeIfAnswered(payload.next_kwargs),)
    return Accept(values, event=IntermediateTIState.AWAITING_INPUT.value, effects=waiting)


def resume(effect: ResumeIfAnswered, answer: Answer, now: datetime) -> dict[str, Any]:
    """Return the columns of a task instance that resumes with a person's response, as its operator expects that."""
    assert answer.responded_at is not None
    event = {
        "chosen_options": list(answer.chosen_options or ()),
        "params_input": dict(answer.params_input or {}),
        "responded_at": _serialized(answer.responded_at),
        "responded_by_user": answer.responded_by,
        "timedout": False,
    }
    return {
        "state": IntermediateTIState.SCHEDULED.value,
        "scheduled_dttm": now,
        "next_kwargs": {**effect.next_kwargs, "event": event},
    }


def _serialized(moment: datetime) -> dict[str, Any]:
    """Return a moment in UTC as the Task SDK's ``serde`` writes it (version 2 of its datetime serializer)."""
    zone = ["UTC", "pendulum.tz.timezone.Timezone", 1, True]
    tuple_of = {"__classname__": "builtins.tuple", "__version__": 1, "__data__": zone}
    data = {"timestamp": moment.timestamp(), "tz": tuple_of}
    return {"__classname__": "datetime.datetime", "__version__": 2, "__data__": data}


def _ended(row: LockedTaskInstance, end_date: datetime) -> dict[str, Any]:
    duration = (end_date - row.start_date).total_seconds() if row.start_date else None
    return {"end_date": end_date, "duration": duration}


def _deadline(now: datetime, timeout: timedelta | None) -> datetime | None:
    return None if timeout is None else now + timeout


def _invalid_state(row: LockedTaskInstance, message: str) -> Refuse:
    return Refuse(409, {"reason": "invalid_state", "message": message, "previous_state": row.state})
