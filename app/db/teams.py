"""Teams: which one a task instance or a Dag belongs to, through its bundle."""

from __future__ import annotations

import uuid

from sqlalchemy import bindparam, select

from app.db.session import ReadSession
from app.db.tables import dag, dag_bundle_team, task_instance

_OF_DAG = (
    select(dag_bundle_team.c.team_name)
    .join(dag, dag.c.bundle_name == dag_bundle_team.c.dag_bundle_name)
    .where(dag.c.dag_id == bindparam("dag_id"))
    .limit(1)
)
_OF_TASK_INSTANCE = (
    select(dag_bundle_team.c.team_name)
    .join(dag, dag.c.bundle_name == dag_bundle_team.c.dag_bundle_name)
    .join(task_instance, task_instance.c.dag_id == dag.c.dag_id)
    .where(task_instance.c.id == bindparam("pk"))
    .limit(1)
)


async def of_dag(session: ReadSession, *, dag_id: str) -> str | None:
    """Return the team of a Dag, or None."""
    found: str | None = await session.scalar(_OF_DAG, {"dag_id": dag_id})
    return found


async def of_task_instance(session: ReadSession, *, ti_id: uuid.UUID) -> str | None:
    """Return the team of a task instance, or None."""
    found: str | None = await session.scalar(_OF_TASK_INSTANCE, {"pk": ti_id})
    return found
