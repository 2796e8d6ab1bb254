"""Runs that tasks trigger: decided on the Dag's newest serialized version, written in one transaction of inserts."""

from __future__ import annotations

import getpass
import re
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.dags import partitions, serialized_dag, timetables
from app.dags.partitions import InvalidPartitionKey, UnknownMapper
from app.dags.serialized_dag import PlannedTask, UnknownWeightRule
from app.dags.timetables import UnknownTimetable
from app.db import dag_runs, dags
from app.db import deadlines as db_deadlines
from app.db.tables import AnyRow
from app.db.task_instances import uuid7
from app.releases import Revision
from app.schemas.base import DagRunType
from app.schemas.dag_runs import TriggerDAGRunPayload
from app.settings import Settings
from app.tasks import deadlines
from app.tasks.clock import utcnow
from app.tasks.deadlines import UnknownDeadline
from app.tasks.service import Service
from app.tasks.transitions import Refuse

MAX_KEY = 250  # characters, of dag_run.partition_key
# What Airflow itself generates; such an id is valid whatever [scheduler] allowed_run_id_pattern says.
GENERATED_RUN_ID = r"^(?:manual|scheduled|asset_triggered)__(?:\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\+00:00)$"


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to insert.

    :param values: columns of its row.
    :param tasks: columns of the rows of its task instances.
    """

    values: Mapping[str, Any]
    tasks: list[dict[str, Any]]


async def trigger(
    service: Service, *, dag_id: str, run_id: str, payload: TriggerDAGRunPayload, by: uuid.UUID
) -> Refuse | None:
    """Create a queued run of a Dag with all its task instances.

    :param by: the task instance that asks; the run inherits the name of the person who triggered its own.
    :raises RetryableDatabaseError: nothing was written.
    """
    now = utcnow()
    async with service.database.autocommit() as reading:
        dag = await dags.to_trigger(reading, dag_id=dag_id)
        if refusal := refuse_dag(dag, dag_id) or _refuse_type(dag, dag_id, service.revision):
            return refusal
        if await dag_runs.state(reading, dag_id=dag_id, run_id=run_id) is not None:
            return _exists(dag_id, run_id)
        inherits = service.revision.triggered_runs_inherit_user
        user_name = await dag_runs.triggering_user_name(reading, ti_id=by) if inherits else None
        version = await dags.newest_version(reading, dag_id=dag_id)
    if version is None:
        return Refuse(404, {"reason": "not_found", "message": f"Dag with dag_id: '{dag_id}' was never serialized"})
    run = plan(service.settings, service.revision, dag_id, run_id, payload, data=version[1], now=now)
    if isinstance(run, Refuse):
        return run
    assert dag is not None
    unversioned = version[1]["dag"].get("disable_bundle_versioning")
    values = {
        **run.values,
        "created_dag_version_id": version[0],
        "bundle_version": None if unversioned else dag.bundle_version,
        "triggering_user_name": user_name,
    }
    tasks = [{**task, "dag_version_id": version[0]} for task in run.tasks]
    promised: list[dict[str, Any]] = []
    if version[1]["dag"].get("deadline"):
        try:
            async with service.database.autocommit() as reading:
                promised = await deadlines.planned(service, reading, run=values, now=now)
        except UnknownDeadline as error:
            return _value_error(str(error))
    async with service.database.transaction() as session:
        run_pk = await dag_runs.create(session, values=values, note=payload.note, tasks=tasks, now=now)
        if run_pk is None:
            return _exists(dag_id, run_id)
        await db_deadlines.create(
            session, run_pk=run_pk, planned=promised, bundle_name=dag.bundle_name, now=now, revision=service.revision
        )
    return None


def plan(
    settings: Settings,
    revision: Revision,
    dag_id: str,
    run_id: str,
    payload: TriggerDAGRunPayload,
    *,
    data: Mapping[str, Any],
    now: datetime,
) -> NewRun | Refuse:
    """Decide what a triggered run is: pure.

    :param data: the serialized Dag.
    """
    dag, logical_date, run_after = data["dag"], payload.logical_date, payload.run_after or now
    if message := _invalid_run_id(settings, revision, run_id) or _too_early(data, logical_date):
        return _value_error(message)
    partition_date = None
    if payload.partition_key is not None and revision.partitions_have_dates:
        try:
            partition_date = partitions.resolved_date(dag["timetable"], payload.partition_key)
        except InvalidPartitionKey as error:
            return _invalid_partition_key(str(error))
        except UnknownMapper as error:
            return _value_error(str(error))
        if refusal := _refuse_partition_key(dag, dag_id, payload.partition_key):
            return refusal
    if message := serialized_dag.invalid_param(data, payload.conf):
        return _value_error(message)
    try:
        interval = timetables.manual_interval(dag["timetable"], run_after) if logical_date else (None, None)
        planned = serialized_dag.planned_tasks(data, logical_date)
    except (UnknownTimetable, UnknownWeightRule) as error:
        return _value_error(str(error))
    carrier = new_trace(revision)
    values = {
        "dag_id": dag_id,
        "run_id": run_id,
        "state": "queued",
        "run_type": revision.triggered_run_type,
        "triggered_by": "OPERATOR",
        "logical_date": logical_date,
        "data_interval_start": interval[0],
        "data_interval_end": interval[1],
        "run_after": run_after,
        "queued_at": now,
        "conf": payload.conf,
        "clear_number": 0,
        "partition_key": payload.partition_key,
        "partition_date": partition_date,
        "context_carrier": carrier,
        "span_status": "not_started",
    }
    return NewRun(values, [new_task(task, dag_id, run_id, carrier=carrier, now=now) for task in planned])


def new_task(task: PlannedTask, dag_id: str, run_id: str, *, carrier: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return the columns of a task instance that was never tried, but for its Dag version."""
    return {
        "id": uuid7(),
        "dag_id": dag_id,
        "run_id": run_id,
        "task_id": task.task_id,
        "map_index": task.map_index,
        "try_number": 0,
        "hostname": "",
        "unixname": getpass.getuser(),
        "updated_at": now,
        "context_carrier": carrier,
        "span_status": "not_started",
        **task.values,
    }


def new_trace(revision: Revision) -> dict[str, Any]:
    """Return a new trace's context, serialized as the scheduler reads it: the parent of the run's and its tasks' spans."""
    traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{revision.sampled_flag}"
    return {"__type": "dict", "__var": {"traceparent": traceparent}}


def refuse_dag(dag: AnyRow | None, dag_id: str) -> Refuse | None:
    """Refuse to make or to clear runs of a Dag that is gone or that cannot be imported."""
    if dag is None:
        return Refuse(404, {"reason": "not_found", "message": f"Dag with dag_id: '{dag_id}' not found"})
    if dag.has_import_errors:
        message = f"Dag with dag_id '{dag_id}' has import errors and cannot be triggered"
        return Refuse(400, {"reason": "import_errors", "message": message})
    return None


def _refuse_type(dag: AnyRow | None, dag_id: str, revision: Revision) -> Refuse | None:
    if dag is None or dag.allowed_run_types is None or revision.triggered_run_type in dag.allowed_run_types:
        return None
    message = f"Dag with dag_id '{dag_id}' does not allow {revision.triggered_run_type.replace('_', '-')} runs"
    return Refuse(400, {"reason": "denied_run_type", "message": message})


def _exists(dag_id: str, run_id: str) -> Refuse:
    message = f"A run already exists for Dag '{dag_id}' with run_id '{run_id}'"
    return Refuse(409, {"reason": "already_exists", "message": message})


def _value_error(message: str) -> Refuse:
    return Refuse(400, {"reason": "value_error", "message": message})


def _invalid_run_id(settings: Settings, revision: Revision, run_id: str) -> str | None:
    reserved = next((kind for kind in DagRunType if run_id.startswith(f"{kind}__")), DagRunType.MANUAL)
    if revision.triggered_run_type == DagRunType.MANUAL and reserved != DagRunType.MANUAL:
        return f"A manual DAG run cannot use ID {run_id!r} since it is reserved for {reserved} runs"
    if ".." in run_id and not settings.double_dots_in_run_ids:
        return f"The run_id '{run_id}' must not contain '..' to prevent path traversal"
    pattern = settings.run_id_pattern
    if re.match(GENERATED_RUN_ID, run_id) or (pattern and re.match(pattern, run_id)):
        return None
    return f"The run_id provided '{run_id}' does not match regex pattern '{pattern}' or '{GENERATED_RUN_ID}'"


def _too_early(data: Mapping[str, Any], logical_date: datetime | None) -> str | None:
    earliest = serialized_dag.earliest_logical_date(data)
    if logical_date is None or earliest is None or logical_date >= earliest:
        return None
    return (
        f"Logical date [{logical_date.isoformat()}] should be >= start_date [{earliest.isoformat()}] from Dag's default_args"
    )


def _refuse_partition_key(dag: Mapping[str, Any], dag_id: str, key: str) -> Refuse | None:
    if not timetables.is_partitioned(dag["timetable"]):
        message = f"Dag '{dag_id}' is not a partitioned Dag and does not accept a partition_key."
        return Refuse(400, {"reason": "not_partitioned", "message": message})
    if not key.strip():
        message = "partition_key must not be empty or whitespace-only."
    elif len(key) > MAX_KEY:
        message = f"partition_key must be at most {MAX_KEY} characters; got {len(key)}."
    else:
        return None
    return _invalid_partition_key(message)


def _invalid_partition_key(message: str) -> Refuse:
    return Refuse(400, {"reason": "invalid_partition_key", "message": message})
