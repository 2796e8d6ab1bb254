"""Rendered fields as Airflow 3.4 stores them: of a try, by its id."""

from __future__ import annotations

import uuid

from sqlalchemy import JSON, Column, Uuid, bindparam, delete, literal, select
from sqlalchemy.dialects.postgresql import insert

from app.db.earlier import newest_to_start
from app.db.rendered_fields import KEEP, RenderedFields
from app.db.schema import key_columns
from app.db.session import Session
from app.db.tables import AnyRow, from_text
from app.db.tries import Tries
from app.db.uuids import uuid7
from app.releases.airflow_3_4.schema import RegionSchema


class RenderedFieldsOfTries(RenderedFields):
    """Rendered fields of tries; those of before are deleted with them.

    A task's are found through its task instances alone, and it has one in each run that the Dag ever had. So only as many
    runs are looked at as are kept: those that come after them.
    """

    def __init__(self, schema: RegionSchema, tries: Tries) -> None:
        row = schema.task_instance
        columns = [Column("task_instance_id", Uuid), Column("rendered_fields", JSON), Column("k8s_pod_yaml", JSON)]
        table = schema.table("rtif_v2", Column("id", Uuid, primary_key=True), *columns)
        written = (from_text(bindparam("fields"), JSON), from_text(literal("null"), JSON))
        source = select(bindparam("new_id", type_=Uuid), row.c.id, *written).where(row.c.id == bindparam("pk"), tries.live)
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
        kept, runs = newest_to_start(KEEP), newest_to_start(KEEP * 2)
        older_runs = select(runs.c.run_id).order_by(runs.c.when.desc(), runs.c.id.desc()).offset(KEEP)
        old = select(row.c.id).where(*of_task, row.c.run_id.in_(older_runs))
        before = schema.table("rtif_v1", *key_columns(primary_key=True))
        of_before = delete(before).where(
            before.c.dag_id == bindparam("dag_id"),
            before.c.task_id == bindparam("task_id"),
            before.c.run_id.not_in(select(kept.c.run_id)),
        )
        self._clean_up = delete(table).where(table.c.task_instance_id.in_(old)).add_cte(of_before.cte("of_before"))

    async def put(self, session: Session, *, ti_id: uuid.UUID, fields: str) -> AnyRow | None:
        return (await session.execute(self._put, {"pk": ti_id, "fields": fields, "new_id": uuid7()})).one_or_none()

    async def clean_up(self, session: Session, *, dag_id: str, task_id: str, keep: int) -> None:
        if keep > 0:
            await session.execute(self._clean_up, {"dag_id": dag_id, "task_id": task_id, "keep": keep})
