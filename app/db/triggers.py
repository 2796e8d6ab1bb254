"""Triggers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Column, DateTime, Integer, String, insert

from app.db.schema import Schema, known
from app.db.session import Session


class Triggers:
    """The triggers of a release's database."""

    def __init__(self, schema: Schema) -> None:
        pk, created = Column("id", Integer, primary_key=True), Column("created_date", DateTime(timezone=True))
        texts = [Column(name, String) for name in ("classpath", "kwargs", "queue", "team_name")]
        self._table = schema.table("trigger", pk, *texts, created)
        self._create = insert(self._table).returning(self._table.c.id)

    async def create(
        self,
        session: Session,
        *,
        classpath: str,
        kwargs: Mapping[str, Any] | str,
        queue: str | None,
        team_name: str | None,
        now: datetime,
    ) -> int:
        """Insert a trigger and return its id.

        :param kwargs: a string was encrypted by the worker and is kept as it is; a mapping is stored as plain JSON. The
            triggerer reads both.
        """
        values = {
            "classpath": classpath,
            "kwargs": kwargs if isinstance(kwargs, str) else json.dumps(kwargs),
            "queue": queue,
            "team_name": team_name,
            "created_date": now,
        }
        return int((await session.execute(self._create, known(self._table, values))).scalar_one())
