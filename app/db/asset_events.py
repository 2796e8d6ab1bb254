"""What a task emits: events of assets, the Dags that wait for them, and the queue of which the scheduler makes runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    Column,
    ColumnElement,
    FromClause,
    Integer,
    Select,
    Text,
    any_,
    bindparam,
    cast,
    func,
    null,
    select,
    true,
    union,
)
from sqlalchemy.dialects.postgresql import insert

from app.db.assets import ACTIVE, AssetKey
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


@dataclass(frozen=True, slots=True)
class Found:
    """An active asset.

    :param waiting: the Dags that wait for it and may run: ``dag_id`` and ``timetable_partitioned`` of each.
    """

    pk: int
    name: str
    uri: str
    waiting: Sequence[AnyRow]


_told = rows_of("told", asset_pk=Integer, extra=JSON, partition_key=Text)
_through = rows_of("through", alias_pk=Integer, event_pk=Integer)
_RECORD_ALIASES = insert(asset_alias_asset_event).from_select(
    ["alias_id", "event_id"], select(_through.c.alias_pk, _through.c.event_pk)
)

_emitted = rows_of("emitted", asset_pk=Integer, name=Text, uri=Text)
_by_alias = dag_schedule_asset_alias_reference.c
_through_their_alias = select(cast(null(), Integer), _by_alias.alias_id, _by_alias.dag_id).where(
    _by_alias.alias_id == any_(bindparam("alias_pks", type_=ARRAY(Integer)))
)
_pairs = rows_of("pairs", waited_pk=Integer, waiting_id=Text)


class AssetEvents:
    """The events of assets in a release's database; here a Dag is queued once, whichever events it waits for."""

    def __init__(self, schema: Schema) -> None:
        columns = [Column(column.name, column.type, primary_key=column.primary_key) for column in asset_event.c]
        table = schema.table("asset_event", *columns)
        source = {name: f"source_{name}" for name in ("dag_id", "task_id", "run_id", "map_index")}
        if (of_try := "source_task_instance_id") in table.c:
            source["id"] = of_try
        self._source = source
        bound = {name: bindparam(name, type_=table.c[name].type) for name in source.values()}
        self._columns = ["asset_id", "extra", "partition_key", *bound, "timestamp"]
        self._told = select(_told.c.asset_pk, _told.c.extra, _told.c.partition_key, *bound.values()).order_by(_told.c.place)
        self._table = table
        at = bindparam("timestamp", type_=table.c.timestamp.type)
        self._insert = insert(table).from_select(self._columns, self._told.add_columns(at)).returning(table.c.id)
        self._record = self._recording()
        may_run = self._may_run(schema)
        self._consumers = _waiting_for(_emitted, _through_their_alias).where(may_run).order_by(dag.c.dag_id)
        theirs = _waiting_for(ACTIVE).where(may_run).subquery("consumers")
        self._find = (
            select(ACTIVE, theirs.c.dag_id, theirs.c.timetable_partitioned)
            .outerjoin(theirs, theirs.c.asset_pk == ACTIVE.c.asset_pk)
            .order_by(ACTIVE.c.name, ACTIVE.c.uri, theirs.c.dag_id)
        )

    def _may_run(self, schema: Schema) -> ColumnElement[bool]:
        """Match the Dags of which runs are made."""
        return dag.c.is_paused.is_(False)

    def _recording(self) -> Select[Any]:
        """Return the statement that queues Dags and then inserts events, at one time, which is chosen here."""
        moment = select(func.clock_timestamp().label("now")).cte("moment")
        queue = insert(asset_dag_run_queue).from_select(
            ["asset_id", "target_dag_id", "created_at"],
            select(_pairs.c.waited_pk, _pairs.c.waiting_id, moment.c.now)
            .select_from(_pairs.join(moment, true()))
            .order_by(_pairs.c.waited_pk, _pairs.c.waiting_id),
        )
        queued = (
            queue.on_conflict_do_update(
                index_elements=["asset_id", "target_dag_id"],
                set_={"created_at": func.greatest(asset_dag_run_queue.c.created_at, queue.excluded.created_at)},
            )
            .returning(asset_dag_run_queue.c.asset_id)
            .cte("queued")
        )
        are_queued = select(func.count()).select_from(queued).scalar_subquery() >= 0  # so that this comes first
        told = self._told.add_columns(moment.c.now).select_from(_told.join(moment, true())).where(are_queued)
        recorded = insert(self._table).from_select(self._columns, told).returning(self._table.c.id).cte("recorded")
        return select(recorded.c.id).add_cte(queued)

    async def find(
        self,
        session: Session,
        *,
        keys: Collection[AssetKey] = (),
        names: Collection[str] = (),
        uris: Collection[str] = (),
    ) -> list[Found]:
        """Return the active assets with these keys, names or uris, in key order, each with the Dags that wait for it."""
        parameters = {**arguments(["names", "uris"], keys), "by_names": sorted(names), "by_uris": sorted(uris)}
        rows = (await session.execute(self._find, parameters)).all()
        return [
            Found(*of, [row for row in rows_of_one if row.dag_id is not None])
            for of, rows_of_one in groupby(rows, key=lambda row: (row.asset_pk, row.name, row.uri))
        ]

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
        parameters = self._parameters(events, source) | arguments(["waited_pks", "waiting_ids"], pairs)
        return await self._through(session, events, await session.scalars(self._record, parameters))

    def _parameters(self, events: Sequence[Event], source: AnyRow) -> dict[str, Any]:
        rows = [(event.asset_pk, event.extra, event.partition_key) for event in events]
        told = {name: getattr(source, of) for of, name in self._source.items()}
        return {**arguments(["asset_pks", "extras", "partition_keys"], rows), **told}

    async def _through(self, session: Session, events: Sequence[Event], recorded: Iterable[int]) -> list[int]:
        """Note through which aliases recorded events came; return their ids, in the order of the events."""
        event_pks = sorted(recorded)
        pairs = [
            (alias_pk, event_pk) for event, event_pk in zip(events, event_pks, strict=True) for alias_pk in event.alias_pks
        ]
        if pairs:
            await session.execute(_RECORD_ALIASES, arguments(["alias_pks", "event_pks"], pairs))
        return event_pks


def _waiting_for(assets: FromClause, *others: Select[Any]) -> Select[Any]:
    """Select the Dags that wait for assets, which they name by id, name or uri, and whether each is partitioned.

    :param assets: ``asset_pk``, ``name`` and ``uri`` of each.
    :param others: further rows of asset id, alias id and Dag id.
    """
    references = (
        (dag_schedule_asset_reference, "asset_id", "asset_pk"),
        (dag_schedule_asset_name_reference, "name", "name"),
        (dag_schedule_asset_uri_reference, "uri", "uri"),
    )
    waiting = union(
        *(
            select(assets.c.asset_pk, cast(null(), Integer).label("alias_pk"), table.c.dag_id).join(
                assets, table.c[column] == assets.c[key]
            )
            for table, column, key in references
        ),
        *others,
    ).subquery("waiting")
    return select(waiting.c.asset_pk, waiting.c.alias_pk, dag.c.dag_id, dag.c.timetable_partitioned).join(
        dag, dag.c.dag_id == waiting.c.dag_id
    )
