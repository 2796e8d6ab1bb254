"""XComs as Airflow 3.4 stores them: of a try, by its id."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BindParameter,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    Select,
    String,
    Table,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    select,
    true,
    union,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.sql.selectable import Alias, Subquery

from app.db.schema import key_columns
from app.db.session import Session
from app.db.tables import arguments, dag_run, from_bytes, rows_of
from app.db.tries import Tries
from app.db.uuids import uuid7
from app.db.xcoms import Pass, Seen, Values, XComKey, XComs
from app.releases.airflow_3_4.lineage import Lineages
from app.releases.airflow_3_4.schema import NO_REGION, RegionSchema

ALWAYS = 2**31 - 1  # a pass that no loop reaches


class XComsOfTries(XComs):
    """XComs belong to a try; those that were written before tries had them are found through who owns them now."""

    def __init__(self, schema: RegionSchema, tries: Tries) -> None:
        self._schema, self._lineages = schema, Lineages(schema.region)
        self._row = row = schema.task_instance
        self._live = tries.live
        pk, owner, result = Column("id", Uuid), Column("task_instance_id", Uuid), Column("dag_result", Boolean)
        self._new = schema.table("xcom_v2", pk, owner, *_pushed(), result)
        self._old = schema.table("xcom_v1", *key_columns(), Column("dag_run_id", Integer), *_pushed())
        at, above = schema.region.alias("own_region"), schema.region.alias("loop_region")
        is_public = at.c.id.is_(None) | ((at.c.node_id == row.c.task_id) & at.c.parent_region_id.is_(None))
        anywhere = row.outerjoin(at, at.c.id == row.c.region_id)
        public = self._stored(anywhere, is_public, [row.c.map_index], "xcom")
        of_task = [*_of_task(row), row.c.region_id == _public_regions(schema)]
        of_run = self._stored(row, and_(*of_task), [row.c.map_index], "xcom", with_run=False)
        super().__init__(public, of_run=of_run)
        archived = (row.c.id == bindparam("asker", type_=Uuid)) & row.c.working_set.is_(None)
        of_itself = exists().where(archived, *_of_task(row), schema.map_index(row) == bindparam("at_index"))
        self._of_run = self._of_run.where(~of_itself).order_by(of_run.c.timestamp.desc()).limit(1)

        place = [
            case((at.c.parent_region_id.is_(None), -1), else_=row.c.map_index).label("map_index"),
            func.coalesce(at.c.parent_region_id, at.c.id).label("loop"),
            func.coalesce(above.c.family_root_id, at.c.family_root_id).label("family"),
            func.coalesce(at.c.parent_region_index, row.c.map_index).label("number"),
        ]
        is_looped = at.c.parent_region_id.is_not(None) | (at.c.node_id != row.c.task_id)
        around = row.join(at, at.c.id == row.c.region_id).outerjoin(above, above.c.id == at.c.parent_region_id)
        looped = self._stored(around, is_looped, place, "looped")
        this_pass = [
            looped.c.family == bindparam("family", type_=Uuid),
            looped.c.number == bindparam("number", type_=Integer),
        ]
        self._in_pass = Values(looped, *this_pass)
        holders = rows_of("holders", loop=Uuid, until=Integer)
        is_held = exists().where(holders.c.loop == looped.c.loop, looped.c.number < holders.c.until)
        self._in_loop = Values(looped, is_held, place=[looped.c.number, looped.c.map_index])

        placed = select(row.c.id, *place).select_from(around).where(is_looped, self._live, *_of_task(row)).subquery("placed")
        here = (placed.c.family == bindparam("family", type_=Uuid)) & (placed.c.number == bindparam("number", type_=Integer))
        self._twice = select(placed.c.map_index).where(here).group_by(placed.c.map_index).having(func.count() > 1).limit(1)
        self._seen = _seen(schema, placed)
        has_index: BindParameter[int] = bindparam("at_index")
        its_own = select(row.c.id, literal(0).label("rank")).where(
            row.c.id == bindparam("asker", type_=Uuid), *_of_task(row), schema.map_index(row) == has_index
        )
        live_one = select(row.c.id, literal(1).label("rank")).where(
            self._live, *_of_task(row), row.c.region_id == _public_regions(schema), row.c.map_index == has_index
        )
        found = union_all(its_own, live_one).subquery("found")
        owners = {
            False: select(found.c.id).order_by(found.c.rank).limit(1),
            True: select(placed.c.id).where(here, placed.c.map_index == has_index),
        }
        self._put = {inside: self._putting(owner) for inside, owner in owners.items()}
        self._delete = {inside: self._deleting(owner) for inside, owner in owners.items()}
        of_try = select(self._new.c.key).where(self._new.c.task_instance_id == bindparam("pk"))
        of_owner = select(self._old.c.key).where(schema.owned(self._old), schema.owner.c.task_instance_id == bindparam("pk"))
        kept = union(of_try, of_owner).subquery("kept")
        self.left_behind = select(func.array_agg(kept.c.key)).scalar_subquery()
        self._lengths = select(public.c.task_id, public.c.mapped_length).where(
            public.c.dag_id == bindparam("dag_id"),
            public.c.run_id == bindparam("run_id"),
            public.c.map_index < 0,
            public.c.mapped_length.is_not(None),
        )

    def _stored(
        self,
        tasks: FromClause,
        where: ColumnElement[bool],
        place: Sequence[ColumnElement[Any]],
        name: str,
        *,
        with_run: bool = True,
    ) -> Subquery:
        """Return what is stored of these task instances' last tries, in either table.

        :param with_run: whether it tells of which run it is, and of which task.
        """
        row, new, old, owner = self._row, self._new, self._old, self._schema.owner
        is_replaced = exists().where(new.c.task_instance_id == row.c.id, new.c.key == old.c.key).correlate(row, old)
        in_run = (dag_run.c.dag_id == row.c.dag_id) & (dag_run.c.run_id == row.c.run_id)

        def of(table: Table, source: FromClause) -> Select[Any]:
            run = [row.c.dag_id, row.c.run_id, row.c.task_id, dag_run.c.id.label("dag_run_id")] if with_run else []
            columns = [*run, *place, table.c.key, table.c.value, table.c.timestamp, table.c.mapped_length]
            found = select(*columns).select_from(source.join(dag_run, in_run) if with_run else source)
            return found.where(self._live, where)

        of_new = of(new, tasks.join(new, new.c.task_instance_id == row.c.id))
        owned = tasks.join(owner, owner.c.task_instance_id == row.c.id).join(old, self._schema.owned(old))
        return union_all(of_new, of(old, owned).where(~is_replaced)).subquery(name)

    def _putting(self, owner: Select[Any]) -> Any:
        new = self._new
        pushed = owner.add_columns(
            bindparam("new_id", type_=Uuid),
            bindparam("under_key", type_=String),
            from_bytes(bindparam("json")),
            bindparam("now", type_=DateTime(timezone=True)),
            bindparam("result", type_=Boolean),
            bindparam("length", type_=Integer),
        )
        changing = ("value", "timestamp", "dag_result", "mapped_length")
        put = insert(new).from_select(["task_instance_id", "id", "key", *changing], pushed)
        renewed = {name: put.excluded[name] for name in changing}
        put = put.on_conflict_do_update(index_elements=[new.c.task_instance_id, new.c.key], set_=renewed)
        return put.returning(literal(1))

    def _deleting(self, owner: Select[Any]) -> Any:
        new, old, owned = self._new, self._old, self._schema.owner
        found = owner.cte("found")
        of_found = select(found.c.id)
        of_try = new.c.task_instance_id.in_(of_found), new.c.key == bindparam("key")
        of_owner = self._schema.owned(old), owned.c.task_instance_id.in_(of_found), old.c.key == bindparam("key")
        return of_found.add_cte(delete(new).where(*of_try).cte("of_try"), delete(old).where(*of_owner).cte("of_owner"))

    async def seen(self, session: Session, *, key: XComKey, map_index: int, asker: uuid.UUID) -> Seen | None:
        row = (await session.execute(self._seen, {**key._asdict(), "asker": asker})).one()
        is_same = (row.dag_id, row.run_id, row.task_id, row.own_index) == (*key[:3], map_index)
        own = Pass(row.family, row.number) if row.family and (row.dag_id, row.run_id) == key[:2] else None
        return Seen(row.loop, own, bool(row.is_live), is_same)

    def within(self, at: Pass) -> Values:
        return self._in_pass.bound(family=at.family, number=at.number)

    async def along(self, session: Session, *, key: XComKey, family: uuid.UUID) -> Values:
        lineage = await self._lineages.of_run(session, dag_id=key.dag_id, run_id=key.run_id)
        holders = [
            (region.id, min((fork.first for fork in lineage.forks(region)), default=ALWAYS))
            for region in lineage
            if region.family == family
        ]
        return self._in_loop.bound(**arguments(["loops", "untils"], holders))

    async def ambiguous(self, session: Session, *, key: XComKey, at: Pass) -> int | None:
        found: int | None = await session.scalar(self._twice, {**key._asdict(), **at._asdict()})
        return found

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
        within: Pass | None = None,
        now: datetime,
    ) -> bool:
        parameters = {**key._asdict(), "at_index": map_index, "asker": asker, "under_key": key.key, "json": value}
        parameters |= {"new_id": uuid7(), "now": now, "result": dag_result, "length": mapped_length}
        parameters |= within._asdict() if within else {}
        return await session.scalar(self._put[within is not None], parameters) is not None

    async def mapped_lengths(self, session: Session, *, dag_id: str, run_id: str) -> dict[str, int]:
        rows = await session.execute(self._lengths, {"dag_id": dag_id, "run_id": run_id})
        return {row.task_id: row.mapped_length for row in rows}

    async def remove(
        self, session: Session, *, key: XComKey, map_index: int, asker: uuid.UUID, within: Pass | None = None
    ) -> bool:
        parameters = {**key._asdict(), "at_index": map_index, "asker": asker, **(within._asdict() if within else {})}
        return await session.scalar(self._delete[within is not None], parameters) is not None


def _seen(schema: RegionSchema, placed: Subquery) -> Select[Any]:
    """Select which loop repeats a task, and where the task instance is that asks."""
    row, at, above = (table.alias() for table in (schema.task_instance, schema.region, schema.region))
    own_loop = case(
        (at.c.parent_region_id.is_not(None), above.c.family_root_id), (at.c.node_id != row.c.task_id, at.c.family_root_id)
    )
    asking = (
        select(
            row.c.dag_id,
            row.c.run_id,
            row.c.task_id,
            row.c.working_set.is_not(None).label("is_live"),
            schema.map_index(row).label("own_index"),
            own_loop.label("family"),
            func.coalesce(at.c.parent_region_index, row.c.map_index).label("number"),
        )
        .select_from(row)
        .outerjoin(at, at.c.id == row.c.region_id)
        .outerjoin(above, above.c.id == at.c.parent_region_id)
        .where(row.c.id == bindparam("asker", type_=Uuid))
        .subquery("asking")
    )
    one = select(select(placed.c.family).limit(1).scalar_subquery().label("loop")).subquery("one")
    return select(one.c.loop, *asking.c).select_from(one.outerjoin(asking, true()))


def _public_regions(schema: RegionSchema) -> ColumnElement[Any]:
    """Return the regions in which a key and a map index name a task instance: none, or the task's own one."""
    region = schema.region.alias()
    own = select(region.c.id).where(
        region.c.dag_id == bindparam("dag_id"),
        region.c.run_id == bindparam("run_id"),
        region.c.node_id == bindparam("task_id"),
        region.c.parent_region_id.is_(None),
    )
    regions = union_all(select(literal(NO_REGION, Uuid)), own)
    return any_(func.array(regions.scalar_subquery(), type_=ARRAY(Uuid)))


def _of_task(row: Table | Alias) -> tuple[ColumnElement[bool], ...]:
    return tuple(row.c[name] == bindparam(name) for name in ("dag_id", "run_id", "task_id"))


def _pushed() -> list[Column[Any]]:
    """Return what is stored of an XCom, whatever it belongs to."""
    when, length = Column("timestamp", DateTime(timezone=True)), Column("mapped_length", Integer)
    return [Column("key", String), Column("value", JSONB), when, length]
