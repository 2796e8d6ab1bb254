"""A release that does not exist, in one place: what a new one has to say, and nothing else of the service knows of.

Its storage is as unlike 3.3's as that of Airflow's next release: a column is renamed, a table is two, and a try that ended
stays where it is while a successor is inserted. It has an API date of its own, and a date whose models differ by server.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Integer,
    String,
    Table,
    Update,
    Uuid,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    literal,
    null,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert

from app.db.rendered_fields import RenderedFields, newest_runs
from app.db.schema import Coordinates, Schema, key_columns, known, writes
from app.db.session import Session
from app.db.storage import Storage
from app.db.tables import AnyRow, dag_run, from_bytes, from_text
from app.db.tries import ENDED, Changes, Tries
from app.db.uuids import uuid7
from app.db.xcoms import XComKey, XComs
from app.releases.revision import Revision
from app.schemas.dag_runs import DagRun
from app.schemas.task_instances import TIRunContext
from app.versions.changes import Change, Version, context_without, without
from tests.world import VOCABULARIES, Vocabulary

NO_REGION = uuid.UUID(int=0)


class InventedSchema(Schema):
    """Task instances are named by a region and a place in it, which is the map index if the region is the task's own."""

    key = (*Coordinates._fields, "region_id")

    def __init__(self) -> None:
        region = Column("region_id", Uuid)
        super().__init__(
            missing={"task_instance": {"span_status"}, "dag_run": {"span_status"}},
            names={"task_instance": {"map_index": "region_index"}, "task_state_store": {"map_index": "region_index"}},
            further={
                "task_instance": [region, Column("working_set", Boolean), Column("archived_reason", String)],
                "task_state_store": [Column("region_id", Uuid)],
            },
        )
        self.region = self.table("dynamic_region", Column("id", Uuid, primary_key=True), Column("node_id", String))

    def map_index(self, table: Any) -> ColumnElement[int]:
        own = exists().where(self.region.c.id == table.c.region_id, self.region.c.node_id == table.c.task_id)
        return case((or_(table.c.region_id == NO_REGION, own), table.c.map_index), else_=-1)


class ArchivedTries(Tries):
    """A try that ended keeps its row, out of the working set; another one is inserted beside it."""

    keep_end_dates = True

    def __init__(self, schema: Schema) -> None:
        self._table = row = schema.task_instance
        self.live = row.c.working_set.is_(True)
        self._schema = schema
        self._archiving: dict[frozenset[str], Update] = {}
        archived = (row.c.id == bindparam("pk")) & row.c.working_set.is_(None)
        self._is_archived = select(exists().where(archived))
        reason = {"working_set": null(), "archived_reason": "retry", "trigger_id": null(), "updated_at": bindparam("now")}
        self._archived = reason
        has_ended = row.c.state.in_(ENDED)
        self._archive_run = (
            update(row)
            .where(row.c.dag_id == bindparam("of_dag"), row.c.run_id == bindparam("of_run"), self.live)
            .where(row.c.state.is_not(None), row.c.state.not_in(["up_for_retry", "running"]))
            .values(
                **reason,
                state=case((has_ended, row.c.state), else_="failed"),
                end_date=func.coalesce(row.c.end_date, bindparam("now")),
            )
            .returning(row.c.id)
        )

    def _successor(self, names: frozenset[str]) -> Any:
        """Return the statement that inserts the next try of an archived one, in which these columns differ."""
        row = self._table
        fresh: dict[str, ColumnElement[Any]] = {
            "id": bindparam("new_id", type_=Uuid),
            "try_number": row.c.try_number + 1,
            "working_set": true(),
            "archived_reason": null(),
            "external_executor_id": null(),
            **self._schema.bound(names - {"id"}),
        }
        columns = [column.key for column in row.c]
        copied = select(*(fresh.get(name, row.c[name]) for name in columns))
        return insert(row).from_select(columns, copied.where(row.c.id == bindparam("pk"), row.c.working_set.is_(None)))

    async def is_archived(self, session: Session, *, ti_id: uuid.UUID) -> bool:
        return bool(await session.scalar(self._is_archived, {"pk": ti_id}))

    async def begin_next(self, session: Session, *, row: AnyRow, values: Mapping[str, Any], now: datetime) -> None:
        ended = {name: value for name, value in known(self._table, values).items() if name not in ("state", "updated_at")}
        statement = self._archiving.setdefault(
            frozenset(ended),
            update(self._table)
            .where(self._table.c.id == bindparam("pk"))
            .values(**self._schema.bound(ended), **self._archived, state="failed"),
        )
        await session.execute(statement, {**writes(row.id, ended), "now": now})
        state = {"id": uuid7(), "state": values["state"]}
        await session.execute(self._successor(frozenset(state)), writes(row.id, state))

    async def end_all(self, session: Session, *, dag_id: str, run_id: str, now: datetime) -> set[uuid.UUID]:
        return set(await session.scalars(self._archive_run, {"of_dag": dag_id, "of_run": run_id, "now": now}))

    async def begin_all(self, session: Session, *, changes: Changes) -> None:
        for pk, values in changes:
            changed = known(self._table, values)
            await session.execute(self._schema.setting(changed).where(self.live), writes(pk, changed))
            begun = {**changed, "id": uuid7()}
            await session.execute(self._successor(frozenset(begun)), writes(pk, begun))


class XComsOfTries(XComs):
    """XComs belong to a try; those that were written before tries had them are found through who owns them now."""

    def __init__(self, schema: InventedSchema, tries: Tries) -> None:
        row = schema.task_instance
        pk, owner, result = Column("id", Uuid), Column("task_instance_id", Uuid), Column("dag_result", Boolean)
        new = schema.table("xcom_v2", pk, owner, *_pushed(), result)
        old = schema.table("xcom_v1", *key_columns(), Column("dag_run_id", Integer), *_pushed())
        owners = schema.table("legacy_task_data_owner", *key_columns(primary_key=True), Column("task_instance_id", Uuid))
        owned = old.join(owners, _same(old, owners))
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
            func.gen_random_uuid(),
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
            delete(old).where(_same(old, owners), owners.c.task_instance_id.in_(live_one), old.c.key == bindparam("key")),
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
        parameters = {**key._asdict(), "at_index": map_index, "asker": asker, "under_key": key.key, "json": value}
        parameters |= {"now": now, "result": dag_result, "length": mapped_length}
        return await session.scalar(self._put, parameters) is not None

    async def mapped_lengths(self, session: Session, *, dag_id: str, run_id: str) -> dict[str, int]:
        rows = await session.execute(self._lengths, {"dag_id": dag_id, "run_id": run_id})
        return {row.task_id: row.mapped_length for row in rows}

    async def remove(self, session: Session, *, key: XComKey, map_index: int) -> None:
        for statement in self._delete:
            await session.execute(statement, {**key._asdict(), "at_index": map_index})


class RenderedFieldsOfTries(RenderedFields):
    """Rendered fields belong to a try."""

    def __init__(self, schema: Schema, tries: Tries) -> None:
        row = schema.task_instance
        columns = [Column("task_instance_id", Uuid), Column("rendered_fields", JSON), Column("k8s_pod_yaml", JSON)]
        table = schema.table("rtif_v2", Column("id", Uuid, primary_key=True), *columns)
        written = (from_text(bindparam("fields"), JSON), from_text(literal("null"), JSON))
        source = select(func.gen_random_uuid(), row.c.id, *written).where(row.c.id == bindparam("pk"), tries.live)
        put = insert(table).from_select(["id", *(column.name for column in columns)], source)
        stored = (
            put.on_conflict_do_update(
                index_elements=[table.c.task_instance_id],
                set_={name: put.excluded[name] for name in ("rendered_fields", "k8s_pod_yaml")},
            )
            .returning(table.c.task_instance_id)
            .cte("stored")
        )
        self._put = select(row.c.dag_id, row.c.task_id).join(stored, stored.c.task_instance_id == row.c.id)
        of_task = row.c.dag_id == bindparam("dag_id"), row.c.task_id == bindparam("task_id")
        old = select(row.c.id).where(*of_task, row.c.run_id.not_in(newest_runs()))
        self._clean_up = delete(table).where(table.c.task_instance_id.in_(old))

    async def put(self, session: Session, *, ti_id: uuid.UUID, fields: str) -> AnyRow | None:
        return (await session.execute(self._put, {"pk": ti_id, "fields": fields})).one_or_none()

    async def clean_up(self, session: Session, *, dag_id: str, task_id: str, keep: int) -> None:
        if keep > 0:
            await session.execute(self._clean_up, {"dag_id": dag_id, "task_id": task_id, "keep": keep})


def _pushed() -> list[Column[Any]]:
    """Return what is stored of an XCom, whatever it belongs to."""
    when, length = Column("timestamp", DateTime(timezone=True)), Column("mapped_length", Integer)
    return [Column("key", String), Column("value", JSONB), when, length]


def _same(one: Table, other: Table) -> ColumnElement[bool]:
    return and_(*(one.c[name] == other.c[name] for name in Coordinates._fields))


_SCHEMA = InventedSchema()
_TRIES = ArchivedTries(_SCHEMA)

INVENTED = Revision(
    name="invented",
    alembic_version="invented",
    newest_api_date="2026-10-30",
    storage=Storage(_SCHEMA, _TRIES, XComsOfTries(_SCHEMA, _TRIES), RenderedFieldsOfTries(_SCHEMA, _TRIES)),
)
VOCABULARY = Vocabulary(
    further=VOCABULARIES["3.3"].further,
    names={"task_instance": {"map_index": "region_index"}},
)
DATE = Version(
    "2026-10-30",
    (
        Change(
            "A worker is told whether an error leads to another try",
            added_fields={TIRunContext: ("should_retry",)},
            downgrades={"ti_run": without("should_retry")},
        ),
        Change(
            "Every client of this server is told of notes",
            added_fields={DagRun: ("note",)},
            downgrades={"ti_run": context_without("note")},
            by_date_since="9999-12-31",
        ),
    ),
)
