"""Values by key: those that a task keeps between its tries, and those that belong to an asset.

Airflow's scheduler deletes what has expired; the Task SDK computes when, and limits the size of a value.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import Column, DateTime, Integer, String, and_, bindparam, delete, exists, literal, select
from sqlalchemy.dialects.postgresql import insert

from app.db.recording import Along, Part
from app.db.schema import Schema, key_columns
from app.db.session import Session
from app.db.tables import AnyRow, asset_state_store, dag_run
from app.db.tries import Tries


class TaskStateStore:
    """The values of a release's tasks: by what names a task instance across its tries, found by the id of the last one."""

    def __init__(self, schema: Schema, tries: Tries) -> None:
        row, texts = schema.task_instance, [Column(name, String) for name in ("key", "value")]
        moments = [Column(name, DateTime(timezone=True)) for name in ("updated_at", "expires_at")]
        pk, run_pk = Column("id", Integer, primary_key=True), Column("dag_run_id", Integer)
        store = schema.table("task_state_store", pk, run_pk, *key_columns(), *texts, *moments)
        names = schema.key
        of_run = [name for name in names if name not in ("dag_id", "run_id")]
        same_task = and_(*(store.c[name] == row.c[name] for name in names))
        is_this = (row.c.id == bindparam("pk")) & tries.live
        self._get = (
            select(store.c.value)
            .select_from(row)
            .outerjoin(store, same_task & (store.c.key == bindparam("name")))
            .where(is_this)
        )
        put = insert(store).from_select(
            ["dag_run_id", *names, "key", "value", "updated_at", "expires_at"],
            select(
                dag_run.c.id,
                *(row.c[name] for name in names),
                bindparam("name", type_=String),
                bindparam("text", type_=String),
                bindparam("now", type_=store.c.updated_at.type),
                bindparam("expires_at", type_=store.c.expires_at.type),
            )
            .join(dag_run, (dag_run.c.dag_id == row.c.dag_id) & (dag_run.c.run_id == row.c.run_id))
            .where(is_this),
        )
        self._put = put.on_conflict_do_update(
            index_elements=[store.c[name] for name in ("dag_run_id", *of_run, "key")],
            set_={name: put.excluded[name] for name in ("value", "updated_at", "expires_at")},
        ).returning(literal(1))
        self._known = select(exists().where(is_this))
        self._delete_all = delete(store).where(same_task, is_this)
        self._clearing = Part(lambda changed: [self._delete_all.where(exists(select(changed.c.id))).cte("cleared")])
        self._delete = self._delete_all.where(store.c.key == bindparam("name"))

    async def get(self, session: Session, *, ti_id: uuid.UUID, key: str) -> AnyRow | None:
        """Return a row with the value, which is None when the task has no such key; None when there is no such task."""
        return (await session.execute(self._get, {"pk": ti_id, "name": key})).one_or_none()

    async def put(
        self, session: Session, *, ti_id: uuid.UUID, key: str, value: str, expires_at: datetime | None, now: datetime
    ) -> bool:
        """Set a task's value, JSON as text, in one statement; say whether there is such a task instance."""
        parameters = {"pk": ti_id, "name": key, "text": value, "expires_at": expires_at, "now": now}
        return await session.scalar(self._put, parameters) is not None

    def cleared(self) -> Along:
        """Return what deletes all of a task's values when it succeeds."""
        return Along(self._clearing, {})

    async def remove(self, session: Session, *, ti_id: uuid.UUID, key: str | None = None) -> bool:
        """Delete a task's value, or all of its values; say whether there is such a task instance."""
        await session.execute(self._delete_all if key is None else self._delete, {"pk": ti_id, "name": key})
        return bool(await session.scalar(self._known, {"pk": ti_id}))


class AssetStateStore:
    """The values of assets in a release's database, which tell by whom they were set."""

    def __init__(self, schema: Schema, tries: Tries) -> None:
        columns = [Column(column.name, column.type, primary_key=column.primary_key) for column in asset_state_store.c]
        store, row = schema.table("asset_state_store", *columns), schema.task_instance
        writer = {**row.c, "map_index": schema.map_index(row), "region_index": row.c.map_index, "task_instance_id": row.c.id}
        told = {f"last_updated_by_{name}": value for name, value in writer.items()}
        changed: dict[str, Any] = {
            "value": bindparam("text", type_=String),
            "updated_at": bindparam("now", type_=store.c.updated_at.type),
            "last_updated_by_kind": literal("task"),
            **{name: value for name, value in told.items() if name in store.c},
        }
        named: dict[str, Any] = {"asset_id": bindparam("asset", type_=Integer), "key": bindparam("name", type_=String)}
        source = select(*named.values(), *changed.values()).where(row.c.id == bindparam("pk"), tries.live)
        put = insert(store).from_select([*named, *changed], source)
        renewed = {name: put.excluded[name] for name in changed}
        self._put = put.on_conflict_do_update(index_elements=["asset_id", "key"], set_=renewed).returning(literal(1))

    async def put(self, session: Session, *, asset_pk: int, key: str, value: str, ti_id: uuid.UUID, now: datetime) -> bool:
        """Set an asset's value, JSON as text, in one statement; say whether there is such a task instance to set it."""
        parameters = {"asset": asset_pk, "name": key, "text": value, "pk": ti_id, "now": now}
        return await session.scalar(self._put, parameters) is not None


_of_asset = asset_state_store.c.asset_id == bindparam("pk")
_GET = select(asset_state_store.c.value).where(_of_asset, asset_state_store.c.key == bindparam("name"))
_DELETE_ALL = delete(asset_state_store).where(_of_asset)
_DELETE = _DELETE_ALL.where(asset_state_store.c.key == bindparam("name"))


async def of_asset(session: Session, *, asset_pk: int, key: str) -> str | None:
    """Return an asset's value, JSON as text, or None."""
    found: str | None = await session.scalar(_GET, {"pk": asset_pk, "name": key})
    return found


async def remove_for_asset(session: Session, *, asset_pk: int, key: str | None = None) -> None:
    """Delete an asset's value, or all of its values."""
    parameters = {"pk": asset_pk} if key is None else {"pk": asset_pk, "name": key}
    await session.execute(_DELETE_ALL if key is None else _DELETE, parameters)
