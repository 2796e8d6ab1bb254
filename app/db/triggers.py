"""Triggers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import CTE, Column, DateTime, Integer, String, bindparam, cast, func, insert, select
from sqlalchemy.dialects.postgresql import REGCLASS

from app.db.recording import Along, Part
from app.db.schema import Schema, known


class Triggers:
    """The triggers of a release's database."""

    def __init__(self, schema: Schema) -> None:
        pk, created = Column("id", Integer, primary_key=True), Column("created_date", DateTime(timezone=True))
        texts = [Column(name, String) for name in ("classpath", "kwargs", "queue", "team_name")]
        self._table = table = schema.table("trigger", pk, *texts, created)
        sequence = cast(func.pg_get_serial_sequence("trigger", "id"), REGCLASS)
        columns = [column.key for column in table.c if column.key != "id"]
        given = {name: bindparam(f"trigger_{name}", type_=table.c[name].type) for name in columns}

        def writes(changed: CTE) -> list[CTE]:
            values = select(changed.c.trigger_id, *given.values())
            return [insert(table).from_select(["id", *given], values).cte("created")]

        self._creating = Part(writes, sets={"trigger_id": func.nextval(sequence)})

    def created(
        self,
        *,
        classpath: str,
        kwargs: Mapping[str, Any] | str,
        queue: str | None,
        team_name: str | None,
        now: datetime,
    ) -> Along:
        """Return what inserts the trigger of a task instance, and points to it.

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
        return Along(self._creating, {f"trigger_{name}": value for name, value in known(self._table, values).items()})
