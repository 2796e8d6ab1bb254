"""Rendered template fields, and their clean-up."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Integer, bindparam, delete, select
from sqlalchemy.dialects.postgresql import insert

from app.db.session import Session
from app.db.tables import AnyRow, dag_run, from_text, rendered_task_instance_fields, task_instance
from app.releases import Revision

_table = rendered_task_instance_fields
_KEY = ["dag_id", "task_id", "run_id", "map_index"]
_source = select(
    *(task_instance.c[name] for name in _KEY), from_text(bindparam("fields"), JSON), from_text(bindparam("pod"), JSON)
)
_insert = insert(_table).from_select(
    [*_KEY, "rendered_fields", "k8s_pod_yaml"], _source.where(task_instance.c.id == bindparam("pk"))
)
_PUT = _insert.on_conflict_do_update(
    index_elements=_KEY, set_={name: _insert.excluded[name] for name in ("rendered_fields", "k8s_pod_yaml")}
).returning(_table.c.dag_id, _table.c.task_id)


async def put(session: Session, *, ti_id: Any, fields: str, revision: Revision) -> AnyRow | None:
    """Store the rendered fields of a task instance in one statement.

    :param fields: a JSON object, as text.
    :returns: its Dag and task, or None when there is no such task instance.
    """
    pod = "null" if revision.pod_yaml_is_json_null else None
    return (await session.execute(_PUT, {"pk": ti_id, "fields": fields, "pod": pod})).one_or_none()


_newest = (
    select(dag_run.c.run_id)
    .where(dag_run.c.dag_id == bindparam("dag_id"))
    .order_by(dag_run.c.run_after.desc(), dag_run.c.id.desc())
    .limit(bindparam("keep", type_=Integer))
)
_CLEAN_UP = delete(_table).where(
    _table.c.dag_id == bindparam("dag_id"), _table.c.task_id == bindparam("task_id"), _table.c.run_id.not_in(_newest)
)


async def clean_up(session: Session, *, dag_id: str, task_id: str, keep: int) -> None:
    """Delete the task's rendered fields of all but the Dag's ``keep`` newest runs; 0 keeps them all."""
    if keep <= 0:
        return
    await session.execute(_CLEAN_UP, {"dag_id": dag_id, "task_id": task_id, "keep": keep})
