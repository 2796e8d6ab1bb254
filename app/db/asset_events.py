"""What a task emits: events of assets, the Dags that wait for them, and the queue of which the scheduler makes runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, JSON, Column, Integer, Text, any_, bindparam, cast, func, null, select, true, union
from sqlalchemy.dialects.postgresql import insert

from app.db.assets import AssetKey
from app.db.schema import Schema
from app.db.session import Session
from app.db.tables import (
    AnyRow,
    arguments,
    asset_alias_asset_event,
    asset_dag_run_queue,
    asset_event,
    dag,
    dag_schedule_asset_alias_reference,
    dag_schedule_asset_name_reference,
    dag_schedule_asset_reference,
    dag_schedule_asset_uri_reference,
    rows_of,
)


@dataclass(frozen=True, slots=True)
class Event:
    """An asset event to record.

    :param alias_pks: the aliases through which it came.
    :param waiting: the Dags of which the scheduler shall make runs for it.
    """

    asset_pk: int
    extra: Mapping[str, Any]
    partition_key: str | None
    alias_pks: Sequence[int]
    waiting: Sequence[str]


_told = rows_of("told", asset_pk=Integer, extra=JSON, partition_key=Text)
_through = rows_of("through", alias_pk=Integer, event_pk=Integer)
_RECORD_ALIASES = insert(asset_alias_asset_event).from_select(
    ["alias_id", "event_id"], select(_through.c.alias_pk, _through.c.event_pk)
)

_emitted = rows_of("emitted", asset_pk=Integer, name=Text, uri=Text)
_by_alias = dag_schedule_asset_alias_reference.c
_waiting = union(
    *(
        select(_emitted.c.asset_pk, cast(null(), Integer).label("alias_pk"), table.c.dag_id).join(
            _emitted, table.c[column] == _emitted.c[key]
        )
        for table, column, key in (
            (dag_schedule_asset_reference, "asset_id", "asset_pk"),
            (dag_schedule_asset_name_reference, "name", "name"),
            (dag_schedule_asset_uri_reference, "uri", "uri"),
        )
    ),
    select(cast(null(), Integer), _by_alias.alias_id, _by_alias.dag_id).where(
        _by_alias.alias_id == any_(bindparam("alias_pks", type_=ARRAY(Integer)))
    ),
).subquery("waiting")

_moment = select(func.clock_timestamp().label("now")).cte("moment")
_pairs = rows_of("pairs", asset_pk=Integer, dag_id=Text)
_queued = insert(asset_dag_run_queue).from_select(
    ["asset_id", "target_dag_id", "created_at"],
    select(_pairs.c.asset_pk, _pairs.c.dag_id, _moment.c.now)
    .select_from(_pairs.join(_moment, true()))
    .order_by(_pairs.c.asset_pk, _pairs.c.dag_id),
)
_QUEUE = _queued.on_conflict_do_update(
    index_elements=["asset_id", "target_dag_id"],
    set_={"created_at": func.greatest(asset_dag_run_queue.c.created_at, _queued.excluded.created_at)},
).returning(select(_moment.c.now).scalar_subquery())


class AssetEvents:
    """The events of assets in a release's database; here a Dag is queued once, whichever events it waits for."""

    def __init__(self, schema: Schema) -> None:
        columns = [Column(column.name, column.type, primary_key=column.primary_key) for column in asset_event.c]
        table = schema.table("asset_event", *columns)
        source = {name: f"source_{name}" for name in ("dag_id", "task_id", "run_id", "map_index")}
        if (of_try := "source_task_instance_id") in table.c:
            source["id"] = of_try
        self._source = source
        told = [*source.values(), "timestamp"]
        self._record = (
            insert(table)
            .from_select(
                ["asset_id", "extra", "partition_key", *told],
                select(
                    _told.c.asset_pk,
                    _told.c.extra,
                    _told.c.partition_key,
                    *(bindparam(name, type_=table.c[name].type) for name in told),
                ).order_by(_told.c.place),
            )
            .returning(table.c.id)
        )
        self._consumers = (
            select(_waiting.c.asset_pk, _waiting.c.alias_pk, dag.c.dag_id, dag.c.timetable_partitioned)
            .join(dag, dag.c.dag_id == _waiting.c.dag_id)
            .where(dag.c.is_paused.is_(False))
            .order_by(dag.c.dag_id)
        )

    async def consumers(
        self, session: Session, *, keys: Mapping[int, AssetKey], alias_pks: Collection[int]
    ) -> Sequence[AnyRow]:
        """Return the Dags that wait for assets or aliases and may run, in order of their ids, and if each is partitioned.

        :param keys: the assets, which Dags name by id, name or uri.
        :returns: a row for each asset (``asset_pk``) or alias (``alias_pk``) for which a Dag waits.
        """
        rows = [(pk, *key) for pk, key in sorted(keys.items())]
        parameters = {**arguments(["asset_pks", "names", "uris"], rows), "alias_pks": sorted(alias_pks)}
        return (await session.execute(self._consumers, parameters)).all()

    async def record(self, session: Session, *, events: Sequence[Event], source: AnyRow, now: datetime) -> list[int]:
        """Insert asset events, queue the Dags that wait for them, and return their ids, in the order of the events.

        The scheduler takes the rows of a Dag that nobody holds, makes a run of the events up to the newest of their times,
        and deletes them. So a Dag that is queued already is queued anew, as of now; its rows are held from here on, so that
        no run can be made between this time and the commit; and the time is the database's, one clock for all servers.

        They are taken in key order, so that two reports that queue the same Dags meet at the first.

        :param source: the task instance that emitted them.
        :raises LockTimeout: when somebody holds one of the rows.
        """
        pairs = sorted({(event.asset_pk, dag_id) for event in events for dag_id in event.waiting})
        if pairs:
            now = await session.scalar(_QUEUE, arguments(["asset_pks", "dag_ids"], pairs))
        return await self._insert(session, events, source, now)

    async def _insert(self, session: Session, events: Sequence[Event], source: AnyRow, now: datetime) -> list[int]:
        rows = [(event.asset_pk, event.extra, event.partition_key) for event in events]
        told = {name: getattr(source, of) for of, name in self._source.items()}
        parameters = {**arguments(["asset_pks", "extras", "partition_keys"], rows), **told, "timestamp": now}
        event_pks = sorted(await session.scalars(self._record, parameters))
        pairs = [
            (alias_pk, event_pk) for event, event_pk in zip(events, event_pks, strict=True) for alias_pk in event.alias_pks
        ]
        if pairs:
            await session.execute(_RECORD_ALIASES, arguments(["alias_pks", "event_pks"], pairs))
        return event_pks
