"""Dags."""

from __future__ import annotations

from datetime import datetime

from app.schemas.base import BaseModel


class DagResponse(BaseModel):
    """A Dag."""

    dag_id: str
    is_paused: bool
    bundle_name: str | None
    bundle_version: str | None
    relative_fileloc: str | None
    owners: str | None
    tags: list[str]
    next_dagrun: datetime | None
