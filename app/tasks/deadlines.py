"""Deadlines of runs: when one must have ended by each of its Dag's alerts, and what is called if it has not."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from app.dags.base_serialization import Unknown, converted, wrapped
from app.db import dag_runs, deadlines
from app.db.session import Session
from app.db.tables import AnyRow
from app.errors import UnknownInDag
from app.tasks.service import Service

log = structlog.get_logger(__name__)

SDK = "airflow.sdk.definitions."
CALLBACKS = {f"{SDK}callback.AsyncCallback": "triggerer", f"{SDK}callback.SyncCallback": "executor"}  # who runs each
VARIABLE = (f"{SDK}deadline.VariableInterval", "airflow.serialization.definitions.deadline.SerializedVariableInterval")


class UnknownDeadline(UnknownInDag):
    """A deadline that cannot be computed here; the message says why."""


class UnusableVariable(UnknownDeadline):
    """A variable says how long a deadline is, and there is none, or no number: Airflow makes no such deadline either."""


async def planned(service: Service, session: Session, *, run: Mapping[str, Any], now: datetime) -> list[dict[str, Any]]:
    """Return the deadlines of a new run, as :func:`app.db.deadlines.create` takes them.

    :param run: columns of the run.
    :raises UnknownDeadline: one of them cannot be computed here.
    """
    found = []
    for alert in await deadlines.alerts(session, version_id=run["created_dag_version_id"]):
        try:
            found += await _of_alert(service, session, alert, run, now)
        except UnusableVariable as error:
            if not service.revision.deadlines.bad_ones_are_left_out:
                raise
            about = {"dag_id": run["dag_id"], "run_id": run["run_id"]}
            log.warning("a run is made without one of its deadlines", reason=str(error), **about)
    return found


async def lengths(service: Service, intervals: Mapping[str, Any], **about: str) -> dict[uuid.UUID, timedelta]:
    """Return how long intervals are that variables tell. One whose variable does not is left out.

    :param intervals: by alert.
    :param about: what they belong to, for the log.
    """
    found = {}
    for alert_id, interval in intervals.items():
        try:
            found[uuid.UUID(alert_id)] = await _interval(service, interval)
        except UnknownDeadline as error:
            log.warning("a deadline is not put off", reason=str(error), **about)
    return found


async def _of_alert(
    service: Service, session: Session, alert: AnyRow, run: Mapping[str, Any], now: datetime
) -> list[dict[str, Any]]:
    length = await _interval(service, alert.interval)
    start = await _start(service, session, alert, run, now)
    if start is None:
        return []
    stays_encoded = service.revision.deadlines.callbacks_stay_encoded
    kind, data = _callback(alert.callback_def, run["dag_id"], stays_encoded=stays_encoded)
    return [{"alert_id": alert.id, "deadline_time": start + length, "type": kind, "data": data}]


async def _start(
    service: Service, session: Session, alert: AnyRow, run: Mapping[str, Any], now: datetime
) -> datetime | None:
    reference = alert.reference
    moment: datetime | None
    if (path := reference.get("__class_path")) is not None:  # it may have the name of one of Airflow's own
        raise UnknownDeadline(f"the deadline reference {path} cannot be computed here")
    match reference["reference_type"]:
        case "FixedDatetimeDeadline":
            return datetime.fromtimestamp(reference["datetime"], UTC)
        case "DagRunLogicalDateDeadline":
            moment = run["logical_date"]
            return moment
        case "DagRunQueuedAtDeadline":
            moment = run["queued_at"]
            return moment
        case "AverageRuntimeDeadline":
            least = reference.get("min_runs") or reference["max_runs"]
            average = await dag_runs.average_runtime(
                session,
                dag_id=run["dag_id"],
                of=reference["max_runs"],
                at_least=least,
                only_successes=service.revision.deadlines.average_of_successes,
            )
            return None if average is None else now + average
    raise UnknownDeadline(f"the deadline reference {reference['reference_type']} cannot be computed here")


async def _interval(service: Service, encoded: Any) -> timedelta:
    if isinstance(encoded, int | float):
        return timedelta(seconds=encoded)
    match encoded["__classname__"]:
        case "datetime.timedelta":
            return timedelta(seconds=encoded["__data__"])
        case name if name in VARIABLE:
            key = encoded["__data__"]["key"]
            value = await service.secrets.variable(key, None)
            if value is None:
                raise UnusableVariable(f"VariableInterval '{key}' not found")
            try:
                return timedelta(seconds=int(value))
            except ValueError:
                message = f"VariableInterval '{key}' must be an integer (seconds), got: {value!r}"
                raise UnusableVariable(message) from None
    raise UnknownDeadline(f"the interval {encoded['__classname__']} is unknown")


def _callback(encoded: Mapping[str, Any], dag_id: str, *, stays_encoded: bool) -> tuple[str, Any]:
    """Return who runs a callback, and what to run as the triggerer and the scheduler read it.

    :param stays_encoded: whether who calls it decodes its arguments, and is told where they are encoded.
    """
    name = encoded["__classname__"]
    if (kind := CALLBACKS.get(name)) is None:
        raise UnknownDeadline(f"the callback {name} is unknown")
    data = {"dag_id": dag_id, "prefix": "deadline_alerts", **encoded["__data__"]}
    if stays_encoded:
        told = {"queue": None} if kind == "triggerer" else {"kwargs_encoding": "serde"}
        return kind, wrapped({**told, **data})
    try:
        return kind, converted(data)
    except Unknown as error:
        raise UnknownDeadline(f"an argument of the callback is {error}, which is unknown") from error
