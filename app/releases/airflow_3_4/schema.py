"""What Airflow 3.4 calls the columns of a task instance: a place in a region names one."""

from __future__ import annotations

import uuid
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Integer,
    LargeBinary,
    String,
    Table,
    Uuid,
    and_,
    case,
    exists,
    func,
    or_,
    select,
)

from app.db.schema import Coordinates, Schema, key_columns

NO_REGION = uuid.UUID(int=0)  # of a task instance that is neither mapped nor in a loop


class RegionSchema(Schema):
    """Task instances are named by a region and a place in it, which is the map index if the region is the task's own.

    :ivar region: the regions of runs: one for each mapped task and each loop, inside that of the loop around it.
    :ivar owner: whose the XComs and rendered fields are that were written before these belonged to tries.
    """

    key = (*Coordinates._fields, "region_id")
    written = ("dynamic_region", "rtif_v1", "rtif_v2", "xcom_v1", "xcom_v2")

    def __init__(self) -> None:
        super().__init__(
            missing={"task_instance": {"span_status"}, "dag_run": {"span_status"}},
            names={"task_instance": {"map_index": "region_index"}, "task_state_store": {"map_index": "region_index"}},
            further={
                "task_instance": [
                    Column("region_id", Uuid),
                    Column("working_set", Boolean),
                    Column("archived_reason", String),
                ],
                "task_state_store": [Column("region_id", Uuid)],
                "log": [Column("task_instance_id", Uuid), Column("team_name", String)],
                "asset_state_store": [
                    *(Column(f"last_updated_by_{name}", Uuid) for name in ("task_instance_id", "region_id")),
                    *(Column(f"last_updated_by_{name}", Integer) for name in ("region_index", "try_number")),
                ],
                "connection_test_request": [Column("commit_allows_update", Boolean)],
                "asset_event": [Column("source_task_instance_id", Uuid)],
            },
        )
        self.region = self.table(
            "dynamic_region",
            Column("id", Uuid, primary_key=True),
            *(Column(name, String) for name in ("dag_id", "run_id", "node_id")),
            Column("parent_region_id", Uuid),
            Column("parent_region_index", Integer),
            Column("forked_from_region_id", Uuid),
            Column("family_root_id", Uuid),
            Column("path", LargeBinary),
            Column("resumes_from_index", Integer),
            Column("slot_key", LargeBinary),
            Column("created_at", DateTime(timezone=True)),
        )
        self.owner = self.table("legacy_task_data_owner", *key_columns(primary_key=True), Column("task_instance_id", Uuid))

    def map_index(self, table: Any) -> ColumnElement[int]:
        own = exists().where(self.region.c.id == table.c.region_id, self.region.c.node_id == table.c.task_id)
        return case((or_(table.c.region_id == NO_REGION, own), table.c.map_index), else_=-1)

    def pass_number(self, table: Any) -> ColumnElement[int | None]:
        region = self.region.alias()
        of_loop = case((region.c.parent_region_id.is_not(None), region.c.parent_region_index), else_=table.c.map_index)
        is_looped = region.c.parent_region_id.is_not(None) | (region.c.node_id != table.c.task_id)
        found = select(of_loop).where(region.c.id == table.c.region_id, is_looped).correlate(table).scalar_subquery()
        return case((table.c.region_id != NO_REGION, found))

    def is_newest_pass(self, table: Any) -> ColumnElement[bool]:
        other, number = self.task_instance.alias(), self.pass_number(table)
        same_task = [other.c[name] == table.c[name] for name in ("dag_id", "run_id", "task_id")]
        newest = select(func.max(self.pass_number(other))).where(*same_task, other.c.working_set.is_(True))
        return or_(table.c.region_id == NO_REGION, number.is_(None), number == newest.correlate(table).scalar_subquery())

    def is_reached(self, table: Any, asker: ColumnElement[uuid.UUID]) -> ColumnElement[bool]:
        asking = self.task_instance.alias()
        own_loop, own_pass = (  # asked once
            select(value).where(asking.c.id == asker).correlate(None).scalar_subquery()
            for value in (self._loop(asking), self.pass_number(asking))
        )
        is_of_another = self._loop(table).is_distinct_from(own_loop)
        return or_(own_pass.is_(None), table.c.region_id == NO_REGION, is_of_another, self.pass_number(table) == own_pass)

    def _loop(self, table: Any) -> ColumnElement[uuid.UUID]:
        """Return what the region of a task instance's loop, if it is in one, and its forks have in common."""
        region, above = self.region.alias(), self.region.alias()
        found = select(func.coalesce(above.c.family_root_id, region.c.family_root_id)).select_from(
            region.outerjoin(above, above.c.id == region.c.parent_region_id)
        )
        return found.where(region.c.id == table.c.region_id).correlate(table).scalar_subquery()

    def place(self, table: Any) -> list[ColumnElement[Any]]:
        in_one = table.c.region_id != NO_REGION
        return [
            case((in_one, table.c.region_id)).label("region_id"),
            case((in_one, table.c.map_index)).label("region_index"),
        ]

    def owned(self, table: Table) -> ColumnElement[bool]:
        """Match a row of a table of the time before with its owner."""
        return and_(*(table.c[name] == self.owner.c[name] for name in Coordinates._fields))
