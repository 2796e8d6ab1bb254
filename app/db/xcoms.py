"""XComs. Values pass as the JSON text that PostgreSQL stores: they are never decoded here, so nothing is lost on the way."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Insert, Select, Text, bindparam, delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert

from app.db.session import Session
from app.db.tables import AnyRow, as_text, dag_run, from_text, task_map, xcom
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


def _matching(*, include_prior_dates: bool = False) -> Select[Any]:
    """Select values under an :class:`XComKey`: of its run alone, or of every run up to its date."""
    statement = select(as_text(xcom.c.value)).join(dag_run, dag_run.c.id == xcom.c.dag_run_id).where(*_of_task)
    if not include_prior_dates:
        return statement.where(xcom.c.run_id == bindparam("run_id"))
    own = dag_run.alias("own")
    own_date = (
        select(func.coalesce(own.c.logical_date, own.c.run_after))
        .where(own.c.run_id == bindparam("run_id"), own.c.dag_id == bindparam("dag_id"))
        .scalar_subquery()
    )
    return statement.where(func.coalesce(dag_run.c.logical_date, dag_run.c.run_after) <= own_date)


def _newest(*, include_prior_dates: bool) -> Select[Any]:
    return (
        _matching(include_prior_dates=include_prior_dates)
        .where(xcom.c.map_index == bindparam("at_index"))
        .order_by(dag_run.c.logical_date.desc(), xcom.c.timestamp.desc())
        .limit(1)
    )


_NEWEST_OF_RUN, _NEWEST_OF_ALL = _newest(include_prior_dates=False), _newest(include_prior_dates=True)


async def get(session: Session, *, key: XComKey, map_index: int, include_prior_dates: bool = False) -> AnyRow | None:
    """Return the newest value under ``key`` for one map index, as JSON text in the row's ``value``, or None."""
    parameters = {**key._asdict(), "at_index": map_index}
    return (await session.execute(_NEWEST_OF_ALL if include_prior_dates else _NEWEST_OF_RUN, parameters)).one_or_none()


async def at(
    session: Session, *, key: XComKey, offset: int, include_prior_dates: bool = False, not_null: bool = False
) -> AnyRow | None:
    """Return one value in map-index order; a negative offset counts from the end, as in Python.

    :param not_null: whether values that are SQL NULL are passed over.
    """
    statement = _matching(include_prior_dates=include_prior_dates)
    if not_null:
        statement = statement.where(xcom.c.value.is_not(None))
    in_order = xcom.c.map_index.asc() if offset >= 0 else xcom.c.map_index.desc()
    statement = statement.order_by(in_order).offset(offset if offset >= 0 else -1 - offset).limit(1)
    row: AnyRow | None = (await session.execute(statement, key._asdict())).one_or_none()
    return row


async def sliced(
    session: Session,
    *,
    key: XComKey,
    start: int | None,
    stop: int | None,
    step: int | None,
    include_prior_dates: bool,
) -> list[str | None]:
    """Return the values that the slice ``[start:stop:step]`` takes in map-index order, as JSON texts.

    The bounds are resolved with Python's own rules. Only when one of them counts from the end must the length be asked
    for first.

    :param step: 0 means 1, as Airflow has it.
    """
    matching = _matching(include_prior_dates=include_prior_dates)
    step = step or 1
    length = UNBOUNDED
    if step < 0 or (start or 0) < 0 or (stop or 0) < 0:
        length = await session.scalar(select(func.count()).select_from(matching.subquery()), key._asdict()) or 0
    indices = range(*slice(start, stop, step).indices(length))
    if not indices:
        return []
    first, last = sorted((indices[0], indices[-1]))
    statement = matching.order_by(xcom.c.map_index.asc()).offset(first).limit(last - first + 1)
    return list(await session.scalars(statement, key._asdict()))[::step]


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
        "value": from_text(bindparam("json")),
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
    value: str,
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


_DELETE = delete(xcom).where(*_of_task, xcom.c.run_id == bindparam("run_id"), xcom.c.map_index == bindparam("at_index"))


async def remove(session: Session, *, key: XComKey, map_index: int) -> None:
    """Delete the value of one map index, if there is one."""
    await session.execute(_DELETE, {**key._asdict(), "at_index": map_index})
