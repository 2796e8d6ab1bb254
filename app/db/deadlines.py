"""Deadlines of runs, made of their Dag's alerts; the scheduler looks whether they are met."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    DateTime,
    Double,
    Integer,
    Interval,
    Text,
    Uuid,
    bindparam,
    case,
    cast,
    false,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.db.session import Session
from app.db.tables import AnyRow, arguments, callback, dag_run, deadline, deadline_alert, rows_of, serialized_dag
from app.db.uuids import uuid7

_ALERTS = (
    select(deadline_alert.c.id, deadline_alert.c.reference, deadline_alert.c.interval, deadline_alert.c.callback_def)
    .join(serialized_dag, serialized_dag.c.id == deadline_alert.c.serialized_dag_id)
    .where(serialized_dag.c.dag_version_id == bindparam("version_id"))
    .order_by(deadline_alert.c.id)
)


async def alerts(session: Session, *, version_id: uuid.UUID) -> Sequence[AnyRow]:
    """Return the alerts of a Dag version."""
    return (await session.execute(_ALERTS, {"version_id": version_id})).all()


# Deadlines that a run which is queued again puts off.
_counts_from_queue = deadline.c.missed.is_(False) & (
    deadline_alert.c.reference["reference_type"].as_string() == "DagRunQueuedAtDeadline"
)
_interval = func.to_jsonb(deadline_alert.c.interval, type_=JSONB)
_seconds = cast(func.coalesce(_interval["__data__"].astext, _interval[()].astext), Double)
_has_length = or_(func.jsonb_typeof(_interval) == "number", _interval["__classname__"].astext == "datetime.timedelta")
# Of such deadlines of a run (``dag_run``) the intervals that do not tell their length, by alert; null if there are none.
intervals_without_length = (
    select(func.json_object_agg(deadline_alert.c.id, deadline_alert.c.interval, type_=JSON))
    .join_from(deadline, deadline_alert, deadline_alert.c.id == deadline.c.deadline_alert_id)
    .where(deadline.c.dagrun_id == dag_run.c.id, _counts_from_queue)
    .where(_interval["__classname__"].astext != "datetime.timedelta")
    .correlate(dag_run)
    .scalar_subquery()
)
_queued_at = bindparam("new_queued_at", type_=DateTime(timezone=True))
_told = rows_of("told", alert=Uuid, length=Interval)
_length = case(
    (_has_length, func.make_interval(0, 0, 0, 0, 0, 0, _seconds)),
    else_=select(_told.c.length).where(_told.c.alert == deadline_alert.c.id).scalar_subquery(),
)
# Puts off the deadlines of a run (``pk``) that count from when it was queued, and whose length is known or told.
put_off = (
    update(deadline)
    .where(deadline.c.dagrun_id == bindparam("pk"), deadline_alert.c.id == deadline.c.deadline_alert_id)
    .where(_counts_from_queue, _length.is_not(None))
    .values(deadline_time=_queued_at + _length, last_updated_at=_queued_at)
    .cte("put_off")
)
_made = rows_of("made", callback=Uuid, deadline=Uuid, alert=Uuid, due=DateTime(timezone=True), kind=Text, call=JSONB)
_now = bindparam("now", type_=DateTime(timezone=True))
_CALLBACKS = {
    "id": _made.c.callback,
    "type": _made.c.kind,
    "fetch_method": literal("import_path"),
    "data": _made.c.call,
    "state": literal("scheduled"),
    "priority_weight": literal(1),
    "bundle_name": bindparam("bundle_name", type_=Text),
    "created_at": _now,
}
_DEADLINES = {
    "id": _made.c.deadline,
    "created_at": _now,
    "last_updated_at": _now,
    "dagrun_id": bindparam("run_pk", type_=Integer),
    "deadline_time": _made.c.due,
    "missed": false(),
    "callback_id": _made.c.callback,
    "deadline_alert_id": _made.c.alert,
}
_CREATE = (
    insert(deadline)
    .from_select(list(_DEADLINES), select(*_DEADLINES.values()))
    .add_cte(insert(callback).from_select(list(_CALLBACKS), select(*_CALLBACKS.values())).cte("callbacks"))
)


async def create(
    session: Session,
    *,
    run_pk: int,
    planned: Sequence[Mapping[str, Any]],
    bundle_name: str | None,
    now: datetime,
) -> None:
    """Insert the deadlines of a run, each with its callback; one statement, however many they are.

    :param planned: the alert's id, ``deadline_time``, and the ``type`` and ``data`` of the callback.
    :param bundle_name: of its Dag, where callbacks name it.
    """
    if planned:
        rows = [
            (uuid7(), uuid7(), *(each[name] for name in ("alert_id", "deadline_time", "type", "data"))) for each in planned
        ]
        made = arguments(["callbacks", "deadlines", "alerts", "dues", "kinds", "calls"], rows)
        await session.execute(_CREATE, {**made, "run_pk": run_pk, "bundle_name": bundle_name, "now": now})
