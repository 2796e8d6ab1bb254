"""Values by key: those that a task keeps between its tries, and those that belong to an asset.

Airflow's scheduler deletes what has expired; the Task SDK computes when, and limits the size of a value.
"""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import ColumnElement, and_, bindparam, delete, exists, literal, select
from sqlalchemy.dialects.postgresql import insert

from app.db.session import Session
from app.db.tables import AnyRow, asset_state_store, dag_run, task_instance, task_state_store


def _same_task() -> ColumnElement[bool]:
    names = ("dag_id", "run_id", "task_id", "map_index")
    return and_(*(task_state_store.c[name] == task_instance.c[name] for name in names))


_OF_TASK = (
    select(task_state_store.c.value)
    .select_from(task_instance)
    .outerjoin(task_state_store, and_(_same_task(), task_state_store.c.key == bindparam("name")))
    .where(task_instance.c.id == bindparam("pk"))
)
_insert = insert(task_state_store).from_select(
    ["dag_run_id", "dag_id", "run_id", "task_id", "map_index", "key", "value", "updated_at", "expires_at"],
    select(
        dag_run.c.id,
        task_instance.c.dag_id,
        task_instance.c.run_id,
        task_instance.c.task_id,
        task_instance.c.map_index,
        bindparam("name", type_=task_state_store.c.key.type),
        bindparam("text", type_=task_state_store.c.value.type),
        bindparam("now", type_=task_state_store.c.updated_at.type),
        bindparam("expires_at", type_=task_state_store.c.expires_at.type),
    )
    .join(dag_run, and_(dag_run.c.dag_id == task_instance.c.dag_id, dag_run.c.run_id == task_instance.c.run_id))
    .where(task_instance.c.id == bindparam("pk")),
)
_PUT = _insert.on_conflict_do_update(
    index_elements=["dag_run_id", "task_id", "map_index", "key"],
    set_={name: _insert.excluded[name] for name in ("value", "updated_at", "expires_at")},
).returning(literal(1))
_KNOWN = select(exists().where(task_instance.c.id == bindparam("pk")))


async def of_task(session: Session, *, ti_id: uuid.UUID, key: str) -> AnyRow | None:
    """Return a row with the value, which is None when the task has no such key; or None when there is no such task."""
    return (await session.execute(_OF_TASK, {"pk": ti_id, "name": key})).one_or_none()


async def put_for_task(
    session: Session, *, ti_id: uuid.UUID, key: str, value: str, expires_at: datetime | None, now: datetime
) -> bool:
    """Set a task's value, JSON as text, in one statement; say whether there is such a task instance."""
    parameters = {"pk": ti_id, "name": key, "text": value, "expires_at": expires_at, "now": now}
    return await session.scalar(_PUT, parameters) is not None


async def remove_for_task(session: Session, *, ti_id: uuid.UUID, key: str | None = None) -> bool:
    """Delete a task's value, or all of its values; say whether there is such a task instance."""
    statement = delete(task_state_store).where(_same_task(), task_instance.c.id == ti_id)
    await session.execute(statement if key is None else statement.where(task_state_store.c.key == key))
    return bool(await session.scalar(_KNOWN, {"pk": ti_id}))


async def of_asset(session: Session, *, asset_pk: int, key: str) -> str | None:
    """Return an asset's value, JSON as text, or None."""
    statement = select(asset_state_store.c.value).where(
        asset_state_store.c.asset_id == asset_pk, asset_state_store.c.key == key
    )
    found: str | None = await session.scalar(statement)
    return found


async def put_for_asset(session: Session, *, asset_pk: int, key: str, value: str, writer: AnyRow, now: datetime) -> None:
    """Set an asset's value in one statement.

    :param value: JSON as text.
    :param writer: dag_id, run_id, task_id and map_index of the task instance that sets it.
    """
    names = ("dag_id", "run_id", "task_id", "map_index")
    changed = {
        "value": value,
        "updated_at": now,
        "last_updated_by_kind": "task",
        **{f"last_updated_by_{name}": getattr(writer, name) for name in names},
    }
    statement = insert(asset_state_store).values(asset_id=asset_pk, key=key, **changed)
    await session.execute(statement.on_conflict_do_update(index_elements=["asset_id", "key"], set_=changed))


async def remove_for_asset(session: Session, *, asset_pk: int, key: str | None = None) -> None:
    """Delete an asset's value, or all of its values."""
    statement = delete(asset_state_store).where(asset_state_store.c.asset_id == asset_pk)
    await session.execute(statement if key is None else statement.where(asset_state_store.c.key == key))
