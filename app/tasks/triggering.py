"""Runs that tasks trigger: decided on the Dag's newest serialized version, written in one statement or transaction."""

from __future__ import annotations

import getpass
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from typing import Any

from app.dags import partitions, serialized_dag, timetables
from app.dags.base_serialization import place_of_reserved
from app.dags.partitions import LONGEST_KEY, InvalidPartitionKey
from app.dags.serialized_dag import PlannedTask
from app.db import dag_runs, dags
from app.db import deadlines as db_deadlines
from app.db.tables import AnyRow
from app.db.task_instances import NewTasks
from app.db.uuids import uuids7
from app.errors import UnknownInDag, invalid_value
from app.releases import Revision
from app.schemas.base import DagRunType
from app.schemas.dag_runs import TriggerDAGRunPayload
from app.server.stats import Stats
from app.settings import Settings
from app.tasks import deadlines, threads
from app.tasks.carriers import Carriers
from app.tasks.clock import utcnow
from app.tasks.service import Service
from app.tasks.transitions import Refuse

LONGEST_RUN_ID = 250  # characters, of dag_run.run_id
# What Airflow itself generates; such an id is valid whatever [scheduler] allowed_run_id_pattern says.
GENERATED_RUN_ID = r"^(?:manual|scheduled|asset_triggered)__(?:\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\+00:00)$"


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to insert.

    :param values: columns of its row.
    :param tasks: its task instances.
    """

    values: Mapping[str, Any]
    tasks: NewTasks


async def trigger(
    service: Service, *, dag_id: str, run_id: str, payload: TriggerDAGRunPayload, by: uuid.UUID
) -> Refuse | None:
    """Create a queued run of a Dag with all its task instances.

    :param by: the task instance that asks; the run inherits the name of the person who triggered its own.
    :raises RetryableDatabaseError: nothing was written.
    """
    now = utcnow()
    if service.revision.runs.conf_is_plain and (where := place_of_reserved(payload.conf)) is not None:
        return Refuse(422, invalid_value("must not hold keys that are reserved for serialization", "body", "conf", *where))
    async with service.database.autocommit() as reading:
        dag = await dags.to_trigger(reading, dag_id=dag_id, run_id=run_id, asker=by)
    if refusal := refuse_dag(dag, dag_id) or _refuse_type(dag, dag_id, service.revision):
        return refusal
    assert dag is not None
    if dag.has_run:
        return _exists(dag_id, run_id)
    if (version := dags.newest_of(dag)) is None:
        return Refuse(404, {"reason": "not_found", "message": f"Dag with dag_id: '{dag_id}' was never serialized"})
    data, promised = version[1], list[dict[str, Any]]()
    try:
        run = await _planned(service, dag_id, run_id, payload, version=version, now=now)
        if isinstance(run, Refuse):
            return run
        values = {
            **run.values,
            "created_dag_version_id": version[0],
            "bundle_version": None if data["dag"].get("disable_bundle_versioning") else dag.bundle_version,
            "triggering_user_name": dag.asker_s_user if service.revision.runs.inherit_user else None,
        }
        if data["dag"].get("deadline"):
            async with service.database.autocommit() as reading:
                promised = await deadlines.planned(service, reading, run=values, now=now)
    except UnknownInDag as error:
        return _value_error(str(error))
    stored, database = service.storage, service.database
    is_one_statement = payload.note is None and not promised and not stored.task_instances.are_placed(run.tasks)
    async with database.autocommit() if is_one_statement else database.transaction() as session:
        new = dag_runs.new(schema=stored.schema, values=values, now=now)
        run_pk = await stored.task_instances.create_run(session, run=new, new=run.tasks, now=now)
        if run_pk is None:
            return _exists(dag_id, run_id)
        if payload.note is not None:
            await dag_runs.add_note(session, run_pk=run_pk, note=payload.note, now=now)
        await db_deadlines.create(
            session,
            run_pk=run_pk,
            planned=promised,
            bundle_name=dag.bundle_name if service.revision.deadlines.callbacks_have_bundles else None,
            now=now,
        )
    if service.stats.are_on:
        count_tasks(service.stats, run.tasks, dag_id=dag_id, run_type=values["run_type"])
        for _ in promised:
            service.stats.incr("deadline_alerts.deadline_created", tags={"dag_id": dag_id})
    return None


def count_tasks(stats: Stats, new: NewTasks, *, dag_id: str, run_type: str) -> None:
    """Count the tasks of which there are new task instances, by operator; a mapped one is one."""
    operators = {task["task_id"]: task["operator"] for task in new.each}
    for operator, count in Counter(operators.values()).items():
        tags = {"dag_id": dag_id, "run_type": run_type, "task_type": operator}
        stats.incr("task_instance_created", count, tags=tags)


async def _planned(
    service: Service,
    dag_id: str,
    run_id: str,
    payload: TriggerDAGRunPayload,
    *,
    version: tuple[uuid.UUID, Mapping[str, Any]],
    now: datetime,
) -> NewRun | Refuse:
    """Decide what a triggered run is, in Airflow's order of refusals.

    :raises UnknownInDag: the Dag names what cannot be told or asked here.
    """
    pk, data = version
    dag, logical_date, run_after = data["dag"], payload.logical_date, payload.run_after or now
    revision = service.revision
    if message := _invalid_run_id(service.settings, revision, run_id) or _too_early(data, logical_date):
        return _value_error(message)
    if len(run_id) > LONGEST_RUN_ID:
        told = f"must have at most {LONGEST_RUN_ID} characters, not {len(run_id)}"
        return Refuse(422, invalid_value(told, "path", "run_id"))
    partition_date = await _partition_date(service, dag, dag_id, payload.partition_key)
    if isinstance(partition_date, Refuse):
        return partition_date
    if message := await threads.invalid_param(dag.get("params") or (), payload.conf):
        return _value_error(message)
    start, end = (None, None) if logical_date is None else await _interval(service, dag, run_after)
    about = {
        "airflow.dag_id": dag_id,
        "airflow.dag_run.run_id": run_id,
        "airflow.dag_run.run_type": revision.runs.triggered_type,
    }
    carriers = Carriers(service.traces, revision, payload.conf, about=about)
    values = {
        "dag_id": dag_id,
        "run_id": run_id,
        "state": "queued",
        "run_type": revision.runs.triggered_type,
        "triggered_by": "OPERATOR",
        "logical_date": logical_date,
        "data_interval_start": start,
        "data_interval_end": end,
        "run_after": run_after,
        "queued_at": now,
        "conf": payload.conf,
        "clear_number": 0,
        "partition_key": payload.partition_key,
        "partition_date": partition_date,
        "context_carrier": carriers.of_run,
        "span_status": "not_started",
    }
    tasks = new_tasks(
        serialized_dag.planned_tasks(data, logical_date),
        dag_id=dag_id,
        run_id=run_id,
        version=pk,
        carriers=carriers,
        now=now,
        empty_are_skipped=revision.runs.empty_maps_are_skipped,
    )
    return NewRun(values, tasks)


async def _partition_date(
    service: Service, dag: Mapping[str, Any], dag_id: str, key: str | None
) -> datetime | Refuse | None:
    """Return the date of the partition that a run is for, if its key tells one; or why the Dag has no such partition.

    :raises UnknownInDag: see :func:`_planned`.
    """
    if key is None:
        return None
    if not service.revision.assets.partitions_have_dates:
        return _long_partition_key(key) if len(key) > LONGEST_KEY else None
    trusted = service.settings.trusted_classes
    ask = partial(partitions.resolved_date, dag["timetable"], key, trusted)
    try:
        date = await threads.asked(ask, trusted, what=f"the timetable {dag['timetable']['__type']}")
    except InvalidPartitionKey as error:
        return _invalid_partition_key(str(error))
    except ValueError as error:
        return _value_error(str(error))
    return _refuse_partition_key(dag, dag_id, key) or date


async def _interval(service: Service, dag: Mapping[str, Any], run_after: datetime) -> tuple[datetime, datetime]:
    """Return the data interval that a Dag's timetable gives a run.

    :raises UnknownInDag: see :func:`_planned`.
    """
    strictly, trusted = service.revision.runs.intervals_have_length, service.settings.trusted_classes
    ask = partial(timetables.manual_interval, dag["timetable"], run_after, strictly_before=strictly, trusted=trusted)
    return await threads.asked(ask, trusted, what=f"the timetable {dag['timetable']['__type']}")


def new_tasks(
    planned: Iterable[PlannedTask],
    *,
    dag_id: str,
    run_id: str,
    version: uuid.UUID,
    carriers: Carriers | None,
    now: datetime,
    empty_are_skipped: bool = False,
) -> NewTasks:
    """Return task instances of a run that were never tried.

    :param version: the primary key of the Dag version that they are of.
    :param empty_are_skipped: whether those that are repeated no times are skipped at once.
    """
    alike: dict[str, Any] = {
        "dag_id": dag_id,
        "run_id": run_id,
        "dag_version_id": version,
        "try_number": 0,
        "hostname": "",
        "unixname": _own_user(),
        "updated_at": now,
        "span_status": "not_started",
    }
    traced = carriers if carriers is not None and carriers.differ else None
    if traced is None:
        alike["context_carrier"] = None if carriers is None else carriers.of_run
    tasks = list(planned)
    each = [
        {
            "id": pk,
            "task_id": task.task_id,
            "map_index": task.map_index,
            "is_mapped": task.is_mapped,
            "loop": task.loop,
            "state": "skipped" if empty_are_skipped and task.is_nothing else None,
            **({} if traced is None else {"context_carrier": traced.of_task()}),
            **task.values,
        }
        for pk, task in zip(uuids7(len(tasks)), tasks, strict=True)
    ]
    return NewTasks(alike, each)


@cache
def _own_user() -> str:
    """Return the name of the user that this process has."""
    return getpass.getuser()


def refuse_dag(dag: AnyRow | None, dag_id: str) -> Refuse | None:
    """Refuse to make or to clear runs of a Dag that is gone or that cannot be imported."""
    if dag is None:
        return Refuse(404, {"reason": "not_found", "message": f"Dag with dag_id: '{dag_id}' not found"})
    if dag.has_import_errors:
        message = f"Dag with dag_id '{dag_id}' has import errors and cannot be triggered"
        return Refuse(400, {"reason": "import_errors", "message": message})
    return None


def _refuse_type(dag: AnyRow | None, dag_id: str, revision: Revision) -> Refuse | None:
    if dag is None or dag.allowed_run_types is None or revision.runs.triggered_type in dag.allowed_run_types:
        return None
    message = f"Dag with dag_id '{dag_id}' does not allow {revision.runs.triggered_type.replace('_', '-')} runs"
    return Refuse(400, {"reason": "denied_run_type", "message": message})


def _exists(dag_id: str, run_id: str) -> Refuse:
    message = f"A run already exists for Dag '{dag_id}' with run_id '{run_id}'"
    return Refuse(409, {"reason": "already_exists", "message": message})


def _value_error(message: str) -> Refuse:
    return Refuse(400, {"reason": "value_error", "message": message})


def _invalid_run_id(settings: Settings, revision: Revision, run_id: str) -> str | None:
    if revision.runs.triggered_type == DagRunType.MANUAL:
        kinds = [kind for kind in DagRunType if kind != DagRunType.OPERATOR_TRIGGERED]  # which 3.2 does not know
        reserved = next((kind for kind in kinds if run_id.startswith(f"{kind}__")), DagRunType.MANUAL)
        if reserved != DagRunType.MANUAL:
            return f"A manual DAG run cannot use ID {run_id!r} since it is reserved for {reserved} runs"
    if ".." in run_id and revision.runs.ids_without_double_dots and not settings.double_dots_in_run_ids:
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
        return _invalid_partition_key("partition_key must not be empty or whitespace-only.")
    return _long_partition_key(key) if len(key) > LONGEST_KEY else None


def _long_partition_key(key: str) -> Refuse:
    return _invalid_partition_key(f"partition_key must be at most {LONGEST_KEY} characters; got {len(key)}.")


def _invalid_partition_key(message: str) -> Refuse:
    return Refuse(400, {"reason": "invalid_partition_key", "message": message})
