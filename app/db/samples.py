"""What there is in a metadata database to rehearse with: names and keys, never values."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import ColumnElement, MetaData, Update, bindparam, func, select, text, update

from app.db.session import Session
from app.db.storage import Storage
from app.db.tables import AnyRow, asset, asset_active, connection, dag, dag_run, variable

_DAGS = select(dag.c.dag_id).where(dag.c.is_stale.is_(False))
_VARIABLES = select(variable.c.key.label("name"), variable.c.team_name).order_by(variable.c.key)
_CONNECTIONS = select(connection.c.conn_id.label("name"), connection.c.team_name).order_by(connection.c.conn_id)
_ASSETS = (
    select(asset.c.name, asset.c.uri)
    .join(asset_active, (asset_active.c.name == asset.c.name) & (asset_active.c.uri == asset.c.uri))
    .order_by(asset.c.id.desc())
    .limit(bindparam("most"))
)
# What a Dag's newest run has, by the keys of its tables, however large they are. A run without a date is as good: by the
# order of ids, those of a Dag that has no run would be looked for among all.
_RUN = text("SELECT run_id, logical_date FROM dag_run WHERE dag_id = :dag_id ORDER BY logical_date DESC LIMIT 1")


async def dags(session: Session, *, most: int | None) -> list[str]:
    """Return the ids of the Dags that there are, in order.

    :param most: of so many, the same ones each time; None for all.
    """
    if most is None:
        return list(await session.scalars(_DAGS.order_by(dag.c.dag_id)))
    return sorted(await session.scalars(_DAGS.order_by(func.md5(dag.c.dag_id)).limit(most)))


async def variables(session: Session) -> Sequence[AnyRow]:
    """Return the name and the team of every stored variable."""
    return (await session.execute(_VARIABLES)).all()


async def connections(session: Session) -> Sequence[AnyRow]:
    """Return the id, as ``name``, and the team of every stored connection."""
    return (await session.execute(_CONNECTIONS)).all()


async def assets(session: Session, *, most: int) -> Sequence[AnyRow]:
    """Return name and URI of the newest active assets."""
    return (await session.execute(_ASSETS, {"most": most})).all()


async def newest_run(session: Session, *, dag_id: str) -> AnyRow | None:
    """Return the id and the logical date of a Dag's newest run, or of one without a date, or None."""
    return (await session.execute(_RUN, {"dag_id": dag_id})).one_or_none()


async def tasks(session: Session, storage: Storage, *, dag_id: str, run_id: str, most: int) -> Sequence[AnyRow]:
    """Return id, task id and map index of the last tries of a run's tasks, and what :func:`queue_one` asks for."""
    row = storage.schema.task_instance
    key = [row.c[name].label(f"key_{name}") for name in storage.schema.key]
    found = (
        select(row.c.id, row.c.task_id, storage.schema.map_index(row).label("map_index"), *key)
        .where(row.c.dag_id == dag_id, row.c.run_id == run_id, storage.tries.live)
        .order_by(row.c.task_id, row.c.map_index)
        .limit(most)
    )
    return (await session.execute(found)).all()


async def xcoms(session: Session, storage: Storage, *, dag_id: str, run_id: str, most: int) -> Sequence[AnyRow]:
    """Return task id, map index and key of XComs of a run."""
    of_run = select(dag_run.c.id).where(dag_run.c.dag_id == dag_id, dag_run.c.run_id == run_id).scalar_subquery()
    rows = storage.xcoms.rows
    found = (
        select(rows.c.task_id, rows.c.map_index.label("map_index"), rows.c.key)
        .where(rows.c.dag_id == dag_id, rows.c.run_id == run_id, rows.c.dag_run_id == of_run)
        .order_by(rows.c.task_id, rows.c.map_index, rows.c.key)
        .limit(most)
    )
    return (await session.execute(found)).all()


async def queue(session: Session, storage: Storage, *, dag_id: str, run_id: str) -> None:
    """Queue all tasks of a run on a stage."""
    row = storage.schema.task_instance
    await session.execute(_queued(storage, row.c.dag_id == dag_id, row.c.run_id == run_id, tries=1))


async def queue_one(session: Session, storage: Storage, *, task: AnyRow, tries: int) -> uuid.UUID:
    """Queue a task of a run on a stage, and return its id.

    :param task: from :func:`tasks`.
    :param tries: how many tries this begins: none when it resumes or was rescheduled.
    """
    row = storage.schema.task_instance
    same = [row.c[name] == getattr(task, f"key_{name}") for name in storage.schema.key]
    statement = _queued(storage, *same, tries=tries)
    ti_id: uuid.UUID = await session.scalar(statement.returning(*statement.table.primary_key))
    return ti_id


def _queued(storage: Storage, *where: ColumnElement[bool], tries: int) -> Update:
    """Return the scheduler's part, on a stage: there alone task instances are a temporary table."""
    row = storage.schema.task_instance
    on_stage = row.to_metadata(MetaData(), schema="pg_temp")
    before = on_stage.c.try_number
    number = func.greatest(before, 1) if storage.tries.counts_ahead else before + tries
    last = select(row.c.id).where(*where, storage.tries.live)
    values = {"state": "queued", "queued_dttm": func.now(), "try_number": number}
    return update(on_stage).where(on_stage.c.id.in_(last)).values(values)
