"""Gates of loops: the success of one begins the next pass of its loop, in the same transaction; and what loops tell tasks.

A decision that cannot be is no success: the gate is tried again, or fails, with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from app.dags import loops, mapping, serialized_dag
from app.dags.loops import Loop
from app.db import dag_runs, dags
from app.db.session import Session
from app.db.tables import AnyRow
from app.db.xcoms import XComKey
from app.errors import UnknownInDag
from app.schemas.base import IntermediateTIState
from app.schemas.task_instances import (
    LoopDecisionPayload,
    TerminalStateNonSuccess,
    TIRetryStatePayload,
    TIStateUpdate,
    TISuccessStatePayload,
    TITerminalStatePayload,
)
from app.tasks import transitions, triggering
from app.tasks.carriers import Carriers
from app.tasks.service import Service
from app.tasks.transitions import Accept, Decision, Refuse

log = structlog.get_logger(__name__)

REASON_KEY = f"{loops.RESERVED_KEYS}decision_reason"


async def loop_of(session: Session, *, row: AnyRow) -> dict[str, Any] | None:
    """Return what a task that a loop repeats is told of it, or None if its version of the Dag has no such loop.

    :param row: the task instance, in a pass.
    """
    data = await dags.version(session, pk=row.dag_version_id)
    loop = None if data is None else loops.around(data["dag"]).get(row.task_id)
    if data is None or loop is None:
        return None
    return {
        "node_id": loop.node_id,
        "index": row.pass_number,
        "max_iterations": loop.max_iterations,
        "terminal_task_id": loop.terminal_task_id,
        "terminal_is_mapped": mapping.repeated(data["dag"])[loop.terminal_task_id].is_mapped,
    }


@dataclass(slots=True)
class Gate:
    """The gate of a loop whose end is reported.

    :param seen: its task instance, not locked yet.
    :param loop: None: its version of the Dag does not have it.
    :param data: that version, serialized.
    :ivar run: the run, once it is locked.
    """

    service: Service
    seen: AnyRow
    loop: Loop | None
    data: Mapping[str, Any]
    run: AnyRow | None = None

    @classmethod
    async def of(cls, session: Session, service: Service, row: AnyRow) -> Gate | Refuse | None:
        """Return a task instance as the gate of a loop; None: it is none."""
        if row.operator != loops.GATE or row.pass_number is None:
            return None
        data = await dags.version(session, pk=row.dag_version_id) or {}
        tasks = [task["__var"]["task_id"] for task in data["dag"]["tasks"]] if data else []
        if row.task_id not in tasks:
            log.warning("the gate of a loop is missing from its version of the Dag", ti_id=str(row.id))
            return cls(service, row, None, data)
        loop = loops.around(data["dag"]).get(row.task_id)
        if loop is not None and loop.gate_task_id != row.task_id:
            return Refuse(409, {"reason": "invalid_loop_gate"})
        return None if loop is None else cls(service, row, loop, data)

    async def lock_run(self, session: Session) -> None:
        """Lock the run, before the gate: one gate at a time goes on.

        :raises LockTimeout: when somebody holds it.
        """
        self.run = await dag_runs.lock(session, dag_id=self.seen.dag_id, run_id=self.seen.run_id)

    async def completed(
        self, session: Session, row: AnyRow, payload: TIStateUpdate, accepted: Accept, now: datetime
    ) -> Decision:
        """Do what the end of the gate does to its loop, and return what it does to the gate itself.

        :param row: the gate, locked to end its try.
        :param accepted: what the report does to any other task instance.
        """
        is_success = isinstance(payload, TISuccessStatePayload)
        if self.loop is None:
            why = "Loop gate is missing from its pinned Dag version"
            return _rejected(row, payload, why, now) if is_success else accepted
        following = await self.service.storage.regions.next_pass(session, gate=row)
        if following is None:
            return accepted  # it was decided before
        decision: LoopDecisionPayload | None = getattr(payload, "loop_decision", None)
        if is_success:
            why_not = self.loop.refuse(None if decision is None else decision.stop, number=row.pass_number)
            if why_not is not None:
                return _rejected(row, payload, f"Loop gate success rejected: {why_not}", now, may_retry=True)
        if is_success and decision is not None and not decision.stop:
            try:
                await self._begin(session, row, following, now)
            except UnknownInDag as error:
                return _rejected(row, payload, f"Loop gate success rejected: {error}", now)
        if decision is not None and decision.reason:
            await self._tell(session, row, decision.reason, now)
        return accepted

    async def _begin(self, session: Session, row: AnyRow, following: Any, now: datetime) -> None:
        """Create the task instances of the next pass.

        :raises UnknownInDag: nothing was written.
        """
        assert self.run is not None
        planned = serialized_dag.planned_tasks(self.data, None, pass_of=self.loop)
        known = json.loads(self.run.context_carrier)["__var"] if self.run.context_carrier else {}
        carriers = Carriers(self.service.traces, self.service.revision, None, about={}, known=known)
        of_run = {"dag_id": row.dag_id, "run_id": row.run_id, "version": row.dag_version_id}
        new = triggering.new_tasks(planned, **of_run, carriers=carriers, now=now)
        await self.service.storage.task_instances.create(session, new=new, within=following, now=now)
        if self.service.stats.are_on:
            triggering.count_tasks(self.service.stats, new, dag_id=row.dag_id, run_type=row.run_type)

    async def _tell(self, session: Session, row: AnyRow, reason: str, now: datetime) -> None:
        await self.service.storage.xcoms.put(
            session,
            key=XComKey(row.dag_id, row.run_id, row.task_id, REASON_KEY),
            map_index=row.map_index,
            value=json.dumps(reason).encode(),
            dag_result=False,
            mapped_length=None,
            asker=row.id,
            now=now,
        )


def _rejected(row: AnyRow, payload: TIStateUpdate, reason: str, now: datetime, *, may_retry: bool = False) -> Decision:
    """Return what a success that cannot be one does to its gate."""
    told: dict[str, Any] = {"retry_reason": reason}
    told |= {name: getattr(payload, name) for name in ("end_date", "rendered_map_index") if name in payload.model_fields_set}
    log.warning("the success of a loop's gate was rejected", ti_id=str(row.id), reason=reason)
    if may_retry and transitions.may_retry(row):
        return transitions.report(row, TIRetryStatePayload(state=IntermediateTIState.UP_FOR_RETRY, **told), now)
    return transitions.report(row, TITerminalStatePayload(state=TerminalStateNonSuccess.FAILED, **told), now)
