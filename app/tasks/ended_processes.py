"""Processes of workers that ended because the server took their task instance from them."""

from __future__ import annotations

import uuid
from typing import Any

from app.dags import serialized_dag
from app.db import dag_runs, dags
from app.db.tables import AnyRow
from app.schemas.task_instances import TIServerTerminatedPayload
from app.tasks import clearing, transitions
from app.tasks.clock import utcnow
from app.tasks.service import Service
from app.tasks.transitions import NOT_FOUND, Accept, Refuse

UNKNOWN = Refuse(404, {"reason": "not_found"})


async def acknowledge(service: Service, *, ti_id: uuid.UUID, payload: TIServerTerminatedPayload) -> Refuse | None:
    """Take note of a process that ended because its task instance was taken from it.

    Where the try of a cleared task instance ends only then, it ends now and another begins; else nothing is left to record.

    :raises RetryableDatabaseError: nothing was written.
    """
    if service.revision.tasks.cleared_end_first:
        return await _end_cleared(service, ti_id, payload)
    async with service.database.autocommit() as session:
        row = await service.storage.task_instances.identity(session, ti_id=ti_id)
        if row is None:
            return None if await service.storage.tries.is_archived(session, ti_id=ti_id) else NOT_FOUND
    return transitions.still_owned(row, payload)


async def _end_cleared(service: Service, ti_id: uuid.UUID, payload: TIServerTerminatedPayload) -> Refuse | None:
    now, storage = utcnow(), service.storage
    async with service.database.autocommit() as session:
        seen = await storage.task_instances.seen(session, ti_id=ti_id)
        if seen is None:
            return None if await storage.tries.is_archived(session, ti_id=ti_id) else UNKNOWN
        version = await dags.version_of_run(session, dag_id=seen.dag_id, run_id=seen.run_id)
    async with service.database.transaction() as session:
        if storage.regions.may_be_over(seen):  # its run may be cleared only before or after this
            await dag_runs.lock(session, dag_id=seen.dag_id, run_id=seen.run_id)
        row = await storage.task_instances.lock(session, ti_id=ti_id)
        if row is None:
            return None  # somebody else has ended it meanwhile
        decision = transitions.terminated(row, payload, now)
        if isinstance(decision, Accept):
            if storage.regions.may_be_over(row) and await storage.regions.is_over(session, row=row):
                is_last = await storage.regions.end(session, row=row, values=decision.values)
                if is_last and version is not None:
                    new = clearing.unexpanded(row.dag_id, row.run_id, version, {row.task_id}, now=now)
                    await storage.task_instances.create(session, new=new, now=now)
            else:
                begun = _after_clearing(row, version)
                values, along = storage.tries.next_begun(row=row, values=decision.values, begun=begun, now=now)
                await storage.task_instances.record(
                    session, row=row, values=values, event=None, hostname=None, in_teams=False, now=now, along=[along]
                )
    return decision if isinstance(decision, Refuse) else None


def _after_clearing(row: AnyRow, version: tuple[uuid.UUID, dict[str, Any]] | None) -> dict[str, Any]:
    """Return in what the next try of a cleared task instance differs: it is of its run's version, all retries before it."""
    begun = {"max_tries": max(row.max_tries, row.try_number), "next_method": None, "next_kwargs": None}
    if version is not None:
        begun["dag_version_id"] = version[0]
        if (task := serialized_dag.tasks_to_repeat(version[1]).get(row.task_id)) is not None:
            begun["max_tries"] = row.try_number + task.retries
    return begun
