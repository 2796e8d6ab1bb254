"""Teams: which one a task instance or a Dag belongs to, through its bundle."""

from __future__ import annotations

import uuid
from collections.abc import Collection

from sqlalchemy import ARRAY, Integer, any_, bindparam, select

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
_these_assets = bindparam("asset_pks", type_=ARRAY(Integer))
_PRODUCERS = select(
    dag_schedule_asset_reference.c.asset_id,
    dag_schedule_asset_reference.c.dag_id,
    dag_schedule_asset_reference.c.allow_producer_teams,
    dag_schedule_asset_reference.c.allow_global_producers,
).where(dag_schedule_asset_reference.c.asset_id == any_(_these_assets))
_CONSUMERS = select(
    task_outlet_asset_reference.c.asset_id,
    task_outlet_asset_reference.c.allow_consumer_teams,
    task_outlet_asset_reference.c.allow_global_consumers,
).where(
    task_outlet_asset_reference.c.asset_id == any_(_these_assets),
    task_outlet_asset_reference.c.dag_id == bindparam("dag_id"),
    task_outlet_asset_reference.c.task_id == bindparam("task_id"),
)


async def of_dags(session: Session, *, dag_ids: Collection[str]) -> dict[str, str]:
    """Return the teams of those Dags that have one."""
    found = await session.execute(_OF_DAGS, {"dag_ids": sorted(dag_ids)})
    return {row.dag_id: row.team_name for row in found}


async def accepted_producers(session: Session, *, asset_pks: Collection[int]) -> dict[tuple[int, str], AnyRow]:
    """Return, by asset and Dag, which producers' events each Dag that is scheduled by an asset accepts."""
    found = await session.execute(_PRODUCERS, {"asset_pks": sorted(asset_pks)})
    return {(row.asset_id, row.dag_id): row for row in found}


async def accepted_consumers(
    session: Session, *, asset_pks: Collection[int], dag_id: str, task_id: str
) -> dict[int, AnyRow]:
    """Return, by asset, for which consumers the events are that a task emits."""
    found = await session.execute(_CONSUMERS, {"asset_pks": sorted(asset_pks), "dag_id": dag_id, "task_id": task_id})
    return {row.asset_id: row for row in found}


async def of_dag(session: Session, *, dag_id: str) -> str | None:
    """Return the team of a Dag, or None."""
    found: str | None = await session.scalar(_OF_DAG, {"dag_id": dag_id})
    return found


async def of_task_instance(session: Session, *, ti_id: uuid.UUID) -> str | None:
    """Return the team of a task instance, or None."""
    found: str | None = await session.scalar(_OF_TASK_INSTANCE, {"pk": ti_id})
    return found
