"""Rendered template fields, and their clean-up."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod

from sqlalchemy import JSON, Column, Integer, bindparam, delete, select
from sqlalchemy.dialects.postgresql import insert

from app.db.earlier import newest_to_start
from app.db.schema import Coordinates, Schema, key_columns
from app.db.session import Session
from app.db.tables import AnyRow, from_text
from app.db.tries import Tries

KEEP = bindparam("keep", type_=Integer)  # runs


class RenderedFields(ABC):
    """The rendered fields of a release's database."""

    @abstractmethod
    async def put(self, session: Session, *, ti_id: uuid.UUID, fields: str) -> AnyRow | None:
        """Store the rendered fields of a task instance in one statement.

        :param fields: a JSON object, as text.
        :returns: its Dag and task, or None when there is no such task instance, or no such try any more.
        """

    @abstractmethod
    async def clean_up(self, session: Session, *, dag_id: str, task_id: str, keep: int) -> None:
        """Delete the task's rendered fields of all but the Dag's ``keep`` newest runs; 0 keeps them all.

        A release may look for them in some of the older runs only.
        """


class RenderedFieldsOfRuns(RenderedFields):
    """Rendered fields as Airflow 3.2 and 3.3 store them: by the coordinates of a task instance, whichever try it was.

    :param pod_yaml: what is stored for a task without a pod, JSON as text: SQL's null or JSON's.
    """

    def __init__(self, schema: Schema, tries: Tries, *, pod_yaml: str | None = "null") -> None:
        fields, pod = Column("rendered_fields", JSON), Column("k8s_pod_yaml", JSON)
        table = schema.table("rendered_task_instance_fields", *key_columns(primary_key=True), fields, pod)
        row, names = schema.task_instance, Coordinates._fields
        written = (from_text(bindparam("fields"), JSON), from_text(bindparam("pod"), JSON))
        source = select(*(row.c[name] for name in names), *written).where(row.c.id == bindparam("pk"), tries.live)
        put = insert(table).from_select([*names, "rendered_fields", "k8s_pod_yaml"], source)
        self._pod_yaml = pod_yaml
        self._put = put.on_conflict_do_update(
            index_elements=[table.c[name] for name in names],
            set_={name: put.excluded[name] for name in ("rendered_fields", "k8s_pod_yaml")},
        ).returning(table.c.dag_id, table.c.task_id)
        self._clean_up = delete(table).where(
            table.c.dag_id == bindparam("dag_id"),
            table.c.task_id == bindparam("task_id"),
            table.c.run_id.not_in(select(newest_to_start(KEEP).c.run_id)),
        )

    async def put(self, session: Session, *, ti_id: uuid.UUID, fields: str) -> AnyRow | None:
        parameters = {"pk": ti_id, "fields": fields, "pod": self._pod_yaml}
        return (await session.execute(self._put, parameters)).one_or_none()

    async def clean_up(self, session: Session, *, dag_id: str, task_id: str, keep: int) -> None:
        if keep > 0:
            await session.execute(self._clean_up, {"dag_id": dag_id, "task_id": task_id, "keep": keep})
