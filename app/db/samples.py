"""What there is in a metadata database to rehearse with: names and keys, never values."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy import bindparam, func, select, text

from app.db.session import Session
from app.db.tables import AnyRow, asset, asset_active, connection, dag, variable

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
_TASKS = text("""
    SELECT id, task_id, map_index FROM task_instance WHERE dag_id = :dag_id AND run_id = :run_id
     ORDER BY task_id, map_index LIMIT :most
""")
_XCOMS = text("""
    SELECT x.task_id, x.map_index, x.key FROM xcom x JOIN dag_run r ON r.id = x.dag_run_id
     WHERE r.dag_id = :dag_id AND r.run_id = :run_id ORDER BY x.task_id, x.map_index, x.key LIMIT :most
""")
# The scheduler's part, on a stage: there alone task instances are a temporary table.
_QUEUE = text("""
    UPDATE pg_temp.task_instance SET state = 'queued', queued_dttm = now(), try_number = try_number + 1
     WHERE dag_id = :dag_id AND run_id = :run_id
""")
_QUEUE_ONE = text("""
    UPDATE pg_temp.task_instance SET state = 'queued', queued_dttm = now(), try_number = try_number + :tries
     WHERE dag_id = :dag_id AND run_id = :run_id AND task_id = :task_id AND map_index = :map_index RETURNING id
""")


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


async def tasks(session: Session, *, dag_id: str, run_id: str, most: int) -> Sequence[AnyRow]:
    """Return id, task id and map index of task instances of a run."""
    return (await session.execute(_TASKS, {"dag_id": dag_id, "run_id": run_id, "most": most})).all()


async def xcoms(session: Session, *, dag_id: str, run_id: str, most: int) -> Sequence[AnyRow]:
    """Return task id, map index and key of XComs of a run."""
    return (await session.execute(_XCOMS, {"dag_id": dag_id, "run_id": run_id, "most": most})).all()


async def queue(session: Session, *, dag_id: str, run_id: str) -> None:
    """Queue all tasks of a run on a stage."""
    await session.execute(_QUEUE, {"dag_id": dag_id, "run_id": run_id})


async def queue_one(session: Session, *, dag_id: str, run_id: str, task_id: str, map_index: int, tries: int) -> uuid.UUID:
    """Queue a task of a run on a stage, and return its id.

    :param tries: how many tries this begins: none when it resumes or was rescheduled.
    """
    which = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index}
    ti_id: uuid.UUID = await session.scalar(_QUEUE_ONE, {**which, "tries": tries})
    return ti_id
