"""Regions: what repeats task instances in a run, a mapped task or a loop, has one each time that it is carried out.

A row of ``task_instance`` is at an index of a region: of a mapped task's, that is its map index (-1: it stands for all, as
long as their number is not known); of a loop's, the pass. What is mapped in a loop has one in each pass, below the loop's.
Rows of regions never change; when a loop goes back, a fork takes over the passes from some index on.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Table, bindparam, select

from app.db.session import Session
from app.db.uuids import uuid7
from app.releases.airflow_3_4.schema import NO_REGION


@dataclass(frozen=True, slots=True)
class Region:
    """A region of a run.

    :param node_id: of what it carries out: the id of a mapped task, or of a loop's task group.
    :param parent: for what is mapped in a loop: the loop's region and the pass.
    :param source: of which region it is a fork.
    :param first: a fork's first pass.
    :param root: the first of the regions that are forks of each other; None: it is the first itself.
    :param path: by which all regions below a pass are found.
    """

    id: uuid.UUID
    node_id: str
    parent: tuple[uuid.UUID, int] | None = None
    source: uuid.UUID | None = None
    first: int = 0
    root: uuid.UUID | None = None
    path: bytes = b""

    @classmethod
    def of(cls, row: Any) -> Region:
        """Return the region of a row."""
        parent = None if row.parent_region_id is None else (row.parent_region_id, row.parent_region_index)
        further = (row.forked_from_region_id, row.resumes_from_index, row.family_root_id, bytes(row.path))
        return cls(row.id, row.node_id, parent, *further)

    @property
    def family(self) -> uuid.UUID:
        """What the region and its forks have in common."""
        return self.root or self.id

    def below(self, index: int) -> bytes:
        """Return the path of the regions in one of its passes."""
        return self.path + self.family.bytes + struct.pack(">I", index)

    def columns(self, dag_id: str, run_id: str, *, now: datetime) -> dict[str, Any]:
        """Return its row."""
        parent = self.parent or (None, None)
        return {
            "id": self.id,
            "dag_id": dag_id,
            "run_id": run_id,
            "node_id": self.node_id,
            "parent_region_id": parent[0],
            "parent_region_index": parent[1],
            "forked_from_region_id": self.source,
            "family_root_id": self.family,
            "path": self.path,
            "resumes_from_index": self.first,
            "slot_key": None if self.source else slot_key(dag_id, run_id, self.node_id, self.parent),
            "created_at": now,
        }


def slot_key(dag_id: str, run_id: str, node_id: str, parent: tuple[uuid.UUID, int] | None = None) -> bytes:
    """Return what two regions for one and the same purpose have in common, so that there is one: Airflow's own formula."""
    parts = (part.encode() for part in (dag_id, run_id, node_id))
    named = b"".join(struct.pack(">I", len(part)) + part for part in parts)
    region_id, index = parent or (NO_REGION, -1)
    return hashlib.sha256(named + region_id.bytes + struct.pack(">i", index)).digest()


class Pass(NamedTuple):
    """A pass of a loop: the loop's region, and how many passes were before it."""

    region: Region
    number: int


class Lineage:
    """How the regions of a run follow from each other."""

    def __init__(self, regions: Iterable[Region]) -> None:
        self._regions = {region.id: region for region in regions}
        self._forks = {region.source: region for region in self._regions.values() if region.source}

    def __iter__(self) -> Iterator[Region]:
        return iter(self._regions.values())

    def pass_of(self, region_id: uuid.UUID, index: int) -> Pass | None:
        """Return the pass in which something is that a loop repeats."""
        if (region := self._regions.get(region_id)) is None:
            return None
        return Pass(self._regions[region.parent[0]], region.parent[1]) if region.parent else Pass(region, index)

    def of_task(self, task_id: str) -> Region | None:
        """Return the region of a mapped task that is in no loop, if it has one."""
        own = (each for each in self if each.node_id == task_id and each.parent is None and each.source is None)
        return next(own, None)

    def forks(self, region: Region) -> Iterator[Region]:
        """Yield the forks that followed from a region, one from the other."""
        while (fork := self._forks.get(region.id)) is not None:
            yield (region := fork)

    def is_superseded(self, region_id: uuid.UUID, index: int) -> bool:
        """Say whether a fork has taken over an index of a region, or the pass that it is in."""
        if (region := self._regions.get(region_id)) is None:
            return False
        if any(fork.first <= index for fork in self.forks(region)):
            return True
        return region.parent is not None and self.is_superseded(*region.parent)

    def next_pass(self, gate: Pass) -> Pass:
        """Return the pass that follows a gate's: in its own region, or in the fork that has taken it over."""
        holders = [gate.region, *(fork for fork in self.forks(gate.region) if fork.first <= gate.number + 1)]
        return Pass(holders[-1], gate.number + 1)

    def fork(self, region: Region, first: int) -> Region:
        """Return a fork of the newest of a region's forks, which takes over from a pass on."""
        leaf = [region, *self.forks(region)][-1]
        return Region(uuid7(), leaf.node_id, leaf.parent, leaf.id, first, leaf.family, leaf.path)


class Lineages:
    """The regions of a database's runs."""

    def __init__(self, region: Table) -> None:
        of_run = region.c.dag_id == bindparam("dag_id"), region.c.run_id == bindparam("run_id")
        self._of_run = select(region).where(*of_run)

    async def of_run(self, session: Session, *, dag_id: str, run_id: str) -> Lineage:
        """Return the regions of a run."""
        rows = await session.execute(self._of_run, {"dag_id": dag_id, "run_id": run_id})
        return Lineage(Region.of(row) for row in rows)
