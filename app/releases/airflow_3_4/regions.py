"""Regions as Airflow 3.4 stores them: each mapped task of a run has one, in which its instances are numbered."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.dialects.postgresql import insert

from app.db.regions import Regions
from app.db.session import Session
from app.db.uuids import uuid7
from app.releases.airflow_3_4.schema import NO_REGION, RegionSchema


class RegionsOfRuns(Regions):
    """The regions of a release's runs, outside of loops."""

    def __init__(self, schema: RegionSchema) -> None:
        region = schema.region
        self._create = insert(region).on_conflict_do_nothing(index_elements=[region.c.slot_key])
        self._of_run = (
            select(region.c.node_id, region.c.id)
            .where(
                region.c.dag_id == bindparam("dag_id"),
                region.c.run_id == bindparam("run_id"),
                region.c.node_id.in_(bindparam("node_ids", expanding=True)),
                region.c.parent_region_id.is_(None),
                region.c.forked_from_region_id.is_(None),
            )
            .order_by(region.c.id.desc())  # the oldest is the last, which counts
        )

    async def placed(self, session: Session, *, rows: Sequence[dict[str, Any]], now: datetime) -> Sequence[dict[str, Any]]:
        mapped = sorted({row["task_id"] for row in rows if row["is_mapped"]})
        regions: dict[str, uuid.UUID] = {}
        if mapped:
            run = {name: rows[0][name] for name in ("dag_id", "run_id")}
            await session.execute(self._create, [_region(**run, node_id=task_id, now=now) for task_id in mapped])
            found = await session.execute(self._of_run, {**run, "node_ids": mapped})
            regions = {each.node_id: each.id for each in found}
        return [{**row, "region_id": regions.get(row["task_id"], NO_REGION)} for row in rows]


def slot_key(dag_id: str, run_id: str, node_id: str, parent: tuple[uuid.UUID, int] = (NO_REGION, -1)) -> bytes:
    """Return what is unique to the first region in a place: a hash of the place, each text after its length in bytes.

    :param parent: the region that it is in, and where in that.
    """
    digest = sha256()
    for text in (dag_id.encode(), run_id.encode(), node_id.encode()):
        digest.update(struct.pack(">I", len(text)) + text)
    digest.update(parent[0].bytes + struct.pack(">i", parent[1]))
    return digest.digest()


def _region(*, dag_id: str, run_id: str, node_id: str, now: datetime) -> dict[str, Any]:
    pk = uuid7()
    return {
        "id": pk,
        "dag_id": dag_id,
        "run_id": run_id,
        "node_id": node_id,
        "family_root_id": pk,
        "path": b"",
        "resumes_from_index": 0,
        "slot_key": slot_key(dag_id, run_id, node_id),
        "created_at": now,
    }
