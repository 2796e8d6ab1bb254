"""Dags, and the few things that we read from their serialized form in the database."""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, bindparam, cast, exists, func, select, text, true
from sqlalchemy.dialects.postgresql import aggregate_order_by

from app.db.session import Session
from app.db.tables import AnyRow, as_text, dag, dag_run, dag_tag, rows_of, serialized_dag, task_instance

_TAGS = (
    select(func.array_agg(aggregate_order_by(dag_tag.c.name, dag_tag.c.name)))
    .where(dag_tag.c.dag_id == dag.c.dag_id)
    .scalar_subquery()
    .label("tags")
)
_BY_ID = select(
    dag.c.dag_id,
    dag.c.is_paused,
    dag.c.bundle_name,
    dag.c.bundle_version,
    dag.c.relative_fileloc,
    dag.c.owners,
    dag.c.next_dagrun,
    _TAGS,
).where(dag.c.dag_id == bindparam("dag_id"))


async def get(session: Session, *, dag_id: str) -> AnyRow | None:
    """Return a Dag with its tags, or None."""
    return (await session.execute(_BY_ID, {"dag_id": dag_id})).one_or_none()


def _part(path: str) -> ColumnElement[Any]:
    """Select a part of the serialized Dag as JSON text, so that PostgreSQL sends no more than that."""
    return cast(func.jsonb_path_query_first(serialized_dag.c.data, text(f"'{path}'::jsonpath")), Text)


_any_version = serialized_dag.alias("any_version")


def _is_newest(*where: ColumnElement[bool]) -> ColumnElement[bool]:
    """Match the newest of several versions, chosen before anything is read out of one: a Dag may have hundreds, all large.

    :param where: which ones, of ``_any_version``.
    """
    newest_first = _any_version.c.created_at.desc(), _any_version.c.id.desc()
    newest = select(_any_version.c.id).where(*where).order_by(*newest_first).limit(1)
    return serialized_dag.c.id == newest.correlate_except(_any_version).scalar_subquery()


def _from_newest_version(*columns: ColumnElement[Any]) -> Select[Any]:
    """Select from a Dag's newest version; a compressed one comes whole beside the columns."""
    is_newest = _is_newest(_any_version.c.dag_id == bindparam("dag_id"))
    return select(*columns, serialized_dag.c.data_compressed).where(is_newest)


_TASK_GROUP = _from_newest_version(_part("$.dag.task_group").label("part"))
_WHOLE = _from_newest_version(serialized_dag.c.dag_version_id, as_text(serialized_dag.c.data))


async def root_task_group(session: Session, *, dag_id: str) -> dict[str, Any] | None:
    """Return the serialized root task group of a Dag's newest version, or None when there is no such Dag."""
    row = (await session.execute(_TASK_GROUP, {"dag_id": dag_id})).one_or_none()
    return None if row is None else _decoded(row, "task_group")


_newest = (
    select(serialized_dag.c.dag_version_id, as_text(serialized_dag.c.data), serialized_dag.c.data_compressed)
    .where(_is_newest(_any_version.c.dag_id == dag.c.dag_id))
    .lateral("newest")
)
_TO_CLEAR = (
    select(dag.c.has_import_errors, dag.c.allowed_run_types, dag.c.bundle_name, dag.c.bundle_version, _newest)
    .select_from(dag.outerjoin(_newest, true()))
    .where(dag.c.dag_id == bindparam("dag_id"), dag.c.is_stale.is_(False))
)
_is_of_asker = (dag_run.c.dag_id == task_instance.c.dag_id) & (dag_run.c.run_id == task_instance.c.run_id)
_TO_TRIGGER = _TO_CLEAR.add_columns(
    exists().where(dag_run.c.dag_id == dag.c.dag_id, dag_run.c.run_id == bindparam("run_id")).label("has_run"),
    select(dag_run.c.triggering_user_name)
    .join(task_instance, _is_of_asker)
    .where(task_instance.c.id == bindparam("asker"))
    .scalar_subquery()
    .label("asker_s_user"),
)


async def to_clear(session: Session, *, dag_id: str) -> AnyRow | None:
    """Return what decides whether runs of a Dag may be made or cleared, and its newest version; None when it is gone."""
    return (await session.execute(_TO_CLEAR, {"dag_id": dag_id})).one_or_none()


async def to_trigger(session: Session, *, dag_id: str, run_id: str, asker: uuid.UUID) -> AnyRow | None:
    """Return what :func:`to_clear` does, whether the Dag has such a run, and who triggered that of a task instance.

    :param asker: the id of the task instance; ``asker_s_user`` is what the runs that it triggers inherit.
    """
    return (await session.execute(_TO_TRIGGER, {"dag_id": dag_id, "run_id": run_id, "asker": asker})).one_or_none()


def newest_of(row: AnyRow) -> tuple[uuid.UUID, dict[str, Any]] | None:
    """Return the id and the whole of the newest version of a Dag, from :func:`to_clear`; None: it was never serialized."""
    return None if row.dag_version_id is None else _version(row)


_asked = rows_of("asked", dag_id=Text)
_newest_timetable = (
    select(_part("$.dag.timetable").label("part"), serialized_dag.c.data_compressed)
    .where(_is_newest(_any_version.c.dag_id == _asked.c.dag_id))
    .lateral("newest")
)
_TIMETABLES = select(_asked.c.dag_id, _newest_timetable).select_from(_asked.join(_newest_timetable, true()))


async def timetables(session: Session, *, dag_ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the serialized timetables of Dags' newest versions, of those that were ever serialized."""
    found = await session.execute(_TIMETABLES, {"dag_ids": sorted(dag_ids)})
    return {row.dag_id: _decoded(row, "timetable") for row in found}


async def newest_version(session: Session, *, dag_id: str) -> tuple[uuid.UUID, dict[str, Any]] | None:
    """Return the id and the whole serialized form of a Dag's newest version, or None when it was never serialized."""
    return _version((await session.execute(_WHOLE, {"dag_id": dag_id})).one_or_none())


def _version(row: AnyRow | None) -> tuple[uuid.UUID, dict[str, Any]] | None:
    if row is None:
        return None
    text_of = zlib.decompress(row.data_compressed) if row.data_compressed else row.data
    return row.dag_version_id, json.loads(text_of)


_of_run = (_any_version.c.dag_id == dag_run.c.dag_id) & (
    dag_run.c.bundle_version.is_(None)
    | dag_run.c.created_dag_version_id.is_(None)
    | (_any_version.c.dag_version_id == dag_run.c.created_dag_version_id)
)


def _from_version_of_run(*columns: ColumnElement[Any]) -> Select[Any]:
    """Select from the Dag version that a run has: that it was made from in a versioned bundle, else the newest."""
    this_run = dag_run.c.dag_id == bindparam("dag_id"), dag_run.c.run_id == bindparam("run_id")
    return select(*columns, serialized_dag.c.data_compressed).where(_is_newest(_of_run, *this_run))


_TASKS_OF_RUN = _from_version_of_run(_part("$.dag.tasks").label("part"))
_VERSION_OF_RUN = _from_version_of_run(serialized_dag.c.dag_version_id, as_text(serialized_dag.c.data))


async def version_of_run(session: Session, *, dag_id: str, run_id: str) -> tuple[uuid.UUID, dict[str, Any]] | None:
    """Return the id and the whole serialized form of the version that a run has, or None when it was never serialized."""
    return _version((await session.execute(_VERSION_OF_RUN, {"dag_id": dag_id, "run_id": run_id})).one_or_none())


async def tasks_of_run(session: Session, *, dag_id: str, run_id: str) -> dict[str, dict[str, Any]]:
    """Return the serialized tasks, by id, of the Dag version that a run has; empty when it was never serialized."""
    row = (await session.execute(_TASKS_OF_RUN, {"dag_id": dag_id, "run_id": run_id})).one_or_none()
    tasks = (_decoded(row, "tasks") if row is not None else None) or []
    return {task["__var"]["task_id"]: task["__var"] for task in tasks}


_OF_VERSION = select(
    serialized_dag.c.dag_version_id, as_text(serialized_dag.c.data), serialized_dag.c.data_compressed
).where(serialized_dag.c.dag_version_id == bindparam("version"))


async def version(session: Session, *, pk: uuid.UUID | None) -> dict[str, Any] | None:
    """Return the whole serialized form of a version of a Dag, or None when there is none."""
    found = _version((await session.execute(_OF_VERSION, {"version": pk})).one_or_none())
    return None if found is None else found[1]


_TASKS_OF_VERSION = select(_part("$.dag.tasks").label("part"), serialized_dag.c.data_compressed).where(
    serialized_dag.c.dag_version_id == bindparam("version")
)


async def task_of_version(session: Session, *, version: uuid.UUID | None, task_id: str) -> dict[str, Any] | None:
    """Return a serialized task of a version of its Dag, or None when there is none."""
    row = (await session.execute(_TASKS_OF_VERSION, {"version": version})).one_or_none()
    tasks = (_decoded(row, "tasks") if row is not None else None) or []
    return next((task["__var"] for task in tasks if task["__var"]["task_id"] == task_id), None)


def _decoded(row: AnyRow, part: str) -> Any:
    """Decode a part of a serialized Dag; a compressed one (``[core] compress_serialized_dags``) comes whole."""
    if row.data_compressed:
        return json.loads(zlib.decompress(row.data_compressed))["dag"][part]
    return json.loads(row.part) if row.part else None
