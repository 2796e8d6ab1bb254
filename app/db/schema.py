"""What a release calls the columns of a task instance, and what names one.

Tables that releases have in different ways are made by the :class:`Schema` of each, which leaves out the columns that it
lacks and gives the others its names. Statements name columns as Airflow 3.3 does, whatever they are called in the database.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    DateTime,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    Update,
    Uuid,
    bindparam,
    cast,
    null,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.db.tables import AnyRow, dag_run, log


class Coordinates(NamedTuple):
    """What names a task instance across its tries.

    :param map_index: what the contract calls so: the place among the task's mapped instances, -1 for one that is not mapped.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int

    @classmethod
    def of(cls, row: AnyRow) -> Coordinates:
        """Return those of a row that has them."""
        return cls(row.dag_id, row.run_id, row.task_id, row.map_index)


def key_columns(*, primary_key: bool = False) -> list[Column[Any]]:
    """Return the four columns by which Airflow names a task instance across its tries."""
    texts = [Column(name, String, primary_key=primary_key) for name in ("dag_id", "task_id", "run_id")]
    return [*texts, Column("map_index", Integer, primary_key=primary_key)]


def attempt_columns() -> list[Column[Any]]:
    """Return what is known of one try of a task instance, whether it is the last or an earlier one."""
    return [
        *key_columns(),
        Column("try_number", Integer),
        Column("start_date", DateTime(timezone=True)),
        Column("end_date", DateTime(timezone=True)),
        Column("duration", Double),
        Column("state", String),
        Column("max_tries", Integer),
        *(Column(name, String) for name in ("hostname", "unixname", "pool")),
        Column("pool_slots", Integer),
        Column("queue", String),
        Column("priority_weight", Integer),
        *(Column(name, String) for name in ("operator", "custom_operator_name")),
        *(Column(name, DateTime(timezone=True)) for name in ("queued_dttm", "scheduled_dttm")),
        Column("queued_by_job_id", Integer),
        Column("pid", Integer),
        Column("executor", String),
        Column("executor_config", LargeBinary),
        Column("updated_at", DateTime(timezone=True)),
        Column("rendered_map_index", String),
        Column("context_carrier", JSONB),
        Column("span_status", String),
        Column("external_executor_id", Text),
        Column("trigger_id", Integer),
        Column("trigger_timeout", DateTime(timezone=True)),
        Column("next_method", String),
        Column("next_kwargs", JSONB),
        Column("task_display_name", String),
        Column("dag_version_id", Uuid),
        Column("retry_delay_override", Double),
        Column("retry_reason", String),
    ]


class Schema:
    """The tables that releases have in different ways, as one of them has them.

    :param missing: by table, the columns that this release lacks.
    :param names: by table, what this release calls columns that Airflow 3.3 calls otherwise.
    :param further: by table, the columns that Airflow 3.3 does not have.
    :ivar key: the columns by which rows name a task instance across its tries.
    :ivar written: the tables that tasks write to here, and which Airflow 3.3 does not have.
    """

    key: tuple[str, ...] = Coordinates._fields
    written: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        missing: Mapping[str, Iterable[str]] | None = None,
        names: Mapping[str, Mapping[str, str]] | None = None,
        further: Mapping[str, Iterable[Column[Any]]] | None = None,
    ) -> None:
        self._missing = missing or {}
        self._names = names or {}
        self._further = further or {}
        self._setting: dict[frozenset[str], Update] = {}
        self.metadata = MetaData()
        self.task_instance = self.table(
            "task_instance",
            Column("id", Uuid, primary_key=True),
            *attempt_columns(),
            Column("last_heartbeat_at", DateTime(timezone=True)),
        )
        self.dag_run = self.table("dag_run", *_copied(dag_run), Column("span_status", String))  # as it is inserted
        self.log = self.table("log", *_copied(log))

    def table(self, name: str, *columns: Column[Any]) -> Table:
        """Return a table of this release; its columns are found by the names that they have here."""
        missing, names = set(self._missing.get(name, ())), self._names.get(name, {})
        known = (column for column in columns if column.name not in missing)
        own = (
            Column(names[column.name], column.type, key=column.name, primary_key=column.primary_key)
            if column.name in names
            else column
            for column in known
        )
        return Table(name, self.metadata, *own, *self._further.get(name, ()))

    def map_index(self, table: Any) -> ColumnElement[int]:
        """Return what the contract calls map index, of a table (or what is selected from one) that names task instances."""
        column: ColumnElement[int] = table.c.map_index
        return column

    def pass_number(self, table: Any) -> ColumnElement[int | None]:
        """Return in which pass of a loop a task instance is, null if it is in none."""
        return cast(null(), Integer)

    def is_newest_pass(self, table: Any) -> ColumnElement[bool]:
        """Match task instances but those of earlier passes of a loop: who asks for a task without one means its newest."""
        return true()

    def is_reached(self, table: Any, asker: ColumnElement[uuid.UUID]) -> ColumnElement[bool]:
        """Match task instances but those of other passes of the loop that a task instance is in.

        :param asker: its id.
        """
        return true()

    def place(self, table: Any) -> list[ColumnElement[Any]]:
        """Return what is told of the region of a task instance besides its map index, null if it is in none."""
        return []

    def setting(self, names: Iterable[str]) -> Update:
        """Return the statement that sets columns of one task instance, each bound as ``new_NAME``; made once a kind."""
        wanted = frozenset(names)
        if wanted not in self._setting:
            row = self.task_instance
            self._setting[wanted] = update(row).where(row.c.id == bindparam("pk")).values(self.bound(wanted))
        return self._setting[wanted]

    def bound(self, names: Iterable[str]) -> dict[str, Any]:
        """Return columns of a task instance, each with what stands for its new value."""
        row = self.task_instance
        return {name: bindparam(f"new_{name}", type_=row.c[name].type) for name in sorted(names)}


def _copied(table: Table) -> list[Column[Any]]:
    return [Column(column.name, column.type, primary_key=column.primary_key) for column in table.c]


def known(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` without those of columns that a release's table lacks."""
    names = _names(table)
    return {name: value for name, value in values.items() if name in names}


@cache
def _names(table: Table) -> frozenset[str]:
    return frozenset(table.c.keys())  # a set is asked at a tenth of the cost


def writes(pk: uuid.UUID, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of :meth:`Schema.setting` for a task instance and its new values."""
    return {"pk": pk, **{f"new_{name}": value for name, value in values.items()}}
