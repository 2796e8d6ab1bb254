"""Runs that tasks clear: every task instance of the run is tried anew, its last try kept in the history."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from app.dags import mapping, serialized_dag
from app.dags.mapping import Lengths
from app.dags.serialized_dag import UNMAPPED, PlannedTask, TaskToRepeat, UnknownWeightRule
from app.db import dag_runs, dags
from app.db.tables import AnyRow
from app.db.task_instances import NewTasks
from app.db.tries import ENDED
from app.releases import Revision
from app.settings import Settings
from app.tasks import deadlines, triggering
from app.tasks.carriers import Carriers
from app.tasks.clock import utcnow
from app.tasks.service import Service
from app.tasks.transitions import Refuse

if TYPE_CHECKING:  # what is not installed is not looked for
    from app.server.traces import Traces

FINISHED = ("success", "failed")  # the states in which a run is over
AHEAD = (None, "up_for_retry")  # the states of task instances whose next try was not scheduled yet


@dataclass(frozen=True, slots=True)
class Version:
    """The Dag version that the cleared task instances take over from.

    :param pk: its primary key.
    :param data: the serialized Dag.
    :param bundle_version: of the bundle that the run moves to; None when the run stays on its own.
    :param is_newest: whether the run moves to the Dag's newest version.
    """

    pk: uuid.UUID
    data: Mapping[str, Any]
    bundle_version: str | None
    is_newest: bool


@dataclass(frozen=True, slots=True)
class Clearing:
    """What clearing a run writes.

    :param run: columns of the run.
    :param tasks: columns of each task instance, by its id before.
    :param new_tasks: task instances that the version adds, and what stands for those that are expanded anew.
    :param lost: how many task instances are of tasks that it does not have.
    """

    run: Mapping[str, Any]
    tasks: list[tuple[uuid.UUID, dict[str, Any]]]
    new_tasks: list[NewTasks]
    lost: int


async def clear(service: Service, *, dag_id: str, run_id: str) -> Refuse | None:
    """Try every task instance of a run anew; those that run are stopped for it. A finished run is queued again.

    :raises RetryableDatabaseError: nothing was written.
    """
    async with service.database.autocommit() as reading:
        dag = await dags.to_clear(reading, dag_id=dag_id)
        if refusal := triggering.refuse_dag(dag, dag_id):
            return refusal
        assert dag is not None
        run = await dag_runs.to_clear(reading, dag_id=dag_id, run_id=run_id)
        if run is None:
            return _no_such_run(run_id)
        newest = dags.newest_of(dag)
        own = await dags.version_of_run(reading, dag_id=dag_id, run_id=run_id)
    may_move = service.revision.runs.clearing_may_move_versions
    lost = run.bundle_version is not None and run.created_dag_version_id is None and not may_move
    if newest is None or own is None or lost:
        return Refuse(404, f"The Dag with ID: `{dag_id}` was not found")
    version = Version(*own, None, is_newest=False)
    if may_move and (run.created_dag_version_id is None or reruns_on_newest(service.settings, newest[1])):
        unversioned = newest[1]["dag"].get("disable_bundle_versioning")
        version = Version(*newest, None if unversioned else dag.bundle_version, is_newest=True)
    lengths = await deadlines.lengths(service, run.intervals or {}, dag_id=dag_id, run_id=run_id)
    return await _clear(service, dag_id, run_id, version, lengths)


async def compile_ahead(service: Service) -> None:
    """Compile what every clearing executes: the first one, with its nine statements, would take longest of all requests."""
    session, run, storage = service.database.compiling(), {"dag_id": "", "run_id": ""}, service.storage
    await dags.to_clear(session, dag_id="")
    await dag_runs.to_clear(session, **run)
    await dags.version_of_run(session, **run)
    await dag_runs.lock(session, **run)
    await storage.siblings.lock_all(session, **run)
    await storage.tries.end_all(session, **run, now=utcnow())


def reruns_on_newest(settings: Settings, data: Mapping[str, Any]) -> bool:
    """Say whether cleared runs of a Dag move to its newest version: by its own wish, or by the configuration."""
    wish = data["dag"].get("rerun_with_latest_version")
    return settings.rerun_with_latest_version if wish is None else bool(wish)


async def _clear(
    service: Service, dag_id: str, run_id: str, version: Version, lengths: Mapping[uuid.UUID, timedelta]
) -> Refuse | None:
    now, storage = utcnow(), service.storage
    async with service.database.transaction() as session:
        run = await dag_runs.lock(session, dag_id=dag_id, run_id=run_id)
        if run is None:
            return _no_such_run(run_id)
        rows = await storage.siblings.lock_all(session, dag_id=dag_id, run_id=run_id)
        if not rows:
            return None
        over = await storage.regions.go_back(session, rows=rows, now=now)
        replaced = await storage.regions.expand_anew(session, rows=rows, now=now)
        expanded = {row.task_id for row in rows if row.id in replaced}
        rows = [row for row in rows if row.id not in over | replaced]
        expanded -= {row.task_id for row in rows}  # of these some run, and keep the others waiting
        ended = await storage.tries.end_all(session, dag_id=dag_id, run_id=run_id, now=now)
        returned: Lengths = mapping.NOT_YET
        if version.is_newest and mapping.depends_on_results(version.data["dag"]):
            returned = await storage.xcoms.mapped_lengths(session, dag_id=dag_id, run_id=run_id)
        plan_ = plan(
            run,
            rows,
            version,
            ended=ended,
            expanded=expanded,
            returned=returned,
            now=now,
            revision=service.revision,
            traces=service.traces,
        )
        await storage.tries.begin_all(session, changes=plan_.tasks)
        await dag_runs.write(session, run_pk=run.id, values=plan_.run, lengths=lengths)
        for new in plan_.new_tasks:
            await storage.task_instances.create(session, new=new, now=now)
    if service.stats.are_on:
        for new in plan_.new_tasks:
            triggering.count_tasks(service.stats, new, dag_id=dag_id, run_type=run.run_type)
        for _ in range(plan_.lost):
            service.stats.incr("task_removed_from_dag", tags={"dag_id": dag_id, "run_type": run.run_type})
    return None


def plan(
    run: AnyRow,
    rows: Sequence[AnyRow],
    version: Version,
    *,
    ended: set[uuid.UUID],
    expanded: set[str],
    returned: Lengths,
    now: datetime,
    revision: Revision,
    traces: Traces | None = None,
) -> Clearing:
    """Decide what clearing a run writes: pure.

    :param run: the run, locked.
    :param rows: its task instances, locked, but for those that are over for good.
    :param ended: ids of those whose try was ended just now.
    :param expanded: ids of mapped tasks that are expanded anew.
    :param returned: how much its tasks have returned to be mapped over.
    """
    about = {
        "airflow.dag_id": run.dag_id,
        "airflow.dag_run.run_id": run.run_id,
        "airflow.dag_run.run_type": run.run_type,
    }
    conf = None if run.conf is None else json.loads(run.conf)
    carriers = Carriers(traces, revision, conf, about=about)
    is_over, verifies = run.state in FINISHED, revision.runs.moving_verifies
    run_values = _of_run(run, version, is_over=is_over, verifies=verifies)
    run_values |= {"queued_at": now, "context_carrier": carriers.of_run, "updated_at": now}
    run_version = run_values.get("created_dag_version_id", run.created_dag_version_id)

    returned = mapping.known_lengths(version.data["dag"], returned)
    known = serialized_dag.tasks_to_repeat(version.data)
    is_verified = version.is_newest and (is_over or verifies)
    gone = set[uuid.UUID]()
    if is_verified:
        gone = _gone(version.data, rows, returned, keep_unknown=run.state == "running", keep_first=verifies)
    stopped = ("running", "restarting") if revision.tasks.cleared_end_first else ("running",)
    tasks = []
    for row in rows:
        values: dict[str, Any] = {"context_carrier": carriers.of_task(), "updated_at": now}
        has_end = row.state in ENDED or (row.end_date is not None and revision.storage.tries.keep_end_dates)
        if row.id in ended and not has_end:
            values |= {"end_date": now, "duration": _seconds(row.start_date, now)}
        if is_stopped := row.state in stopped:
            values["state"] = "restarting"
        else:
            is_ahead = row.state in AHEAD and revision.storage.tries.counts_ahead
            values |= _anew(row, known.get(row.task_id), tried=max(0, row.try_number - is_ahead))
        if revision.runs.clearing_may_move_versions:
            moves = version.is_newest and not is_stopped
            values["dag_version_id"] = version.pk if moves else row.dag_version_id or run_version
        if row.id in gone:
            values["state"] = "removed"
        tasks.append((row.id, values))
    lengths = mapping.NOT_YET if verifies else returned  # the scheduler expands the others
    present = {row.task_id for row in rows} | expanded
    new = _added(run, present, version, lengths, carriers=carriers, now=now) if is_verified else []
    if expanded:
        new.append(unexpanded(run.dag_id, run.run_id, (version.pk, version.data), expanded, now=now))
    lost = sum(row.task_id not in known for row in rows) if is_verified and run.state != "running" else 0
    return Clearing(run_values, tasks, new, lost)


def _of_run(run: AnyRow, version: Version, *, is_over: bool, verifies: bool) -> dict[str, Any]:
    """Return what becomes of the run itself: it begins anew if it is over, and may move to the newest version."""
    values: dict[str, Any] = {"clear_number": run.clear_number + 1}
    if is_over:
        values |= {"state": "queued", "start_date": None, "end_date": None, "last_scheduling_decision": None}
    if version.is_newest and (is_over or run.created_dag_version_id != version.pk):
        values["created_dag_version_id"] = version.pk
        if version.bundle_version is not None or verifies:
            values["bundle_version"] = version.bundle_version
    return values


def _anew(row: AnyRow, task: TaskToRepeat | None, *, tried: int) -> dict[str, Any]:
    """Return what makes a task instance wait for the scheduler again, with its retries before it.

    :param tried: how often it was tried so far.
    """
    waiting = {"state": None, "external_executor_id": None, "next_method": None, "next_kwargs": None}
    if task is None:
        return waiting | {"max_tries": max(row.max_tries, tried)}
    return waiting | dict(task.values) | {"max_tries": tried + task.retries}


def _seconds(start: datetime | None, end: datetime) -> float | None:
    return None if start is None else (end - start).total_seconds()


def _gone(
    data: Mapping[str, Any], rows: Sequence[AnyRow], returned: Lengths, *, keep_unknown: bool, keep_first: bool
) -> set[uuid.UUID]:
    """Return the ids of task instances that the newest version does not have.

    :param keep_unknown: whether those of tasks that it does not have go on.
    :param keep_first: whether a mapped task that is not expanded yet waits for it, if its length is known now.
    """
    tasks = mapping.repeated(data["dag"])
    expanded = {row.task_id for row in rows if row.map_index >= 0} if keep_first else {row.task_id for row in rows}

    def is_gone(row: AnyRow) -> bool:
        if (task := tasks.get(row.task_id)) is None:
            return not keep_unknown
        is_first = row.map_index < 0 and row.task_id not in expanded
        return not is_first and task.has_no(row.map_index, returned)

    return {row.id for row in rows if is_gone(row)}


def unexpanded(
    dag_id: str, run_id: str, version: tuple[uuid.UUID, Mapping[str, Any]], tasks: Collection[str], *, now: datetime
) -> NewTasks:
    """Return what stands for mapped tasks until the scheduler has expanded them.

    :param version: a Dag version's primary key and serialized Dag; without those of the tasks that it does not map.
    """
    pk, data = version
    repeated, own = mapping.repeated(data["dag"]), {"priority_weight": 1, "task_display_name": None}
    planned = [
        PlannedTask(task_id, UNMAPPED, True, None, False, {**own, **task.values, "max_tries": task.retries})
        for task_id, task in serialized_dag.tasks_to_repeat(data).items()
        if task_id in tasks and repeated[task_id].is_mapped
    ]
    return triggering.new_tasks(planned, dag_id=dag_id, run_id=run_id, version=pk, carriers=None, now=now)


def _added(
    run: AnyRow, present: Collection[str], version: Version, returned: Lengths, *, carriers: Carriers, now: datetime
) -> list[NewTasks]:
    """Return the task instances that only the newest version has.

    :param present: ids of the tasks that the run has.
    """
    logical_date = None if run.run_type == "backfill" else run.logical_date  # a backfill runs tasks of any date
    with suppress(UnknownWeightRule):  # the scheduler adds them then, once it looks at the run
        planned = serialized_dag.planned_tasks(version.data, logical_date, returned)
        added = (task for task in planned if task.task_id not in present)
        about = {"dag_id": run.dag_id, "run_id": run.run_id, "version": version.pk}
        return [triggering.new_tasks(added, **about, carriers=carriers, now=now)]
    return []


def _no_such_run(run_id: str) -> Refuse:
    return Refuse(404, {"reason": "not_found", "message": f"Dag run with run_id: '{run_id}' not found"})
