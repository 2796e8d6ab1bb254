"""Statements about task instances: the one row lock, the guarded heartbeat, transitions and their history."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    DateTime,
    Double,
    Insert,
    Integer,
    String,
    Text,
    Update,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    extract,
    false,
    func,
    insert,
    literal,
    literal_column,
    null,
    or_,
    select,
    true,
    tuple_,
    update,
)

from app.db import audit
from app.db.session import Session
from app.db.tables import (
    AnyRow,
    as_text,
    dag,
    dag_run,
    dagrun_asset_event,
    date_of,
    hitl_detail,
    hitl_detail_history,
    log,
    task_instance,
    task_instance_history,
    task_reschedule,
    xcom,
)
from app.releases import Revision
from app.schemas.base import TerminalTIState

BATCH = 100  # rows locked at once by a report that stops others: some milliseconds of work, so nobody waits for long
ENDED = ("success", "failed", "skipped", "upstream_failed", "removed")
TERMINAL = [state.value for state in TerminalTIState]
HISTORY_COLUMNS = [column.name for column in task_instance_history.c if column.name != "task_instance_id"]
HITL_COLUMNS = [column.name for column in hitl_detail_history.c if column.name != "ti_history_id"]

_STOPPABLE = (
    task_instance.c.id,
    task_instance.c.dag_id,
    task_instance.c.task_id,
    task_instance.c.run_id,
    task_instance.c.map_index,
    task_instance.c.try_number,
    task_instance.c.state,
)
_this_pk = task_instance.c.id == bindparam("pk")

_locked = (
    select(
        task_instance.c.id,
        task_instance.c.dag_id,
        task_instance.c.task_id,
        task_instance.c.run_id,
        task_instance.c.map_index,
        task_instance.c.state,
        task_instance.c.try_number,
        task_instance.c.max_tries,
        task_instance.c.start_date,
        task_instance.c.hostname,
        task_instance.c.unixname,
        task_instance.c.pid,
        task_instance.c.next_method,
        as_text(task_instance.c.next_kwargs),
        dag_run.c.id.label("run_pk"),
        dag_run.c.logical_date,
        dag_run.c.data_interval_start,
        dag_run.c.data_interval_end,
        dag_run.c.run_after,
        dag_run.c.start_date.label("run_start_date"),
        dag_run.c.end_date.label("run_end_date"),
        dag_run.c.clear_number,
        dag_run.c.run_type,
        dag_run.c.state.label("run_state"),
        as_text(dag_run.c.conf),
        dag_run.c.triggering_user_name,
        dag_run.c.partition_key,
        dag_run.c.partition_date,
        dag.c.owners,
        dag.c.fail_fast,
    )
    .join(dag_run, (dag_run.c.dag_id == task_instance.c.dag_id) & (dag_run.c.run_id == task_instance.c.run_id))
    .join(dag, dag.c.dag_id == task_instance.c.dag_id)
    .where(_this_pk)
)
_version = cast(literal_column("task_instance.xmin"), Text)  # which transaction wrote this version of the row
_traceparent = dag_run.c.context_carrier.op("#>>")(literal_column("'{__var,traceparent}'"))
_IS_UNSAMPLED = _traceparent.op("~")(literal_column("'-[0-9a-f][02468ace]$'"))  # the last bit of its flags is not set
_SPAN = case(
    (_IS_UNSAMPLED, null()),
    else_=cast(
        func.jsonb_build_array(task_instance.c.queued_dttm, dag_run.c.context_carrier, task_instance.c.context_carrier),
        Text,
    ),
).label("span")
_SEEN, _SEEN_TRACED = (each.add_columns(_version.label("version")) for each in (_locked, _locked.add_columns(_SPAN)))
_LOCKS = {
    (rename, traced): (_locked.add_columns(_SPAN) if traced else _locked).with_for_update(
        of=task_instance, key_share=not rename
    )
    for rename in (False, True)
    for traced in (False, True)
}


async def seen(session: Session, *, ti_id: uuid.UUID, traced: bool = False) -> AnyRow | None:
    """Return what :func:`lock_by_pk` returns, without a lock, and the row's ``version`` for :func:`record`."""
    return (await session.execute(_SEEN_TRACED if traced else _SEEN, {"pk": ti_id})).one_or_none()


async def lock_by_pk(session: Session, *, ti_id: uuid.UUID, rename: bool = False, traced: bool = False) -> AnyRow | None:
    """Lock one task instance and return it with its run and Dag: the only row lock of a request.

    The lock is ``FOR NO KEY UPDATE OF task_instance``: neither the run nor the Dag is locked, and the rows that refer to
    this one (XComs, rendered fields, reschedules) can still be inserted by others.

    :param ti_id: the primary key.
    :param rename: whether the id itself will change, which needs ``FOR UPDATE``: what refers to it must wait.
    :param traced: whether what its span is made of is returned too, as ``span``: when it was queued, and the contexts of its
        run and its own, as JSON; None if its run is not sampled.
    :raises LockTimeout: when somebody holds it.
    """
    return (await session.execute(_LOCKS[rename, traced], {"pk": ti_id})).one_or_none()


async def lock_ready(session: Session, *, where: ColumnElement[bool]) -> Sequence[AnyRow]:
    """Lock those matching task instances that nobody else holds, in id order, at most :data:`BATCH` of them.

    It never waits (``SKIP LOCKED``), so a transaction that holds other rows may call it: Airflow's own multi-row updates
    lock in no particular order, and whoever waits for one row while it holds another can deadlock with them.

    :param where: a condition on ``task_instance``.
    :returns: their keys, try numbers and states.
    """
    statement = (
        select(*_STOPPABLE)
        .where(where)
        .order_by(task_instance.c.id)
        .limit(BATCH)
        .with_for_update(of=task_instance, key_share=True, skip_locked=True)
    )
    return (await session.execute(statement)).all()


async def lock_run(session: Session, *, dag_id: str, run_id: str) -> Sequence[AnyRow]:
    """Lock every task instance of a run so that it can be renamed, in id order.

    For a transaction that holds the run already.

    :raises LockTimeout: when somebody holds one of them.
    """
    statement = (
        select(
            *_STOPPABLE,
            task_instance.c.max_tries,
            task_instance.c.start_date,
            task_instance.c.end_date,
            task_instance.c.dag_version_id,
        )
        .where(task_instance.c.dag_id == dag_id, task_instance.c.run_id == run_id)
        .order_by(task_instance.c.id)
        .with_for_update(of=task_instance)
    )
    return (await session.execute(statement)).all()


async def any_left(session: Session, *, where: ColumnElement[bool]) -> bool:
    """Say whether a task instance matches; without a lock."""
    return bool(await session.scalar(select(exists().where(where))))


def skippable(*, dag_id: str, run_id: str, tasks: Sequence[tuple[str, int]]) -> ColumnElement[bool]:
    """Match those of a run's ``tasks`` (id, map index) that have neither started nor ended.

    They are two arguments, however many they are: a statement takes 32,767.
    """
    task_ids, map_indexes = ([task[part] for task in tasks] for part in (0, 1))
    wanted = select(
        func.unnest(literal(task_ids, ARRAY(Text))).label("task_id"),
        func.unnest(literal(map_indexes, ARRAY(Integer))).label("map_index"),
    )
    return and_(
        task_instance.c.dag_id == dag_id,
        task_instance.c.run_id == run_id,
        tuple_(task_instance.c.task_id, task_instance.c.map_index).in_(wanted),
        or_(task_instance.c.state.is_(None), task_instance.c.state.not_in(["running", "success", "failed", "skipped"])),
    )


def stoppable(*, dag_id: str, run_id: str, except_tasks: Collection[str]) -> ColumnElement[bool]:
    """Match the task instances of a run that a failure stops: all that have not ended, but for ``except_tasks``."""
    return and_(
        task_instance.c.dag_id == dag_id,
        task_instance.c.run_id == run_id,
        task_instance.c.task_id.not_in(sorted(except_tasks)),
        or_(task_instance.c.state.is_(None), task_instance.c.state.not_in(["success", "failed", "skipped"])),
    )


async def skip(session: Session, *, ids: Sequence[uuid.UUID], now: datetime, keep_times: bool) -> None:
    """Set locked task instances to skipped.

    :param keep_times: whether a start and end that they have already are kept, and the duration computed from them.
    """
    values: dict[str, Any] = {"state": "skipped", "start_date": now, "end_date": now, "updated_at": now}
    if keep_times:
        started, ended = (func.coalesce(task_instance.c[name], now) for name in ("start_date", "end_date"))
        values |= {"start_date": started, "end_date": ended, "duration": extract("epoch", ended - started)}
    await session.execute(update(task_instance).where(task_instance.c.id.in_(ids)).values(**values))


async def force_failed(session: Session, *, ids: Sequence[uuid.UUID], now: datetime) -> None:
    """Set locked, running task instances to failed; their processes hear of it on their next heartbeat."""
    statement = update(task_instance).where(task_instance.c.id.in_(ids)).values(state="failed", updated_at=now)
    await session.execute(statement)


Process = tuple[uuid.UUID, str, int]  # a task instance, with host and process id of who says to run it
_HEARTBEAT = (
    update(task_instance)
    .where(
        _this_pk,
        task_instance.c.state == "running",
        task_instance.c.hostname == bindparam("on_host"),
        task_instance.c.pid == bindparam("by_process"),
    )
    .values(last_heartbeat_at=bindparam("now"), updated_at=bindparam("now"))
    .returning(literal(1))
)


_PROCESSES = (
    func.unnest(
        bindparam("pks", type_=ARRAY(Uuid)), bindparam("hosts", type_=ARRAY(Text)), bindparam("pids", type_=ARRAY(Integer))
    )
    .table_valued("pk", "host", "process")
    .render_derived(name="processes")
)
_BEATING = (
    select(task_instance.c.id)
    .join(_PROCESSES, task_instance.c.id == _PROCESSES.c.pk)
    .where(
        task_instance.c.state == "running",
        task_instance.c.hostname == _PROCESSES.c.host,
        task_instance.c.pid == _PROCESSES.c.process,
    )
    .order_by(task_instance.c.id)
    .with_for_update(key_share=True, skip_locked=True, of=task_instance)
    .cte("beating")
)
_HEARTBEATS = (
    update(task_instance)
    .where(task_instance.c.id == _BEATING.c.id)
    .values(last_heartbeat_at=bindparam("now"), updated_at=bindparam("now"))
    .returning(task_instance.c.id, task_instance.c.hostname, task_instance.c.pid)
)


async def heartbeats(session: Session, *, processes: Sequence[Process], now: datetime) -> set[Process]:
    """Record heartbeats of task instances that these very processes run; one statement, guarded by its own WHERE.

    One alone needs no more than its row: in the form for many it would cost PostgreSQL twice as much.

    :returns: those of the processes that were recorded; of several, those whose row somebody holds are passed over.
    :raises LockTimeout: when somebody holds the row of the only one.
    """
    if len(processes) == 1:
        ((pk, host, pid),) = processes
        found = await session.scalar(_HEARTBEAT, {"pk": pk, "on_host": host, "by_process": pid, "now": now})
        return set(processes) if found is not None else set()
    pks, hosts, pids = (list(column) for column in zip(*processes, strict=True))
    rows = await session.execute(_HEARTBEATS, {"pks": pks, "hosts": hosts, "pids": pids, "now": now})
    return {tuple(row) for row in rows}


_IDENTITY = select(
    task_instance.c.state,
    task_instance.c.hostname,
    task_instance.c.pid,
    task_instance.c.dag_id,
    task_instance.c.task_id,
    task_instance.c.run_id,
    task_instance.c.map_index,
    task_instance.c.last_heartbeat_at,
).where(_this_pk)


async def identity(session: Session, *, ti_id: uuid.UUID) -> AnyRow | None:
    """Return who runs a task instance, its state, last heartbeat, Dag and run; without a lock."""
    return (await session.execute(_IDENTITY, {"pk": ti_id})).one_or_none()


_SILENT_FOR = cast(extract("epoch", func.now() - task_instance.c.last_heartbeat_at), Double)
_AT_WORK = task_instance.c.state.in_(("running", "restarting"))
_COUNTS = select(
    func.count().filter(_AT_WORK).label("running"),
    func.count().filter(task_instance.c.state == "queued").label("queued"),
    func.count().filter(_AT_WORK, bindparam("late", type_=Double) < _SILENT_FOR).label("late"),
    func.max(_SILENT_FOR).filter(_AT_WORK).label("longest_silence"),
).where(task_instance.c.state.in_(("running", "restarting", "queued")))


async def counts(session: Session, *, late: float) -> AnyRow:
    """Return how many tasks run and are queued, how many have been silent for so many seconds, and the longest silence."""
    return (await session.execute(_COUNTS, {"late": late})).one()


_ARCHIVED = select(exists().where(task_instance_history.c.task_instance_id == bindparam("pk")))


async def is_archived(session: Session, *, ti_id: uuid.UUID) -> bool:
    """Say whether this id belongs to a try that was moved to the history."""
    return bool(await session.scalar(_ARCHIVED, {"pk": ti_id}))


async def write(session: Session, *, ti_id: uuid.UUID, values: Mapping[str, Any], revision: Revision) -> None:
    """Set columns of a locked task instance."""
    values = revision.known("task_instance", values)
    await session.execute(_writing(tuple(values)), {"pk": ti_id, **_new(values)})


@lru_cache(maxsize=100)
def _writing(names: tuple[str, ...]) -> Update:
    """Return the statement that sets these columns of one task instance: made once for each kind of transition."""
    return update(task_instance).where(_this_pk).values(_bound(names))


@lru_cache(maxsize=100)
def _recording(names: tuple[str, ...]) -> Insert:
    """Return the statement that sets these columns if the row is still the version that was read, and logs it."""
    changed = (
        update(task_instance)
        .where(_this_pk, _version == bindparam("version"))
        .values(_bound(names))
        .returning(literal(1).label("one"))
        .cte("changed")
    )
    logged = [bindparam(f"log_{column}", type_=log.c[column].type) for column in audit.COLUMNS]
    return insert(log).from_select(audit.COLUMNS, select(*logged).select_from(changed)).returning(literal(1))


def _bound(names: Iterable[str]) -> dict[str, Any]:
    return {name: bindparam(f"new_{name}", type_=task_instance.c[name].type) for name in names}


def _new(values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"new_{name}": value for name, value in values.items()}


async def record(
    session: Session,
    *,
    row: AnyRow,
    values: Mapping[str, Any],
    event: str,
    hostname: str | None,
    now: datetime,
    revision: Revision,
) -> bool:
    """Set columns of a task instance and write its audit row, in one statement, if nobody changed the row meanwhile.

    :param row: from :func:`seen`.
    :returns: whether it was still so; else nothing was written.
    """
    values = revision.known("task_instance", values)
    logged = {f"log_{name}": value for name, value in audit.transition(row, event=event, hostname=hostname, now=now).items()}
    parameters = {"pk": row.id, "version": row.version, **_new(values), **logged}
    return await session.scalar(_recording(tuple(values)), parameters) is not None


async def create(session: Session, *, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert task instances."""
    if rows:
        await session.execute(insert(task_instance), list(rows))


async def write_each(session: Session, *, changes: Sequence[tuple[uuid.UUID, Mapping[str, Any]]]) -> None:
    """Set columns of locked task instances, each its own; one statement for all that change the same columns."""
    alike: dict[frozenset[str], list[dict[str, Any]]] = {}
    for pk, values in changes:
        alike.setdefault(frozenset(values), []).append({"pk": pk, **_new(values)})
    for names, rows in alike.items():
        await session.execute(_writing(tuple(names)), rows)


_RUN_CONTEXT = select(
    select(func.count()).select_from(task_reschedule).where(task_reschedule.c.ti_id == bindparam("pk")).scalar_subquery(),
    select(func.array_agg(xcom.c.key))
    .where(
        xcom.c.dag_run_id == bindparam("run_pk"),
        xcom.c.task_id == bindparam("task_id"),
        or_(bindparam("map_index") < 0, xcom.c.map_index == bindparam("map_index")),
    )
    .scalar_subquery(),
    exists().where(dagrun_asset_event.c.dag_run_id == bindparam("run_pk")),
)


async def run_context(session: Session, *, row: AnyRow) -> tuple[int, list[str], bool]:
    """Return what a starting task is told beyond its own row.

    :returns: how often it was rescheduled, the keys of the XComs that an earlier try left, and whether its run consumed
        asset events.
    """
    parameters = {"pk": row.id, "run_pk": row.run_pk, "task_id": row.task_id, "map_index": row.map_index}
    count, keys, has_events = (await session.execute(_RUN_CONTEXT, parameters)).one()
    return count, keys or [], has_events


async def archive_try(session: Session, *, row: AnyRow, ended: Mapping[str, Any], revision: Revision) -> bool:
    """Copy a locked task instance's try into the history, as failed, and forget its reschedules.

    :param row: the task instance, locked to be renamed.
    :param ended: the columns of the history row that differ from the task instance's, such as its end date.
    :returns: whether it was not there yet.
    """
    changed = {**ended, "state": "failed"}
    literals = {name: literal(value, task_instance_history.c[name].type) for name, value in changed.items()}
    archived = await _archive(session, _this_pk, literals, revision, {"pk": row.id})
    await session.execute(delete(task_reschedule).where(task_reschedule.c.ti_id == row.id))
    return bool(archived)


async def archive_run(session: Session, *, dag_id: str, run_id: str, now: datetime, revision: Revision) -> set[uuid.UUID]:
    """Copy the tries of a run's locked task instances into the history; one that has not ended counts as failed now.

    :returns: the ids of those that were not in the history yet.
    """
    has_ended = task_instance.c.state.in_(ENDED)
    no_end = ~func.coalesce(has_ended, false())
    if revision.retry_keeps_end_date:
        no_end &= task_instance.c.end_date.is_(None)
    ended_now = literal(now, DateTime(timezone=True))
    ended: dict[str, ColumnElement[Any]] = {
        "state": case((has_ended, task_instance.c.state), else_="failed"),
        "end_date": case((no_end, ended_now), else_=task_instance.c.end_date),
        "duration": case((no_end, extract("epoch", ended_now - task_instance.c.start_date)), else_=task_instance.c.duration),
    }
    of_run = (task_instance.c.dag_id == dag_id) & (task_instance.c.run_id == run_id)
    archived = await _archive(session, of_run, ended, revision, {})
    ids_of_run = select(task_instance.c.id).where(of_run)
    await session.execute(delete(task_reschedule).where(task_reschedule.c.ti_id.in_(ids_of_run)))
    return set(archived)


async def _archive(
    session: Session,
    where: ColumnElement[bool],
    changed: Mapping[str, ColumnElement[Any]],
    revision: Revision,
    parameters: Mapping[str, Any],
) -> Sequence[uuid.UUID]:
    """Copy tries that are not in the history yet, with what was asked of a person in them; return the ids of those."""
    changed = revision.known("task_instance_history", changed)
    columns = [name for name in HISTORY_COLUMNS if revision.has_column("task_instance_history", name)]
    index = case((task_instance.c.map_index >= 0, cast(task_instance.c.map_index, String)))
    label = changed.get("rendered_map_index", task_instance.c.rendered_map_index)
    changed = {**changed, "rendered_map_index": func.coalesce(label, index)}  # it has a label for every mapped task
    source = [changed.get(name, task_instance.c[name]) for name in columns]
    attempt = ("dag_id", "task_id", "run_id", "map_index", "try_number")
    tried_already = exists().where(*(task_instance_history.c[c] == task_instance.c[c] for c in attempt))
    copy = select(task_instance.c.id, *source).where(where, ~tried_already)
    statement = insert(task_instance_history).from_select(["task_instance_id", *columns], copy)
    archived = list(await session.scalars(statement.returning(task_instance_history.c.task_instance_id), parameters))
    if archived:
        request = select(hitl_detail.c.ti_id, *(hitl_detail.c[c] for c in HITL_COLUMNS)).where(
            hitl_detail.c.ti_id.in_(archived)
        )
        await session.execute(insert(hitl_detail_history).from_select(["ti_history_id", *HITL_COLUMNS], request))
    return archived


async def record_reschedule(
    session: Session, *, ti_id: uuid.UUID, start_date: datetime, end_date: datetime, reschedule_date: datetime
) -> None:
    """Insert a row into a task's reschedules; its duration is whole seconds, cut towards zero."""
    await session.execute(
        insert(task_reschedule).values(
            ti_id=ti_id,
            start_date=start_date,
            end_date=end_date,
            duration=int((end_date - start_date).total_seconds()),
            reschedule_date=reschedule_date,
        )
    )


_RENDERED_MAP_INDEX = (
    update(task_instance)
    .where(_this_pk)
    .values(rendered_map_index=bindparam("label"), updated_at=bindparam("now"))
    .returning(literal(1))
)


async def set_rendered_map_index(session: Session, *, ti_id: uuid.UUID, label: str, now: datetime) -> bool:
    """Set the label of a mapped task instance; one statement.

    :returns: whether the task instance exists.
    """
    return await session.scalar(_RENDERED_MAP_INDEX, {"pk": ti_id, "label": label, "now": now}) is not None


_FIRST_RESCHEDULE = (
    select(task_reschedule.c.start_date)
    .where(task_reschedule.c.ti_id == bindparam("pk"))
    .order_by(task_reschedule.c.id)
    .limit(1)
)


async def first_reschedule(session: Session, *, ti_id: uuid.UUID) -> datetime | None:
    """Return when a task was first rescheduled, or None."""
    found: datetime | None = await session.scalar(_FIRST_RESCHEDULE, {"pk": ti_id})
    return found


def _matching(
    *,
    dag_id: str,
    task_ids: Sequence[str] | None,
    run_ids: Sequence[str] | None,
    logical_dates: Sequence[datetime] | None,
    map_index: int | None,
) -> list[ColumnElement[bool]]:
    """Return the conditions of the collection queries; empty lists do not filter."""
    conditions: list[ColumnElement[bool]] = [task_instance.c.dag_id == dag_id]
    if task_ids:
        conditions.append(task_instance.c.task_id.in_(task_ids))
    if run_ids:
        conditions.append(task_instance.c.run_id.in_(run_ids))
    if map_index is not None:
        conditions.append(task_instance.c.map_index == map_index)
    if logical_dates:
        runs = select(dag_run.c.run_id).where(dag_run.c.dag_id == dag_id, dag_run.c.logical_date.in_(logical_dates))
        conditions.append(task_instance.c.run_id.in_(runs))
    return conditions


async def count(
    session: Session,
    *,
    states: Sequence[str] | None = None,
    pairs: Sequence[tuple[str, int]] | None = None,
    **filters: Any,
) -> int:
    """Count task instances.

    :param states: only these; ``"null"`` stands for no state.
    :param pairs: only these (task id, map index).
    :param filters: see :func:`states`.
    """
    conditions = _matching(**filters)
    if pairs is not None:
        conditions.append(tuple_(task_instance.c.task_id, task_instance.c.map_index).in_(pairs))
    if states:
        named = task_instance.c.state.in_([state for state in states if state != "null"])
        conditions.append(or_(task_instance.c.state.is_(None), named) if "null" in states else named)
    return await session.scalar(select(func.count()).select_from(task_instance).where(*conditions)) or 0


async def states(session: Session, **filters: Any) -> Sequence[AnyRow]:
    """Return run id, task id, map index and state of task instances.

    :param filters: ``dag_id``, and ``task_ids``, ``run_ids``, ``logical_dates``, ``map_index``, of which empty ones do
        not filter.
    """
    columns = (task_instance.c.run_id, task_instance.c.task_id, task_instance.c.map_index, task_instance.c.state)
    return (await session.execute(select(*columns).where(*_matching(**filters)))).all()


_BREADCRUMBS = (
    select(
        task_instance.c.task_id,
        task_instance.c.map_index,
        task_instance.c.state,
        task_instance.c.operator,
        task_instance.c.duration,
    )
    .where(
        task_instance.c.dag_id == bindparam("dag_id"),
        task_instance.c.run_id == bindparam("run_id"),
        task_instance.c.state.in_(TERMINAL),
    )
    .order_by(task_instance.c.task_id, task_instance.c.map_index)
)


async def breadcrumbs(session: Session, *, dag_id: str, run_id: str) -> Sequence[AnyRow]:
    """Return the ended task instances of a run."""
    return (await session.execute(_BREADCRUMBS, {"dag_id": dag_id, "run_id": run_id})).all()


_asking = dag_run.alias("asking")
_ASKING_WHEN = (
    select(date_of(_asking).label("date"), _asking.c.id)
    .join(task_instance, (task_instance.c.dag_id == _asking.c.dag_id) & (task_instance.c.run_id == _asking.c.run_id))
    .where(task_instance.c.id == bindparam("asker"))
    .subquery("asking_when")
)
_PREVIOUS = (
    select(
        task_instance.c.task_id,
        task_instance.c.dag_id,
        task_instance.c.run_id,
        dag_run.c.logical_date,
        task_instance.c.start_date,
        task_instance.c.end_date,
        task_instance.c.state,
        task_instance.c.try_number,
        task_instance.c.map_index,
        task_instance.c.duration,
    )
    .join(dag_run, (dag_run.c.dag_id == task_instance.c.dag_id) & (dag_run.c.run_id == task_instance.c.run_id))
    .where(
        task_instance.c.dag_id == bindparam("dag_id"),
        task_instance.c.task_id == bindparam("task_id"),
        task_instance.c.map_index == bindparam("map_index"),
    )
    .order_by(date_of(dag_run).desc(), dag_run.c.id.desc())
    .limit(1)
)
_PREVIOUS_BY_DATE = _PREVIOUS.where(dag_run.c.logical_date < bindparam("before"))
_PREVIOUS_TO_ASKING = _PREVIOUS.outerjoin(_ASKING_WHEN, true()).where(
    _ASKING_WHEN.c.id.is_(None) | (tuple_(date_of(dag_run), dag_run.c.id) < tuple_(_ASKING_WHEN.c.date, _ASKING_WHEN.c.id))
)


async def previous(
    session: Session,
    *,
    dag_id: str,
    task_id: str,
    map_index: int,
    before: datetime | None,
    asker: uuid.UUID,
    state: str | None,
) -> AnyRow | None:
    """Return the newest task instance of a task before a date, or before the run of the task instance that asks.

    :param before: only runs of an earlier logical date.
    :param asker: the task instance that asks: without ``before`` only runs that are earlier than its own, by
        :func:`~app.db.tables.date_of`, which is that of every run.
    :param state: only in this state.
    """
    statement = _PREVIOUS_TO_ASKING if before is None else _PREVIOUS_BY_DATE
    if state is not None:
        statement = statement.where(task_instance.c.state == bindparam("state"))
    keys = {"dag_id": dag_id, "task_id": task_id, "map_index": map_index}
    return (await session.execute(statement, {**keys, "before": before, "asker": asker, "state": state})).one_or_none()


def uuid7() -> uuid.UUID:
    """Return a time-ordered UUID (RFC 9562, version 7), as Airflow gives each try."""
    milliseconds = time.time_ns() // 1_000_000
    random = uuid.uuid4().int
    return uuid.UUID(
        int=(milliseconds << 80) | (0x7 << 76) | ((random >> 64 & 0xFFF) << 64) | (0b10 << 62) | (random & (1 << 62) - 1)
    )
