"""Partitions of Dags that wait for assets' events: what the scheduler makes their runs of."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, func, insert, select, update

from app.db.session import Session
from app.db.tables import asset_partition_dag_run, partitioned_asset_key_log
from app.releases import Revision

WAITING = 0x45584150  # the class of our advisory locks: a number of our own

_waiting = asset_partition_dag_run.c
# Held until the commit, so that no run is made of a partition between this and that: an event that joins would be in none.
_NEWEST = (
    select(_waiting.id, _waiting.created_dag_run_id)
    .where(_waiting.target_dag_id == bindparam("dag_id"), _waiting.partition_key == bindparam("key"))
    .order_by(_waiting.id.desc())
    .limit(1)
    .with_for_update(of=asset_partition_dag_run, key_share=True)
)
_NEWEST_WITH_DATE = _NEWEST.add_columns(_waiting.partition_date)
_MAKE = insert(asset_partition_dag_run).returning(_waiting.id)
_SET_DATE = update(asset_partition_dag_run).where(_waiting.id == bindparam("pk"))
_RECORD_KEY = insert(partitioned_asset_key_log)
_LOCK = select(func.pg_advisory_xact_lock(WAITING, func.hashtext(bindparam("dag_id"))))


async def lock_waiting(session: Session, *, dag_id: str) -> None:
    """Keep others from waiting for partitions of a Dag until this transaction ends.

    Two events of one partition that came at once would each make their own (decision 12).
    """
    await session.execute(_LOCK, {"dag_id": dag_id})


async def wait_for(
    session: Session,
    *,
    dag_id: str,
    key: str,
    date: datetime | None,
    fingerprint: Mapping[str, Any],
    now: datetime,
    revision: Revision,
) -> int:
    """Return the id of a Dag's partition that has no run yet; a new one is made when there is none.

    :param date: of the event's own partition, for mappers that keep it. Events that disagree leave none.
    :raises LockTimeout: when the scheduler makes its run right now; after that, the next event is for another.
    """
    known = revision.known("asset_partition_dag_run", {"partition_date": date, "rollup_fingerprint": fingerprint})
    newest = _NEWEST_WITH_DATE if "partition_date" in known else _NEWEST
    row = (await session.execute(newest, {"dag_id": dag_id, "key": key})).one_or_none()
    if row is None or row.created_dag_run_id is not None:
        values = {"target_dag_id": dag_id, "partition_key": key, "created_at": now, "updated_at": now, **known}
        return int((await session.execute(_MAKE, values)).scalar_one())
    if "partition_date" in known and date is not None and row.partition_date != date:
        agreed = date if row.partition_date is None else None
        await session.execute(_SET_DATE, {"pk": row.id, "partition_date": agreed, "updated_at": now})
    return int(row.id)


async def record_key(
    session: Session,
    *,
    asset_pk: int,
    event_pk: int,
    partition_pk: int,
    source_key: str,
    dag_id: str,
    key: str,
    now: datetime,
) -> None:
    """Record that an event belongs to a Dag's partition."""
    values = {
        "asset_id": asset_pk,
        "asset_event_id": event_pk,
        "asset_partition_dag_run_id": partition_pk,
        "source_partition_key": source_key,
        "target_dag_id": dag_id,
        "target_partition_key": key,
        "created_at": now,
    }
    await session.execute(_RECORD_KEY, values)
