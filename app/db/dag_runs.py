"""Dag runs: reading them, and inserting the ones that tasks trigger."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Select,
    Table,
    Text,
    Update,
    bindparam,
    delete,
    func,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.sql.dml import ReturningInsert

from app.db import deadlines
from app.db.earlier import is_before, newest_in_state, newest_runs
from app.db.filtered import Filtered, one_of
from app.db.schema import Schema, known
from app.db.session import Session
from app.db.tables import (
    AnyRow,
    arguments,
    as_text,
    asset,
    asset_alias,
    asset_alias_asset_event,
    asset_event,
    dag_run,
    dag_run_note,
    dagrun_asset_event,
    date_of,
    log_template,
    task_instance,
)

_COLUMNS = (
    dag_run.c.dag_id,
    dag_run.c.run_id,
    dag_run.c.logical_date,
    dag_run.c.data_interval_start,
    dag_run.c.data_interval_end,
    dag_run.c.run_after,
    dag_run.c.start_date,
    dag_run.c.end_date,
    dag_run.c.clear_number,
    dag_run.c.run_type,
    dag_run.c.state,
    as_text(dag_run.c.conf),
    dag_run.c.triggering_user_name,
    dag_run.c.partition_key,
    dag_run.c.partition_date,
)
_BY_KEY = select(*_COLUMNS).where(dag_run.c.dag_id == bindparam("dag_id"), dag_run.c.run_id == bindparam("run_id"))
_STATE = select(dag_run.c.state).where(dag_run.c.dag_id == bindparam("dag_id"), dag_run.c.run_id == bindparam("run_id"))


async def get(session: Session, *, dag_id: str, run_id: str) -> AnyRow | None:
    """Return a run, or None."""
    return (await session.execute(_BY_KEY, {"dag_id": dag_id, "run_id": run_id})).one_or_none()


async def state(session: Session, *, dag_id: str, run_id: str) -> str | None:
    """Return a run's state, or None when there is no such run."""
    found: str | None = await session.scalar(_STATE, {"dag_id": dag_id, "run_id": run_id})
    return found


_TO_CLEAR = select(
    dag_run.c.created_dag_version_id,
    dag_run.c.bundle_version,
    deadlines.intervals_without_length.label("intervals"),
).where(dag_run.c.dag_id == bindparam("dag_id"), dag_run.c.run_id == bindparam("run_id"))


async def to_clear(session: Session, *, dag_id: str, run_id: str) -> AnyRow | None:
    """Return what clearing a run depends on beside its rows, or None when there is no such run.

    The Dag version that it was made from (None for a run of Airflow 2, and when it was cleaned up), that of its bundle, and
    the ``intervals`` that do not tell the length of its deadlines, by the id of the alert.
    """
    return (await session.execute(_TO_CLEAR, {"dag_id": dag_id, "run_id": run_id})).one_or_none()


_of_dag_before = dag_run.c.dag_id == bindparam("dag_id"), dag_run.c.logical_date < bindparam("before")
_PREVIOUS = select(*_COLUMNS).where(*_of_dag_before).order_by(dag_run.c.logical_date.desc()).limit(1)
_PREVIOUS_IN_STATE = newest_in_state(bindparam("state"), is_before, columns=_COLUMNS, are_dated=True)


async def previous(session: Session, *, dag_id: str, before: datetime, state: str | None) -> AnyRow | None:
    """Return the newest run with a logical date before ``before``, in ``state`` if one is given."""
    parameters = {"dag_id": dag_id, "before": before}
    if state is not None:
        return await _PREVIOUS_IN_STATE.row(session, {**parameters, "state": state})
    return (await session.execute(_PREVIOUS, parameters)).one_or_none()


_COUNT = Filtered(
    select(func.count()).select_from(dag_run).where(dag_run.c.dag_id == bindparam("dag_id")),
    logical_dates=one_of(dag_run.c.logical_date, "logical_dates"),
    run_ids=one_of(dag_run.c.run_id, "run_ids"),
    states=one_of(dag_run.c.state, "states"),
)


async def count(session: Session, *, dag_id: str, **filters: Sequence[Any] | None) -> int:
    """Count a Dag's runs.

    :param filters: ``logical_dates``, ``run_ids`` and ``states``, of which empty ones do not filter.
    """
    statement, parameters = _COUNT.by(**filters)
    return await session.scalar(statement, {**parameters, "dag_id": dag_id}) or 0


_own_run = dag_run.alias("own_run")
_own = (
    select(_own_run.c.dag_id, _own_run.c.logical_date, date_of(_own_run).label("date"), _own_run.c.id)
    .join(task_instance, (_own_run.c.dag_id == task_instance.c.dag_id) & (_own_run.c.run_id == task_instance.c.run_id))
    .where(task_instance.c.id == bindparam("pk"))
    .cte("own")
)


def _is_before_own(date: ColumnElement[Any]) -> ColumnElement[bool]:
    logical_date, own_date, pk = (select(_own.c[name]).scalar_subquery() for name in ("logical_date", "date", "id"))
    is_earlier = or_(
        dag_run.c.logical_date < logical_date,  # intervals follow one another: runs without one are left out
        logical_date.is_(None) & (tuple_(date, dag_run.c.id) < tuple_(own_date, pk)),
    )
    return (date <= own_date) & is_earlier


_PREVIOUS_SUCCESSFUL = newest_in_state(
    "success",
    _is_before_own,
    columns=[dag_run.c[name] for name in ("data_interval_start", "data_interval_end", "start_date", "end_date")],
    of_dag=select(_own.c.dag_id).scalar_subquery(),
)


async def previous_successful(session: Session, *, ti_id: Any) -> AnyRow | None:
    """Return the times of the last successful run before a task instance's own, or None.

    Before a run with a logical date are those of an earlier one; before a run without, all that are earlier by
    :func:`~app.db.tables.date_of`.
    """
    return await _PREVIOUS_SUCCESSFUL.row(session, {"pk": ti_id})


_CONSUMED = (
    select(
        asset.c.name,
        asset.c.uri,
        as_text(asset.c.extra).label("asset_extra"),
        as_text(asset_event.c.extra),
        asset_event.c.source_task_id,
        asset_event.c.source_dag_id,
        asset_event.c.source_run_id,
        asset_event.c.source_map_index,
        asset_event.c.timestamp,
        asset_event.c.partition_key,
        select(func.array_agg(aggregate_order_by(asset_alias.c.name, asset_alias.c.id)))
        .join(asset_alias_asset_event, asset_alias_asset_event.c.alias_id == asset_alias.c.id)
        .where(asset_alias_asset_event.c.event_id == asset_event.c.id)
        .scalar_subquery()
        .label("aliases"),
    )
    .select_from(dagrun_asset_event)
    .join(asset_event, asset_event.c.id == dagrun_asset_event.c.event_id)
    .join(asset, asset.c.id == asset_event.c.asset_id)
    .where(dagrun_asset_event.c.dag_run_id == bindparam("run_pk"))
    .order_by(asset_event.c.id)
)


async def consumed_asset_events(session: Session, *, run_pk: int) -> Sequence[AnyRow]:
    """Return the asset events that a run consumed, oldest first."""
    return (await session.execute(_CONSUMED, {"run_pk": run_pk})).all()


_DURATION = (dag_run.c.end_date - dag_run.c.start_date).label("duration")


def _runtimes(*where: ColumnElement[bool]) -> Select[Any]:
    most = bindparam("of", type_=BigInteger)
    return select(newest_runs(lambda _: true(), _DURATION.is_not(None), *where, columns=[_DURATION], most=most).c.duration)


_RUNTIMES = {False: _runtimes(), True: _runtimes(dag_run.c.state == "success")}


async def average_runtime(
    session: Session, *, dag_id: str, of: int, at_least: int, only_successes: bool
) -> timedelta | None:
    """Return how long a Dag's last runs took on average, or None when there are too few.

    :param of: how many of them.
    """
    found = await session.scalars(_RUNTIMES[only_successes], {"dag_id": dag_id, "of": of})
    taken = list(found)
    return sum(taken, timedelta()) / len(taken) if len(taken) >= max(at_least, 1) else None


_NEWEST_TEMPLATE = select(func.max(log_template.c.id)).scalar_subquery()


@cache
def _creating(table: Table, names: frozenset[str]) -> ReturningInsert[tuple[int]]:
    """Return the statement that inserts a run with these columns; made once a kind."""
    values: dict[str, Any] = {name: bindparam(f"run_{name}", type_=table.c[name].type) for name in sorted(names)}
    values |= {"log_template_id": _NEWEST_TEMPLATE, "created_at": bindparam("now"), "updated_at": bindparam("now")}
    return insert(table).values(values).on_conflict_do_nothing().returning(table.c.id)


class NewRun(NamedTuple):
    """A run to insert.

    :param statement: inserts it and returns its id, or nothing when there is such a run already.
    """

    statement: ReturningInsert[tuple[int]]
    parameters: Mapping[str, Any]


def new(*, schema: Schema, values: Mapping[str, Any], now: datetime) -> NewRun:
    """Return what inserts a run.

    :param values: columns of the run; those that the release does not have are left out.
    """
    values = known(schema.dag_run, values)
    parameters = {f"run_{name}": value for name, value in values.items()}
    return NewRun(_creating(schema.dag_run, frozenset(values)), {**parameters, "now": now})


_INSERT_NOTE = insert(dag_run_note)


async def add_note(session: Session, *, run_pk: int, note: str, now: datetime) -> None:
    """Insert the note of a new run."""
    await session.execute(_INSERT_NOTE, {"dag_run_id": run_pk, "content": note, "created_at": now, "updated_at": now})


_THIS = dag_run.c.dag_id == bindparam("dag_id"), dag_run.c.run_id == bindparam("run_id")
_NOTING = insert(dag_run_note).from_select(
    ["dag_run_id", "content", "created_at", "updated_at"],
    select(
        dag_run.c.id,
        bindparam("note", type_=Text),
        bindparam("now", type_=DateTime(timezone=True)),
        bindparam("now", type_=DateTime(timezone=True)),
    ).where(*_THIS),
)
_NOTE = _NOTING.on_conflict_do_update(
    index_elements=[dag_run_note.c.dag_run_id],
    set_={"user_id": None, **{name: _NOTING.excluded[name] for name in ("content", "updated_at")}},
    where=or_(dag_run_note.c.content.is_distinct_from(_NOTING.excluded.content), dag_run_note.c.user_id.is_not(None)),
)
_FORGET_NOTE = delete(dag_run_note).where(dag_run_note.c.dag_run_id == select(dag_run.c.id).where(*_THIS).scalar_subquery())


async def set_note(session: Session, *, dag_id: str, run_id: str, note: str, now: datetime) -> None:
    """Write the note of a run, whoever wrote it before, in nobody's name; no text takes it away; one statement."""
    if note:
        await session.execute(_NOTE, {"dag_id": dag_id, "run_id": run_id, "note": note, "now": now})
    else:
        await session.execute(_FORGET_NOTE, {"dag_id": dag_id, "run_id": run_id})


_LOCK = (
    select(
        dag_run.c.id,
        dag_run.c.dag_id,
        dag_run.c.run_id,
        dag_run.c.state,
        dag_run.c.run_type,
        dag_run.c.logical_date,
        dag_run.c.clear_number,
        dag_run.c.created_dag_version_id,
        dag_run.c.bundle_version,
        as_text(dag_run.c.conf),
        as_text(dag_run.c.context_carrier),
    )
    .where(*_THIS)
    .with_for_update(of=dag_run, key_share=True)
)


async def lock(session: Session, *, dag_id: str, run_id: str) -> AnyRow | None:
    """Lock a run, which is the first lock of its transaction, and return it; None when there is no such run.

    :raises RetryableDatabaseError: when the lock is not granted within the lock timeout.
    """
    return (await session.execute(_LOCK, {"dag_id": dag_id, "run_id": run_id})).one_or_none()


@cache
def _writing(names: frozenset[str]) -> Update:
    """Return the statement that sets these columns of a run; made once a kind."""
    values = {name: bindparam(f"new_{name}", type_=dag_run.c[name].type) for name in sorted(names)}
    return update(dag_run).where(dag_run.c.id == bindparam("pk")).values(values).add_cte(deadlines.put_off)


async def write(session: Session, *, run_pk: int, values: Mapping[str, Any], lengths: Mapping[uuid.UUID, timedelta]) -> None:
    """Set columns of a locked run, and put off the deadlines that count from when it was queued; one statement.

    :param values: ``queued_at``, and others.
    :param lengths: of those deadlines whose alert does not tell it, by the alert's id; without one they stay.
    """
    parameters = {f"new_{name}": value for name, value in values.items()}
    parameters |= arguments(["alerts", "lengths"], list(lengths.items()))
    await session.execute(_writing(frozenset(values)), {"pk": run_pk, **parameters})
