"""Asset events as Airflow 3.4 keeps them: it queues a Dag for each one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Boolean, Column, ColumnElement, DateTime, Integer, String, Text, bindparam, select
from sqlalchemy.dialects.postgresql import insert

from app.db.asset_events import AssetEvents, Event
from app.db.schema import Schema
from app.db.session import Session
from app.db.tables import AnyRow, arguments, dag, rows_of
from app.releases.airflow_3_4.schema import RegionSchema

_waiting = rows_of("waiting", dag_id=Text, event_pk=Integer, asset_pk=Integer)


class QueuedEvents(AssetEvents):
    """Events that name themselves in the queue: whoever is queued before, or at the same time, is in nobody's way.

    A Dag that drains, whose runs shall end, waits for nothing any more.
    """

    def __init__(self, schema: RegionSchema) -> None:
        super().__init__(schema)
        queue = schema.table(
            "asset_dag_run_queue",
            Column("target_dag_id", String, primary_key=True),
            Column("asset_event_id", Integer, primary_key=True),
            Column("asset_id", Integer),
            Column("created_at", DateTime(timezone=True)),
        )
        now = bindparam("now", type_=DateTime(timezone=True))
        row = [*(_waiting.c[name] for name in ("dag_id", "event_pk", "asset_pk")), now]
        self._queue = insert(queue).from_select([column.name for column in queue.c], select(*row).order_by(_waiting.c.place))

    def _may_run(self, schema: Schema) -> ColumnElement[bool]:
        draining = schema.table("dag", Column("dag_id", String, primary_key=True), Column("is_draining", Boolean)).alias()
        not_running = select(draining.c.dag_id).where(draining.c.dag_id == dag.c.dag_id, draining.c.is_draining)
        return super()._may_run(schema) & ~not_running.correlate(dag).exists()

    async def record(self, session: Session, *, events: Sequence[Event], source: AnyRow, now: datetime) -> list[int]:
        told = {**self._parameters(events, source), "timestamp": now}
        event_pks = await self._through(session, events, await session.scalars(self._insert, told))
        rows = sorted(
            (dag_id, event_pk, event.asset_pk)
            for event, event_pk in zip(events, event_pks, strict=True)
            for dag_id in event.waiting
        )
        if rows:
            await session.execute(self._queue, {**arguments(["dag_ids", "event_pks", "asset_pks"], rows), "now": now})
        return event_pks
