"""Teams: which one a task instance or a Dag belongs to, through its bundle."""

from __future__ import annotations

import uuid
from collections.abc import Collection

from sqlalchemy import bindparam, select

from app.db.session import Session
from app.db.tables import (
    AnyRow,
    dag,
    dag_bundle_team,
    dag_schedule_asset_reference,
    task_instance,
    task_outlet_asset_reference,
)

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


_OF_DAGS = (
    select(dag.c.dag_id, dag_bundle_team.c.team_name)
    .join(dag, dag.c.bundle_name == dag_bundle_team.c.dag_bundle_name)
    .where(dag.c.dag_id.in_(bindparam("dag_ids", expanding=True)))
)
_PRODUCERS = select(
    dag_schedule_asset_reference.c.dag_id,
    dag_schedule_asset_reference.c.allow_producer_teams,
    dag_schedule_asset_reference.c.allow_global_producers,
).where(dag_schedule_asset_reference.c.asset_id == bindparam("asset_pk"))
_CONSUMERS = select(
    task_outlet_asset_reference.c.allow_consumer_teams, task_outlet_asset_reference.c.allow_global_consumers
).where(
    task_outlet_asset_reference.c.asset_id == bindparam("asset_pk"),
    task_outlet_asset_reference.c.dag_id == bindparam("dag_id"),
    task_outlet_asset_reference.c.task_id == bindparam("task_id"),
)


async def of_dags(session: Session, *, dag_ids: Collection[str]) -> dict[str, str]:
    """Return the teams of those Dags that have one."""
    found = await session.execute(_OF_DAGS, {"dag_ids": sorted(dag_ids)})
    return {row.dag_id: row.team_name for row in found}


async def accepted_producers(session: Session, *, asset_pk: int) -> dict[str, AnyRow]:
    """Return, by Dag, which producers' events each Dag that is scheduled by an asset accepts."""
    return {row.dag_id: row for row in await session.execute(_PRODUCERS, {"asset_pk": asset_pk})}


async def accepted_consumers(session: Session, *, asset_pk: int, dag_id: str, task_id: str) -> AnyRow | None:
    """Return for which consumers the events are that a task emits for an asset."""
    keys = {"asset_pk": asset_pk, "dag_id": dag_id, "task_id": task_id}
    return (await session.execute(_CONSUMERS, keys)).one_or_none()


async def of_dag(session: Session, *, dag_id: str) -> str | None:
    """Return the team of a Dag, or None."""
    found: str | None = await session.scalar(_OF_DAG, {"dag_id": dag_id})
    return found


async def of_task_instance(session: Session, *, ti_id: uuid.UUID) -> str | None:
    """Return the team of a task instance, or None."""
    found: str | None = await session.scalar(_OF_TASK_INSTANCE, {"pk": ti_id})
    return found
