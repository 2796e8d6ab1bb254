"""Partitions of Dags that wait for assets' events: what the scheduler makes their runs of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Column, DateTime, Integer, String, Text, bindparam, func, insert, select, true, update

from app.db.schema import Schema, known
from app.db.session import Session
from app.db.tables import arguments, partitioned_asset_key_log, rows_of

WAITING = 0x45584150  # the class of our advisory locks: a number of our own

_dags = rows_of("dags", dag_id=Text)
LOCK = select(func.pg_advisory_xact_lock(WAITING, func.hashtext(_dags.c.dag_id))).select_from(_dags)

_wanted = rows_of("wanted", dag_id=Text, key=Text)
_made = rows_of("made", dag_id=Text, key=Text, date=DateTime(timezone=True), fingerprint=JSON)
_now = bindparam("now", type_=DateTime(timezone=True))
_RECORD_KEYS = insert(partitioned_asset_key_log)

_Place = tuple[str, str, int]  # the id of a Dag, the key of its partition, and the event for which it is alone, or 0


@dataclass(frozen=True, slots=True)
class Joining:
    """An asset event that belongs to a partition of a Dag.

    :param source_key: the event's own partition key.
    :param key: what the Dag calls that partition.
    :param date: of the event's own partition, for mappers that keep it. Events that disagree leave none.
    :param fingerprint: every asset's mapper.
    :param batches: whether it joins others that came before; else a run is made of it alone.
    """

    dag_id: str
    key: str
    asset_pk: int
    event_pk: int
    source_key: str
    date: datetime | None
    fingerprint: Mapping[str, Any]
    batches: bool

    @property
    def place(self) -> _Place:
        """Which events are in a run together."""
        return self.dag_id, self.key, 0 if self.batches else self.event_pk


class Partitions:
    """The partitions of Dags in a release's database."""

    def __init__(self, schema: Schema) -> None:
        times = [Column(name, DateTime(timezone=True)) for name in ("partition_date", "created_at", "updated_at")]
        table = schema.table(
            "asset_partition_dag_run",
            Column("id", Integer, primary_key=True),
            *(Column(name, String) for name in ("target_dag_id", "partition_key")),
            Column("created_dag_run_id", Integer),
            Column("rollup_fingerprint", JSON),
            *times,
        )
        self._has_dates = "partition_date" in table.c  # not in Airflow 3.2
        dates = [table.c.partition_date] if self._has_dates else []
        # They are held until the commit: a run that is made of one between this and that would lack the event that joins it.
        newest = (
            select(table.c.id, table.c.created_dag_run_id, *dates)
            .where(table.c.target_dag_id == _wanted.c.dag_id, table.c.partition_key == _wanted.c.key)
            .order_by(table.c.id.desc())
            .limit(1)
            .with_for_update(of=table, key_share=True)
            .lateral("newest")
        )
        found = select(_wanted.c.dag_id, _wanted.c.key, newest).select_from(_wanted.join(newest, true()))
        self._newest = found.order_by(_wanted.c.place)
        new = {"target_dag_id": _made.c.dag_id, "partition_key": _made.c.key, "created_at": _now, "updated_at": _now}
        new = known(table, {**new, "partition_date": _made.c.date, "rollup_fingerprint": _made.c.fingerprint})
        made = insert(table).from_select(list(new), select(*new.values()).order_by(_made.c.place))
        self._make = made.returning(table.c.id)
        self._set_date = update(table).where(table.c.id == bindparam("pk"))

    async def join(self, session: Session, *, joining: Sequence[Joining], now: datetime) -> None:
        """Let events join the partitions of Dags that have no run yet; new ones are made where there are none.

        Others are kept from waiting for partitions of these Dags until the transaction ends: two events of one partition
        that came at once would each make their own (decision 12).

        :raises LockTimeout: when somebody holds one of the Dags, or the scheduler makes the run of a partition right now;
            after that, the next event is for another.
        """
        await session.execute(LOCK, {"dag_ids": sorted({event.dag_id for event in joining})})
        first = {event.place: event for event in reversed(joining)}
        shared = sorted((dag_id, key) for dag_id, key, alone in first if not alone)
        found = await session.execute(self._newest, arguments(["dag_ids", "keys"], shared)) if shared else ()
        waiting = {(row.dag_id, row.key, 0): row for row in found if row.created_dag_run_id is None}
        pks = {place: row.id for place, row in waiting.items()}
        dates: dict[_Place, datetime | None] = {}
        if self._has_dates:
            stored = {place: row.partition_date for place, row in waiting.items()}
            dates = _agreed(stored, joining)
            moved = [
                {"pk": pks[place], "partition_date": dates[place], "updated_at": now}
                for place in pks
                if dates[place] != stored[place]
            ]
            await session.execute(self._set_date, moved)
        if new := sorted(first.keys() - waiting.keys(), key=lambda place: (place[2], place)):  # events one after the other
            rows = [(*place[:2], dates.get(place), first[place].fingerprint) for place in new]
            names = ["dag_ids", "keys", "dates", "fingerprints"][: 4 if self._has_dates else 2]
            made = await session.scalars(self._make, {**arguments(names, rows), "now": now})
            pks |= dict(zip(new, sorted(made), strict=True))  # they are made in this order
        await session.execute(
            _RECORD_KEYS,
            [
                {
                    "asset_id": event.asset_pk,
                    "asset_event_id": event.event_pk,
                    "asset_partition_dag_run_id": pks[event.place],
                    "source_partition_key": event.source_key,
                    "target_dag_id": event.dag_id,
                    "target_partition_key": event.key,
                    "created_at": now,
                }
                for event in joining
            ],
        )


def _agreed(stored: Mapping[_Place, datetime | None], joining: Sequence[Joining]) -> dict[_Place, datetime | None]:
    """Return the date of each partition once the events have joined it, one after another.

    :param stored: of those that wait already.
    """
    dates = dict(stored)
    for event in joining:
        place = event.place
        if place not in dates:
            dates[place] = event.date
        elif event.date is not None and event.date != dates[place]:
            dates[place] = event.date if dates[place] is None else None
    return dates
