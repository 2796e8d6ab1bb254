"""XComs. Values pass as the JSON text that PostgreSQL stores: they are never decoded here, so nothing is lost on the way."""

from __future__ import annotations

import uuid
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Insert, Select, Text, bindparam, delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert

from app.db.session import Session
from app.db.tables import AnyRow, as_bytes, dag_run, date_of, from_bytes, from_text, task_instance, task_map, xcom
from app.releases import Revision

UNBOUNDED = 2**31 - 1  # more than there can be: a map index is a 4-byte integer


class XComKey(NamedTuple):
    """What names the XComs of one task under one key."""

    dag_id: str
    run_id: str
    task_id: str
    key: str


_of_task = (
    xcom.c.key == bindparam("key"),
    xcom.c.task_id == bindparam("task_id"),
    xcom.c.dag_id == bindparam("dag_id"),
)


_named, _asking = dag_run.alias("named"), dag_run.alias("asking")
_NAMED_DATE = (
    select(date_of(_named))
    .where(_named.c.dag_id == bindparam("dag_id"), _named.c.run_id == bindparam("run_id"))
    .scalar_subquery()
)
_ASKING_DATE = (
    select(date_of(_asking))
    .join(task_instance, (task_instance.c.dag_id == _asking.c.dag_id) & (task_instance.c.run_id == _asking.c.run_id))
    .where(task_instance.c.id == bindparam("asker"))
    .scalar_subquery()
)


def _matching(*, include_prior_dates: bool = False) -> Select[Any]:
    """Select values under an :class:`XComKey`: of its run alone, or of every run up to that run's date.

    A task that pulls from another Dag names that Dag and its own run, as the Task SDK does: when the Dag has no such run, it
    is the date of the asking task's run that counts.
    """
    statement = select(as_bytes(xcom.c.value)).join(dag_run, dag_run.c.id == xcom.c.dag_run_id).where(*_of_task)
    if not include_prior_dates:
        return statement.where(xcom.c.run_id == bindparam("run_id"))
    return statement.where(date_of(dag_run) <= func.coalesce(_NAMED_DATE, _ASKING_DATE))


_NEWEST_FIRST = (date_of(dag_run).desc(), xcom.c.timestamp.desc(), dag_run.c.id.desc())
_OLDEST_FIRST = (date_of(dag_run).asc(), xcom.c.timestamp.asc(), dag_run.c.id.asc())
_IN_ORDER = (xcom.c.map_index.asc(), *_OLDEST_FIRST)
_BACKWARDS = (xcom.c.map_index.desc(), *_NEWEST_FIRST)
_at_index = xcom.c.map_index == bindparam("at_index")
_OF_RUN = _matching().where(_at_index)
_NEWEST = _matching(include_prior_dates=True).where(_at_index).order_by(*_NEWEST_FIRST).limit(1)


async def get(session: Session, *, key: XComKey, map_index: int, asker: uuid.UUID | None = None) -> AnyRow | None:
    """Return the newest value under ``key`` for one map index, as JSON text in the row's ``value``, or None.

    :param asker: the task instance that asks for prior dates too; None: for that run's values alone.
    """
    parameters = {**key._asdict(), "at_index": map_index, "asker": asker}
    return (await session.execute(_OF_RUN if asker is None else _NEWEST, parameters)).one_or_none()


async def at(
    session: Session, *, key: XComKey, offset: int, asker: uuid.UUID | None = None, not_null: bool = False
) -> AnyRow | None:
    """Return one value in map-index order, older runs first; a negative offset counts from the end, as in Python.

    :param asker: the task instance that asks for prior dates too; None: for that run's values alone.
    :param not_null: whether values that are SQL NULL are passed over.
    """
    statement = _matching(include_prior_dates=asker is not None)
    if not_null:
        statement = statement.where(xcom.c.value.is_not(None))
    in_order = _IN_ORDER if offset >= 0 else _BACKWARDS
    statement = statement.order_by(*in_order).offset(offset if offset >= 0 else -1 - offset).limit(1)
    row: AnyRow | None = (await session.execute(statement, {**key._asdict(), "asker": asker})).one_or_none()
    return row


async def sliced(
    session: Session,
    *,
    key: XComKey,
    start: int | None,
    stop: int | None,
    step: int | None,
    asker: uuid.UUID | None = None,
) -> list[bytes | None]:
    """Return the values that the slice ``[start:stop:step]`` takes in map-index order, older runs first, as JSON texts.

    The bounds are resolved with Python's own rules. Only when one of them counts from the end must the length be asked
    for first.

    :param step: 0 means 1, as Airflow has it.
    :param asker: the task instance that asks for prior dates too; None: for that run's values alone.
    """
    matching, parameters = _matching(include_prior_dates=asker is not None), {**key._asdict(), "asker": asker}
    step = step or 1
    length = UNBOUNDED
    if step < 0 or (start or 0) < 0 or (stop or 0) < 0:
        length = await session.scalar(select(func.count()).select_from(matching.subquery()), parameters) or 0
    indices = range(*slice(start, stop, step).indices(length))
    if not indices:
        return []
    first, last = sorted((indices[0], indices[-1]))
    statement = matching.order_by(*_IN_ORDER).offset(first).limit(last - first + 1)
    return list(await session.scalars(statement, parameters))[::step]


_COUNT = select(func.count()).select_from(_matching().subquery())


async def count(session: Session, *, key: XComKey) -> int:
    """Count the map indexes that have a value under ``key``."""
    return await session.scalar(_COUNT, key._asdict()) or 0


@lru_cache(maxsize=2)
def _put(missing: frozenset[str]) -> Insert:
    """Return the statement that sets a value, on a revision whose table lacks these columns."""
    values = {
        "dag_run_id": dag_run.c.id,
        "task_id": bindparam("of_task", type_=Text),
        "map_index": bindparam("at_index"),
        "key": bindparam("under_key", type_=Text),
        "dag_id": bindparam("dag_id", type_=Text),
        "run_id": bindparam("run_id", type_=Text),
        "value": from_bytes(bindparam("json")),
        "timestamp": bindparam("now"),
        "dag_result": bindparam("dag_result"),
    }
    source = {name: value for name, value in values.items() if name not in missing}
    selected = select(*source.values()).where(
        dag_run.c.dag_id == bindparam("dag_id"), dag_run.c.run_id == bindparam("run_id")
    )
    statement = insert(xcom).from_select(list(source), selected)
    renewed = {name: statement.excluded[name] for name in source if name in ("value", "timestamp", "dag_result")}
    key = ["dag_run_id", "task_id", "map_index", "key"]
    return statement.on_conflict_do_update(index_elements=key, set_=renewed).returning(xcom.c.dag_run_id)


async def put(
    session: Session,
    *,
    key: XComKey,
    map_index: int,
    value: bytes,
    dag_result: bool,
    now: datetime,
    revision: Revision,
) -> bool:
    """Set a value in one statement; setting it again replaces it.

    :param value: JSON text.
    :returns: whether the run exists; without it nothing is written.
    """
    parameters = {
        "of_task": key.task_id,
        "at_index": map_index,
        "under_key": key.key,
        "dag_id": key.dag_id,
        "run_id": key.run_id,
        "json": value,
        "now": now,
        "dag_result": dag_result,
    }
    return await session.scalar(_put(revision.missing_columns.get("xcom", frozenset())), parameters) is not None


_map_insert = insert(task_map).values(keys=from_text(literal("null")))
_PUT_MAPPED_LENGTH = _map_insert.on_conflict_do_update(
    index_elements=["dag_id", "task_id", "run_id", "map_index"],
    set_={name: _map_insert.excluded[name] for name in ("length", "keys")},
)


async def put_mapped_length(session: Session, *, key: XComKey, map_index: int, length: int) -> None:
    """Record into how many task instances a value expands."""
    values = {"dag_id": key.dag_id, "task_id": key.task_id, "run_id": key.run_id, "map_index": map_index, "length": length}
    await session.execute(_PUT_MAPPED_LENGTH, values)


_MAPPED_LENGTHS = select(task_map.c.task_id, task_map.c.length).where(
    task_map.c.dag_id == bindparam("dag_id"), task_map.c.run_id == bindparam("run_id"), task_map.c.map_index < 0
)


async def mapped_lengths(session: Session, *, dag_id: str, run_id: str) -> dict[str, int]:
    """Return, by the id of each unmapped task of a run that has returned such a value, into how many it expands."""
    rows = await session.execute(_MAPPED_LENGTHS, {"dag_id": dag_id, "run_id": run_id})
    return {row.task_id: row.length for row in rows}


_DELETE = delete(xcom).where(*_of_task, xcom.c.run_id == bindparam("run_id"), xcom.c.map_index == bindparam("at_index"))


async def remove(session: Session, *, key: XComKey, map_index: int) -> None:
    """Delete the value of one map index, if there is one."""
    await session.execute(_DELETE, {**key._asdict(), "at_index": map_index})
