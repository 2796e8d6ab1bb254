"""Regions as Airflow 3.4 stores them: each mapped task, and each loop, of a run has one, in which instances are numbered."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, DateTime, Uuid, any_, bindparam, case, exists, extract, func, select, update
from sqlalchemy.dialects.postgresql import insert

from app.dags.loops import GATE, Loop
from app.db.regions import Regions
from app.db.schema import writes
from app.db.session import Session
from app.db.tables import AnyRow
from app.db.tries import ENDED
from app.db.uuids import uuid7
from app.errors import LockTimeout
from app.releases.airflow_3_4.lineage import Lineage, Lineages, Pass, Region
from app.releases.airflow_3_4.schema import NO_REGION, RegionSchema

OVER = {"working_set": None, "archived_reason": "superseded", "trigger_id": None}  # a try that none follows
NOT_STARTED = ("scheduled", "queued", "up_for_retry")
STOPPED = ("running", "restarting")  # the states of those that a clearing stops first


class RegionsOfRuns(Regions):
    """The regions of a release's runs."""

    have_loops = True

    def __init__(self, schema: RegionSchema) -> None:
        self._schema = schema
        region, row = schema.region, schema.task_instance
        self._lineages = Lineages(region)
        self._create = insert(region).on_conflict_do_nothing(index_elements=[region.c.slot_key])
        of_run = row.c.dag_id == bindparam("dag_id"), row.c.run_id == bindparam("run_id")
        self._fork = insert(region)
        has_ended = func.coalesce(row.c.state.in_(ENDED), False)
        ends_now = ~has_ended & row.c.state.is_not(None) & row.c.state.not_in(NOT_STARTED)
        end = case((row.c.end_date.is_(None), bindparam("now", type_=DateTime(timezone=True))), else_=row.c.end_date)
        lasted = case((row.c.end_date.is_(None), extract("epoch", end - row.c.start_date)), else_=row.c.duration)
        self._end = (
            update(row)
            .where(row.c.id == any_(bindparam("ids", type_=ARRAY(Uuid))))
            .values(
                state=case((ends_now, "failed"), else_=row.c.state),
                end_date=case((ends_now, end), else_=row.c.end_date),
                duration=case((ends_now, lasted), else_=row.c.duration),
                updated_at=bindparam("now", type_=DateTime(timezone=True)),
                **OVER,
            )
        )
        of_task = *of_run, row.c.task_id == bindparam("task_id"), row.c.id != bindparam("but"), row.c.working_set.is_(True)
        self._has_others = select(exists().where(*of_task))
        self._gates = select(row.c.task_id, row.c.region_id, row.c.map_index.label("region_index")).where(
            *of_run, row.c.operator == GATE, row.c.working_set.is_(True)
        )

    def place(self, rows: Sequence[dict[str, Any]]) -> bool:
        return any(row["is_mapped"] or row["loop"] for row in rows)

    async def placed(
        self,
        session: Session,
        *,
        rows: Sequence[dict[str, Any]],
        run: Mapping[str, str],
        within: Pass | None = None,
        now: datetime,
    ) -> Sequence[dict[str, Any]]:
        if not self.place(rows):
            return [{**row, "region_id": NO_REGION} for row in rows]
        lineage = await self._lineages.of_run(session, **run)
        passes: dict[str, list[Pass]] = {}
        if within is not None:
            passes[within.region.node_id] = [within]
        elif any(row["loop"] for row in rows):
            passes = await self._passes(session, lineage, run)
        places = Places(lineage, passes)
        placed = [{**row, **place} for row in rows for place in places.of(row)]
        new = [region.columns(**run, now=now) for region in places.made]
        if new:
            await session.execute(self._create, new)
            made = {region.id for region in await self._lineages.of_run(session, **run)}
            if any(region["id"] not in made for region in new):
                raise LockTimeout("somebody else places the same tasks")
        return placed

    async def next_pass(self, session: Session, *, gate: AnyRow) -> Pass | None:
        run = {"dag_id": gate.dag_id, "run_id": gate.run_id}
        lineage = await self._lineages.of_run(session, **run)
        own = lineage.pass_of(gate.region_id, gate.region_index)
        assert own is not None
        for other in (await self._passes(session, lineage, run)).get(own.region.node_id, ()):
            if other.number > own.number:
                return None
        return lineage.next_pass(own)

    async def go_back(self, session: Session, *, rows: Sequence[AnyRow], now: datetime) -> set[uuid.UUID]:
        gates = [row for row in rows if row.operator == GATE and row.region_id is not None]
        if not gates:
            return set()
        run = {"dag_id": gates[0].dag_id, "run_id": gates[0].run_id}
        lineage = await self._lineages.of_run(session, **run)
        first: dict[uuid.UUID, Pass] = {}
        for gate in gates:
            at = lineage.pass_of(gate.region_id, gate.region_index)
            if at is not None and (at.region.family not in first or at.number < first[at.region.family].number):
                first[at.region.family] = at
        over = [row.id for row in rows if row.state not in STOPPED and _is_after(first, lineage, row)]
        await session.execute(self._end, {"ids": over, "now": now})
        forks = [lineage.fork(at.region, at.number + 1).columns(**run, now=now) for at in first.values()]
        await session.execute(self._fork, forks)
        return set(over)

    async def expand_anew(self, session: Session, *, rows: Sequence[AnyRow], now: datetime) -> set[uuid.UUID]:
        old = [row for row in rows if _is_without_region(row)]
        if not old:
            return set()
        run = {"dag_id": old[0].dag_id, "run_id": old[0].run_id}
        lineage = await self._lineages.of_run(session, **run)
        without = sorted({row.task_id for row in old if lineage.of_task(row.task_id) is None})
        if without:
            regions = [Region(uuid7(), task_id).columns(**run, now=now) for task_id in without]
            await session.execute(self._create, regions)
        over = [row.id for row in old if row.state not in STOPPED]
        await session.execute(self._end, {"ids": over, "now": now})
        return set(over)

    def may_be_over(self, row: AnyRow) -> bool:
        return row.pass_number is not None or _is_without_region(row)

    async def is_over(self, session: Session, *, row: AnyRow) -> bool:
        lineage = await self._lineages.of_run(session, dag_id=row.dag_id, run_id=row.run_id)
        if _is_without_region(row):
            return lineage.of_task(row.task_id) is not None
        return lineage.is_superseded(row.region_id, row.region_index)

    async def end(self, session: Session, *, row: AnyRow, values: Mapping[str, Any]) -> bool:
        ended = {**values, **OVER, "state": "failed"}
        await session.execute(self._schema.setting(ended), writes(row.id, ended))
        of_task = {"dag_id": row.dag_id, "run_id": row.run_id, "task_id": row.task_id, "but": row.id}
        return _is_without_region(row) and not await session.scalar(self._has_others, of_task)

    async def _passes(self, session: Session, lineage: Lineage, run: Mapping[str, str]) -> dict[str, list[Pass]]:
        """Return, by the id of each loop that a run has, its passes: those with a gate that no fork has taken over."""
        passes: dict[str, list[Pass]] = {region.node_id: [] for region in lineage if region.parent is None}
        for gate in await session.execute(self._gates, run):
            at = lineage.pass_of(gate.region_id, gate.region_index)
            if at is not None and not lineage.is_superseded(gate.region_id, gate.region_index):
                passes[at.region.node_id].append(at)
        return passes


def _is_without_region(row: AnyRow) -> bool:
    """Say whether a task instance is one of several that were expanded by a release that knew no regions."""
    return row.region_id is None and row.map_index >= 0


def _is_after(first: dict[uuid.UUID, Pass], lineage: Lineage, row: AnyRow) -> bool:
    """Say whether a task instance is of a pass after the first one of its loop."""
    at = None if row.region_id is None else lineage.pass_of(row.region_id, row.region_index)
    return at is not None and at.region.family in first and at.number > first[at.region.family].number


class Places:
    """Where new task instances are, and the regions that are made for them.

    :param lineage: the regions that the run has.
    :param passes: by the id of each loop that it has, those in which new ones are wanted.
    """

    def __init__(self, lineage: Lineage, passes: dict[str, list[Pass]]) -> None:
        self._passes = passes
        self._regions = {(region.node_id, region.parent): region for region in lineage if region.source is None}
        self._known = len(self._regions)

    @property
    def made(self) -> list[Region]:
        """Those that the run did not have, parents first."""
        return list(self._regions.values())[self._known :]

    def of(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the columns of a new task instance's places."""
        loop: Loop | None = row["loop"]
        if loop is None:
            return [self._at(row, None)]
        if loop.node_id not in self._passes:
            self._passes[loop.node_id] = [Pass(self._region(loop.node_id, None), 0)]
        return [self._at(row, each) for each in self._passes[loop.node_id]]

    def _at(self, row: dict[str, Any], within: Pass | None) -> dict[str, Any]:
        own = {} if within is None else {"id": uuid7()}  # each pass has one
        if row["is_mapped"]:
            return {**own, "region_id": self._region(row["task_id"], within).id}
        if within is not None:
            return {**own, "region_id": within.region.id, "map_index": within.number}
        return {"region_id": NO_REGION}

    def _region(self, node_id: str, within: Pass | None) -> Region:
        parent = None if within is None else (within.region.id, within.number)
        if (found := self._regions.get((node_id, parent))) is None:
            path = b"" if within is None else within.region.below(within.number)
            found = self._regions[node_id, parent] = Region(uuid7(), node_id, parent, path=path)
        return found
