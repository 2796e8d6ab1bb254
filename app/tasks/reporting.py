"""What workers report.

``transitions`` decides; this module reads or locks, writes what was decided and commits. Nothing here waits for a lock: what
meets one raises ``LockTimeout``, and the request begins again (``docs/lock-order.md``).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import structlog

from app.db import dag_runs, hitl, reschedules, teams
from app.db.recording import Along
from app.db.session import Session
from app.db.tables import AnyRow
from app.errors import LockTimeout, MissingReference, RejectedByDatabase, RetryableDatabaseError, UniqueViolation
from app.schemas.task_instances import (
    TIAwaitingInputStatePayload,
    TIEnterRunningPayload,
    TIHeartbeatInfo,
    TIRetryStatePayload,
    TIStateUpdate,
    TISuccessStatePayload,
    TITerminalStatePayload,
)
from app.server import patience
from app.tasks import asset_registration, foreign_arguments, gates, siblings, transitions
from app.tasks.clock import utcnow
from app.tasks.service import Service
from app.tasks.transitions import ARCHIVED, NOT_FOUND, Accept, Decision, Refuse, Same

log = structlog.get_logger(__name__)

TRIES_END = (TISuccessStatePayload, TITerminalStatePayload, TIRetryStatePayload)


@dataclass(frozen=True, slots=True)
class StartedTask:
    """A task instance that may run, with what its worker is told.

    :param row: the task instance as it was when it was locked, with its run.
    :param reschedules: how often it was rescheduled.
    :param first_reschedule: when it was first.
    :param xcom_keys: what an earlier try left and this one shall clear.
    :param events: the asset events that its run consumed.
    :param arguments: what a task in another language is called with.
    :param loop: what it is told of the loop that repeats it.
    """

    row: AnyRow
    reschedules: int
    first_reschedule: datetime | None
    xcom_keys: list[str]
    events: Sequence[AnyRow]
    team_name: str | None
    arguments: list[dict[str, Any]] | None
    loop: dict[str, Any] | None


class Recorded(NamedTuple):
    """What became of a report.

    :param row: the task instance as it was; None: there was none.
    :param others_left: whether a failure that stops the others of its run may have left some.
    """

    decision: Decision
    row: AnyRow | None
    others_left: bool = True


async def start_task(
    service: Service, *, ti_id: uuid.UUID, payload: TIEnterRunningPayload, with_arguments: bool = False
) -> StartedTask | Refuse:
    """Let a worker process run a task instance; asked again by the same process, answer the same.

    :param with_arguments: whether a worker in another language is told its arguments.
    :raises RetryableDatabaseError: nothing was written.
    """
    now = utcnow()
    async with service.database.autocommit() as session:
        row = await service.storage.task_instances.seen(session, ti_id=ti_id)
        if row is None:
            return NOT_FOUND
        decision = transitions.start(row, payload, now, cleared_end_first=service.revision.tasks.cleared_end_first)
        if isinstance(decision, Refuse):
            return decision
        arguments = await foreign_arguments.of_task(session, row=row) if with_arguments else None
        if isinstance(arguments, Refuse):
            return arguments
        context = await _context(session, service, row, arguments)
        if isinstance(decision, Accept):
            await _record(session, service, row, decision, payload.hostname, now)
    if service.stats.are_on and service.revision.tasks.starts_tell_wait and isinstance(decision, Accept):
        _tell_wait(service, context, now)
    return context


def _tell_wait(service: Service, started: StartedTask, now: datetime) -> None:
    row = started.row
    if row.queued_dttm is not None:
        tags = {name: getattr(row, name) for name in ("dag_id", "run_type", "task_id", "queue")}
        service.stats.timing("task.queued_duration", now - row.queued_dttm, tags={**tags, "team_name": started.team_name})


async def _context(session: Session, service: Service, row: AnyRow, arguments: list[dict[str, Any]] | None) -> StartedTask:
    """Return what a starting task is told."""
    reschedules, first, xcom_keys, has_events = await service.storage.task_instances.context(session, row=row)
    events = await dag_runs.consumed_asset_events(session, run_pk=row.run_pk) if has_events else ()
    team_name = await teams.of_dag(session, dag_id=row.dag_id) if service.settings.multi_team else None
    if row.next_method:
        xcom_keys = []  # a task that resumes keeps what it pushed before it was deferred
    return StartedTask(
        row,
        reschedules=reschedules,
        first_reschedule=first,
        xcom_keys=xcom_keys,
        events=events,
        team_name=team_name,
        arguments=arguments,
        loop=None if row.pass_number is None else await gates.loop_of(session, row=row),
    )


async def _record(
    session: Session,
    service: Service,
    row: AnyRow,
    decision: Accept,
    hostname: str | None,
    now: datetime,
    along: Sequence[Along] = (),
) -> int:
    """Write a transition with its audit row, and what goes along with it, if the row is still what it was decided on.

    :param row: as it was seen, with its version.
    :returns: how many task instances that it should have changed too it left, since somebody holds them.
    :raises LockTimeout: when somebody holds or changed the row: it must be read and decided on anew.
    """
    left = await service.storage.task_instances.record(
        session,
        row=row,
        values=decision.values,
        event=decision.event,
        hostname=hostname,
        in_teams=service.settings.multi_team,
        now=now,
        along=along,
    )
    if left is None:
        raise LockTimeout("somebody changed the task instance after it was read")
    return left


async def heartbeat(service: Service, *, ti_id: uuid.UUID, payload: TIHeartbeatInfo) -> Refuse | None:
    """Record that a worker process is alive, in one statement; only a refusal asks further.

    :raises RetryableDatabaseError: nothing was written.
    """
    try:
        if not await service.heartbeats.record(ti_id=ti_id, payload=payload):
            raise LockTimeout("somebody holds or changed the task instance of a heartbeat", ti_id=ti_id)
    except (LockTimeout, RejectedByDatabase):  # no host that it rejects can have been recorded, so it runs elsewhere
        if refusal := await _heartbeat_refused(service, ti_id, payload):
            return refusal
        raise
    return None


async def _heartbeat_refused(service: Service, ti_id: uuid.UUID, payload: TIHeartbeatInfo) -> Refuse | None:
    """Say why a heartbeat was not recorded, if it is the task instance's own state."""
    async with service.database.autocommit(urgent=True) as session:
        if (row := await service.storage.task_instances.identity(session, ti_id=ti_id)) is not None:
            return transitions.refuse_heartbeat(row, payload)
        return ARCHIVED if await service.storage.tries.is_archived(session, ti_id=ti_id) else NOT_FOUND


async def report_state(service: Service, *, ti_id: uuid.UUID, payload: TIStateUpdate) -> Decision:
    """Record the state that a worker reports.

    :returns: what was done; a 2xx may be answered only for :class:`Accept` and :class:`Same`.
    :raises RetryableDatabaseError: nothing was written; a deadlock is never a reason to write ``failed``.
    :raises RejectedByDatabase: it does not take a value; nothing was written, and the task runs on.
    """
    try:
        decision, row, others_left = await _record_state_in_turn(service, ti_id, payload)
    except (RetryableDatabaseError, RejectedByDatabase):
        raise
    except Exception:  # a defect, whatever it is
        log.exception("the reported state could not be recorded", ti_id=str(ti_id), state=str(payload.state))
        return await _fail_unrecorded(service, ti_id, payload)
    if service.traces is not None and isinstance(payload, TRIES_END) and isinstance(decision, Accept):
        service.traces.task_ended(row, state=decision.event, now=utcnow())
    is_failure = payload.state == "failed" and not isinstance(decision, Refuse)
    if row is not None and row.fail_fast and is_failure and others_left:
        # On a repeated report too: the first may have ended in between. It comes back by itself, to answer for the report.
        await service.database.coming_back(siblings.stop_held, service=service, row=row)
    return decision


async def _record_state_in_turn(service: Service, ti_id: uuid.UUID, payload: TIStateUpdate) -> Recorded:
    """Record a state, a success after those that emit the same assets: they queue the same Dags.

    What meets a lock comes back while it is its turn; else all who wait would be before it.
    """
    outlets = payload.task_outlets if isinstance(payload, TISuccessStatePayload) else ()
    if not outlets:
        return await _record_state_once_more(service, ti_id, payload)
    async with service.turns.taken([(outlet.name or "", outlet.uri or "") for outlet in outlets], until=patience.until()):
        return await service.database.coming_back(_record_state_once_more, service=service, ti_id=ti_id, payload=payload)


async def _record_state_once_more(service: Service, ti_id: uuid.UUID, payload: TIStateUpdate) -> Recorded:
    """Record a state; again if somebody made or deleted, in the same moment, a row that goes with it."""
    try:
        return await _record_state(service, ti_id, payload)
    except (MissingReference, UniqueViolation):  # whoever was first has committed: now it is found there, or gone
        return await _record_state(service, ti_id, payload)


async def _record_state(service: Service, ti_id: uuid.UUID, payload: TIStateUpdate) -> Recorded:
    """Record a state: in one statement on the row as it was seen, if that is all; else the row is locked first."""
    now, traced = utcnow(), service.traces is not None
    gate: gates.Gate | None = None
    emits = isinstance(payload, TISuccessStatePayload) and payload.task_outlets
    if not isinstance(payload, TIAwaitingInputStatePayload) and not emits:
        async with service.database.autocommit() as session:
            row = await service.storage.task_instances.seen(session, ti_id=ti_id, traced=traced)
            if row is None:
                return Recorded(await _gone(session, service, ti_id, payload), None)
            decision = transitions.report(row, payload, now)
            if not isinstance(decision, Accept):
                return Recorded(decision, row)
            found = await gates.Gate.of(session, service, row)
            if isinstance(found, Refuse):
                return Recorded(found, row)
            gate = found
            if gate is None and (written := await _at_once(session, service, row, decision, now)) is not None:
                left = await _record(session, service, row, written[0], row.hostname, now, written[1])
                return Recorded(decision, row, others_left=left > 0)
    return await _record_locked(service, ti_id, payload, gate)


async def _record_locked(service: Service, ti_id: uuid.UUID, payload: TIStateUpdate, gate: gates.Gate | None) -> Recorded:
    """Record a state that takes several statements: in a transaction that locks the row first.

    :param gate: the gate of a loop that it is known to be.
    """
    now, traced = utcnow(), service.traces is not None
    async with service.database.transaction() as session:
        if gate is not None:
            await gate.lock_run(session)
        row = await service.storage.task_instances.lock(session, ti_id=ti_id, traced=traced)
        if row is None:
            return Recorded(await _gone(session, service, ti_id, payload), None)
        decision = transitions.report(row, payload, now)
        found = await gates.Gate.of(session, service, row) if gate is None and isinstance(decision, Accept) else None
        if isinstance(found, Refuse):
            return Recorded(found, row)
        if gate is not None and isinstance(decision, Accept):
            decision = await gate.completed(session, row, payload, decision, now)
        if found is None and isinstance(decision, Accept):
            refusal = await _apply(session, service, row, decision, now)
            if refusal is not None:
                await service.database.abandon(session)
                return Recorded(refusal, row)
    if found is not None:  # one that emits assets: its run is locked before it
        return await _record_locked(service, ti_id, payload, found)
    return Recorded(decision, row)


async def _gone(session: Session, service: Service, ti_id: uuid.UUID, payload: TIStateUpdate) -> Decision:
    """Return what a report hears of a task instance that is not there, or whose try ended: the retry that ended it, too."""
    if await service.storage.tries.is_archived(session, ti_id=ti_id):
        return Same() if isinstance(payload, TIRetryStatePayload) else ARCHIVED
    return NOT_FOUND


async def _at_once(
    session: Session, service: Service, row: AnyRow, decision: Accept, now: datetime
) -> tuple[Accept, Sequence[Along]] | None:
    """Return a transition and what goes along with it as they are one statement, or None when they take more than that."""
    values, along = decision.values, list[Along]()
    for effect in decision.effects:
        match effect:
            case transitions.FailFast() if not row.fail_fast:
                pass
            case transitions.CreateTrigger() | transitions.RecordReschedule() | transitions.FailFast():
                along.append(await _part(session, service, row, effect, now))
            case transitions.ArchiveTry():
                values, begun = service.storage.tries.next_begun(row=row, values=values, now=now)
                along.append(begun)
            case _:
                return None
    if decision.event == "success" and service.settings.clear_state_on_success and service.revision.tasks.state_stores:
        along.append(service.storage.task_state_store.cleared())
    return Accept(values, event=decision.event), along


async def _part(
    session: Session,
    service: Service,
    row: AnyRow,
    effect: transitions.CreateTrigger | transitions.RecordReschedule | transitions.FailFast,
    now: datetime,
) -> Along:
    if isinstance(effect, transitions.FailFast):  # at once: if the failure were seen first, they would be upstream_failed
        return (await siblings.Others.of(service, session, row)).stopped()
    if isinstance(effect, transitions.RecordReschedule):
        times = {name: getattr(effect, name) for name in ("start_date", "end_date", "reschedule_date")}
        return reschedules.recorded(ti_id=row.id, **times)
    team_name = await teams.of_dag(session, dag_id=row.dag_id) if service.settings.multi_team else None
    return service.storage.triggers.created(
        classpath=effect.classpath, kwargs=effect.kwargs, queue=effect.queue, team_name=team_name, now=now
    )


async def _apply(session: Session, service: Service, row: AnyRow, decision: Accept, now: datetime) -> Refuse | None:
    """Write an accepted transition in a transaction: its effects, and the row itself with its audit row."""
    values, event, along = decision.values, decision.event, list[Along]()
    for effect in decision.effects:
        match effect:
            case transitions.FailFast() if not row.fail_fast:
                pass
            case transitions.CreateTrigger() | transitions.RecordReschedule() | transitions.FailFast():
                along.append(await _part(session, service, row, effect, now))
            case transitions.ArchiveTry():
                values, begun = service.storage.tries.next_begun(row=row, values=values, now=now)
                along.append(begun)
            case transitions.ResumeIfAnswered():
                answer = await hitl.get(session, ti_id=row.id)
                if answer is not None and answer.responded_at is not None:
                    values = {k: v for k, v in values.items() if k != "trigger_timeout"}
                    values |= transitions.resume(effect, answer, now)
                    event = values["state"]
            case transitions.RegisterAssets():
                pass  # last of all, below: others want the rows that it takes
    if event == "success" and service.settings.clear_state_on_success and service.revision.tasks.state_stores:
        along.append(service.storage.task_state_store.cleared())
    written = Accept(values, event=event)
    await _record(session, service, row, written, row.hostname, now, along)
    for effect in decision.effects:
        if isinstance(effect, transitions.RegisterAssets):
            return await asset_registration.register(
                session,
                row=row,
                effect=effect,
                now=now,
                settings=service.settings,
                revision=service.revision,
                stats=service.stats,
            )
    return None


async def _fail_unrecorded(service: Service, ti_id: uuid.UUID, payload: TIStateUpdate) -> Refuse:
    """Fail a task instance whose reported state could not be recorded, in a session of its own.

    The first session is rolled back and closed by now: after an error its transaction can do nothing any more.

    :returns: a refusal that says what the database holds now; never the state that was asked for.
    :raises RetryableDatabaseError: nothing was written.
    """
    now = utcnow()
    async with service.database.fallback() as session:
        traced = service.traces is not None
        row = await service.storage.task_instances.lock(session, ti_id=ti_id, traced=traced)
        if row is None:
            return NOT_FOUND
        if (failure := transitions.fail(row, now)) is not None:
            await _apply(session, service, row, failure, now)
    if failure is None:
        return Refuse(
            409,
            {
                "reason": "invalid_state",
                "message": f"The state '{payload.state}' could not be recorded, and the task no longer runs",
                "previous_state": row.state,
            },
        )
    if service.traces is not None:
        service.traces.task_ended(row, state="failed", now=now)
    log.error("task instance set to failed: its reported state could not be recorded", ti_id=str(ti_id))
    if row.fail_fast:
        await service.database.coming_back(siblings.stop_held, service=service, row=row)
    return Refuse(
        409,
        {
            "reason": "state_not_recorded",
            "message": f"The state '{payload.state}' could not be recorded; the task instance was set to 'failed'",
            "previous_state": row.state,
            "current_state": "failed",
        },
    )
