"""Partitions of Dags that wait for assets' events: what the scheduler makes their runs of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Insert, Select, Text, bindparam, func, insert, select, true, update

from app.db.session import Session
from app.db.tables import arguments, asset_partition_dag_run, partitioned_asset_key_log, rows_of
from app.releases import Revision

WAITING = 0x45584150  # the class of our advisory locks: a number of our own

_dags = rows_of("dags", dag_id=Text)
_LOCK = select(func.pg_advisory_xact_lock(WAITING, func.hashtext(_dags.c.dag_id))).select_from(_dags)

_partition = asset_partition_dag_run.c
_wanted = rows_of("wanted", dag_id=Text, key=Text)
_made = rows_of("made", dag_id=Text, key=Text, date=DateTime(timezone=True), fingerprint=JSON)
_now = bindparam("now", type_=DateTime(timezone=True))


def _newest(*more: str) -> Select[Any]:
    """Return the statement that finds and locks the newest partition of each Dag and key.

    They are held until the commit: a run that is made of one between this and that would lack the event that joins it.
    """
    newest = (
        select(*(_partition[name] for name in ("id", "created_dag_run_id", *more)))
        .where(_partition.target_dag_id == _wanted.c.dag_id, _partition.partition_key == _wanted.c.key)
        .order_by(_partition.id.desc())
        .limit(1)
        .with_for_update(of=asset_partition_dag_run, key_share=True)
        .lateral("newest")
    )
    return (
        select(_wanted.c.dag_id, _wanted.c.key, newest).select_from(_wanted.join(newest, true())).order_by(_wanted.c.place)
    )


def _make(*more: str) -> Insert:
    """Return the statement that makes partitions."""
    new = {"partition_date": _made.c.date, "rollup_fingerprint": _made.c.fingerprint}
    columns = ["target_dag_id", "partition_key", "created_at", "updated_at", *more]
    chosen = select(_made.c.dag_id, _made.c.key, _now, _now, *(new[name] for name in more)).order_by(_made.c.place)
    made = insert(asset_partition_dag_run).from_select(columns, chosen)
    return made.returning(_partition.id, _partition.target_dag_id, _partition.partition_key)


_SINCE_3_3 = ("partition_date", "rollup_fingerprint")
_NEWEST = {True: _newest("partition_date"), False: _newest()}  # by whether partitions have dates
_MAKE = {True: _make(*_SINCE_3_3), False: _make()}
_SET_DATE = update(asset_partition_dag_run).where(_partition.id == bindparam("pk"))
_RECORD_KEYS = insert(partitioned_asset_key_log)


@dataclass(frozen=True, slots=True)
class Joining:
    """An asset event that belongs to a partition of a Dag.

    :param source_key: the event's own partition key.
    :param key: what the Dag calls that partition.
    :param date: of the event's own partition, for mappers that keep it. Events that disagree leave none.
    :param fingerprint: every asset's mapper.
    """

    dag_id: str
    key: str
    asset_pk: int
    event_pk: int
    source_key: str
    date: datetime | None
    fingerprint: Mapping[str, Any]


async def join(session: Session, *, joining: Sequence[Joining], now: datetime, revision: Revision) -> None:
    """Let events join the partitions of Dags that have no run yet; new ones are made where there are none.

    Others are kept from waiting for partitions of these Dags until the transaction ends: two events of one partition that
    came at once would each make their own (decision 12).

    :raises LockTimeout: when somebody holds one of the Dags, or the scheduler makes the run of a partition right now; after
        that, the next event is for another.
    """
    await session.execute(_LOCK, {"dag_ids": sorted({event.dag_id for event in joining})})
    first = {(event.dag_id, event.key): event for event in reversed(joining)}
    found = await session.execute(_NEWEST[revision.partitions_have_dates], arguments(["dag_ids", "keys"], sorted(first)))
    waiting = {(row.dag_id, row.key): row for row in found if row.created_dag_run_id is None}
    pks = {place: row.id for place, row in waiting.items()}
    dates: dict[tuple[str, str], datetime | None] = {}
    if revision.partitions_have_dates:
        stored = {place: row.partition_date for place, row in waiting.items()}
        dates = _agreed(stored, joining)
        moved = [
            {"pk": pks[place], "partition_date": dates[place], "updated_at": now}
            for place in pks
            if dates[place] != stored[place]
        ]
        await session.execute(_SET_DATE, moved)
    if new := sorted(first.keys() - waiting.keys()):
        rows = [(*place, dates.get(place), first[place].fingerprint) for place in new]
        names = ["dag_ids", "keys", "dates", "fingerprints"][: 4 if revision.partitions_have_dates else 2]
        made = await session.execute(_MAKE[revision.partitions_have_dates], {**arguments(names, rows), "now": now})
        pks |= {(row.target_dag_id, row.partition_key): row.id for row in made}
    await session.execute(
        _RECORD_KEYS,
        [
            {
                "asset_id": event.asset_pk,
                "asset_event_id": event.event_pk,
                "asset_partition_dag_run_id": pks[event.dag_id, event.key],
                "source_partition_key": event.source_key,
                "target_dag_id": event.dag_id,
                "target_partition_key": event.key,
                "created_at": now,
            }
            for event in joining
        ],
    )


def _agreed(
    stored: Mapping[tuple[str, str], datetime | None], joining: Sequence[Joining]
) -> dict[tuple[str, str], datetime | None]:
    """Return the date of each partition once the events have joined it, one after another.

    :param stored: of those that wait already.
    """
    dates = dict(stored)
    for event in joining:
        place = (event.dag_id, event.key)
        if place not in dates:
            dates[place] = event.date
        elif event.date is not None and event.date != dates[place]:
            dates[place] = event.date if dates[place] is None else None
    return dates
