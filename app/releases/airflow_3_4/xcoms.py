"""XComs as Airflow 3.4 stores them: of a try, by its id."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Integer,
    String,
    Table,
    Uuid,
    bindparam,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB, insert

from app.db.schema import key_columns
from app.db.session import Session
from app.db.tables import dag_run, from_bytes
from app.db.tries import Tries
from app.db.uuids import uuid7
from app.db.xcoms import XComKey, XComs
from app.releases.airflow_3_4.schema import RegionSchema


class XComsOfTries(XComs):
    """XComs belong to a try; those that were written before tries had them are found through who owns them now."""

    def __init__(self, schema: RegionSchema, tries: Tries) -> None:
        row = schema.task_instance
        pk, owner, result = Column("id", Uuid), Column("task_instance_id", Uuid), Column("dag_result", Boolean)
        new = schema.table("xcom_v2", pk, owner, *_pushed(), result)
        old = schema.table("xcom_v1", *key_columns(), Column("dag_run_id", Integer), *_pushed())
        owners = schema.owner
        owned = old.join(owners, schema.owned(old))
        of_new = new.join(row, row.c.id == new.c.task_instance_id)
        of_old = owned.join(row, row.c.id == owners.c.task_instance_id)
        is_replaced = exists().where(new.c.task_instance_id == owners.c.task_instance_id, new.c.key == old.c.key)

        def readable(table: Table) -> list[Any]:
            names = [row.c.id.label("pk"), row.c.dag_id, row.c.run_id, row.c.task_id, dag_run.c.id.label("dag_run_id")]
            index = schema.map_index(row).label("map_index")
            return [*names, index, table.c.key, table.c.value, table.c.timestamp, table.c.mapped_length]

        in_run = (dag_run.c.dag_id == row.c.dag_id) & (dag_run.c.run_id == row.c.run_id)
        rows = union_all(
            select(*readable(new)).select_from(of_new.join(dag_run, in_run)).where(tries.live),
            select(*readable(old)).select_from(of_old.join(dag_run, in_run)).where(tries.live, ~is_replaced),
        ).subquery("xcom")
        super().__init__(rows)
        self.left_behind = select(func.array_agg(rows.c.key)).where(rows.c.pk == bindparam("pk")).scalar_subquery()
        keys = ("dag_id", "run_id", "task_id")
        at = [row.c[name] == bindparam(name) for name in keys]
        named = [*at, schema.map_index(row) == bindparam("at_index")]
        its_own = row.c.id == bindparam("asker", type_=Uuid)
        owner_of = select(row.c.id).where(*named, or_(its_own, tries.live)).order_by(its_own.desc()).limit(1)
        pushed = owner_of.add_columns(
            bindparam("new_id", type_=Uuid),
            bindparam("under_key", type_=String),
            from_bytes(bindparam("json")),
            bindparam("now", type_=DateTime(timezone=True)),
            bindparam("result", type_=Boolean),
            bindparam("length", type_=Integer),
        )
        changing = ("value", "timestamp", "dag_result", "mapped_length")
        put = insert(new).from_select(["task_instance_id", "id", "key", *changing], pushed)
        self._put = put.on_conflict_do_update(
            index_elements=[new.c.task_instance_id, new.c.key], set_={name: put.excluded[name] for name in changing}
        ).returning(literal(1))
        live_one = select(row.c.id).where(*named, tries.live)
        self._delete = [
            delete(new).where(new.c.task_instance_id.in_(live_one), new.c.key == bindparam("key")),
            delete(old).where(schema.owned(old), owners.c.task_instance_id.in_(live_one), old.c.key == bindparam("key")),
        ]
        self._lengths = select(rows.c.task_id, rows.c.mapped_length).where(
            rows.c.dag_id == bindparam("dag_id"),
            rows.c.run_id == bindparam("run_id"),
            rows.c.map_index < 0,
            rows.c.mapped_length.is_not(None),
        )

    async def put(
        self,
        session: Session,
        *,
        key: XComKey,
        map_index: int,
        value: bytes,
        dag_result: bool,
        mapped_length: int | None,
        asker: uuid.UUID,
        now: datetime,
    ) -> bool:
        parameters = {
            **key._asdict(),
            "at_index": map_index,
            "asker": asker,
            "under_key": key.key,
            "json": value,
            "new_id": uuid7(),
        }
        parameters |= {"now": now, "result": dag_result, "length": mapped_length}
        return await session.scalar(self._put, parameters) is not None

    async def mapped_lengths(self, session: Session, *, dag_id: str, run_id: str) -> dict[str, int]:
        rows = await session.execute(self._lengths, {"dag_id": dag_id, "run_id": run_id})
        return {row.task_id: row.mapped_length for row in rows}

    async def remove(self, session: Session, *, key: XComKey, map_index: int) -> None:
        for statement in self._delete:
            await session.execute(statement, {**key._asdict(), "at_index": map_index})


def _pushed() -> list[Column[Any]]:
    """Return what is stored of an XCom, whatever it belongs to."""
    when, length = Column("timestamp", DateTime(timezone=True)), Column("mapped_length", Integer)
    return [Column("key", String), Column("value", JSONB), when, length]
