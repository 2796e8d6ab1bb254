"""Core tables that mirror the part of Airflow's metadata database that we use.

Airflow owns the schema and its migrations (``app/releases`` holds those of the supported revisions). Here are the tables
that all of these have alike, or whose columns are named only where a release has them; those that each has in its own way
are made for it, by a :class:`~app.db.schema.Schema`. JSON that we only pass through is read and written as text, so that it
arrives exactly as it was stored: see :func:`as_text` and :func:`from_text`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

from sqlalchemy import (
    ARRAY,
    JSON,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    TableValuedAlias,
    Text,
    Uuid,
    bindparam,
    cast,
    func,
    literal_column,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

metadata = MetaData()

UNBOUNDED = 2**31 - 1  # more than there can be, of runs as of map indexes: what names them is a 4-byte integer
AnyRow: TypeAlias = Row[*tuple[Any, ...]]  # a result row, its columns read by name


def _time(name: str) -> Column[Any]:
    return Column(name, DateTime(timezone=True))


def _text(*names: str) -> list[Column[Any]]:
    return [Column(name, String) for name in names]


# What every release has of a task instance alike: what refers to one by its id needs no more.
task_instance = Table(
    "task_instance",
    metadata,
    Column("id", Uuid, primary_key=True),
    *_text("dag_id", "task_id", "run_id", "state", "hostname"),
    Column("pid", Integer),
    _time("last_heartbeat_at"),
    _time("updated_at"),
)
task_reschedule = Table(
    "task_reschedule",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("ti_id", Uuid),
    _time("start_date"),
    _time("end_date"),
    Column("duration", Integer),
    _time("reschedule_date"),
)
dag_run = Table(
    "dag_run",
    metadata,
    Column("id", Integer, primary_key=True),
    *_text("dag_id", "run_id", "state", "run_type", "triggering_user_name", "partition_key"),
    *(
        _time(name)
        for name in (
            "logical_date",
            "start_date",
            "end_date",
            "data_interval_start",
            "data_interval_end",
            "run_after",
            "partition_date",
        )
    ),
    Column("clear_number", Integer),
    Column("conf", JSONB),
    Column("created_dag_version_id", Uuid),
    *_text("bundle_version", "triggered_by"),
    Column("context_carrier", JSONB),
    Column("log_template_id", Integer),
    *(_time(name) for name in ("queued_at", "created_at", "updated_at", "last_scheduling_decision")),
)
deadline = Table(
    "deadline",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("dagrun_id", Integer),
    _time("deadline_time"),
    _time("last_updated_at"),
    Column("missed", Boolean),
    Column("deadline_alert_id", Uuid),
    Column("callback_id", Uuid),
    _time("created_at"),
)
callback = Table(
    "callback",
    metadata,
    Column("id", Uuid, primary_key=True),
    *_text("type", "fetch_method", "bundle_name", "state"),
    Column("data", JSONB),
    Column("priority_weight", Integer),
    _time("created_at"),
)
deadline_alert = Table(
    "deadline_alert",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("reference", JSON),
    Column("serialized_dag_id", Uuid),
    Column("callback_def", JSON),
    Column("interval", JSON),  # 3.2: seconds; 3.3: seconds, or a serialized timedelta or variable
)
dag_run_note = Table(
    "dag_run_note",
    metadata,
    Column("dag_run_id", Integer, primary_key=True),
    *_text("user_id", "content"),
    _time("created_at"),
    _time("updated_at"),
)
log_template = Table("log_template", metadata, Column("id", Integer, primary_key=True))
dag = Table(
    "dag",
    metadata,
    Column("dag_id", String, primary_key=True),
    *(Column(name, Boolean) for name in ("is_paused", "is_stale", "timetable_partitioned", "fail_fast")),
    *_text("bundle_name", "bundle_version", "relative_fileloc", "owners"),
    _time("next_dagrun"),
    Column("has_import_errors", Boolean),
    Column("allowed_run_types", JSON),
)
dag_tag = Table("dag_tag", metadata, Column("name", String, primary_key=True), Column("dag_id", String, primary_key=True))
serialized_dag = Table(
    "serialized_dag",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("dag_id", String),
    Column("data", JSONB),
    Column("data_compressed", LargeBinary),
    _time("created_at"),
    Column("dag_hash", String),
    Column("dag_version_id", Uuid),
)
dag_bundle_team = Table(
    "dag_bundle_team",
    metadata,
    Column("dag_bundle_name", String, primary_key=True),
    Column("team_name", String, primary_key=True),
)
task_outlet_asset_reference = Table(
    "task_outlet_asset_reference",
    metadata,
    Column("asset_id", Integer, primary_key=True),
    *(Column(name, String, primary_key=True) for name in ("dag_id", "task_id")),
    Column("allow_consumer_teams", JSON),
    Column("allow_global_consumers", Boolean),
)
log = Table(
    "log",
    metadata,
    Column("id", Integer, primary_key=True),
    _time("dttm"),
    *_text("dag_id", "task_id", "run_id"),
    Column("map_index", Integer),
    Column("event", String),
    _time("logical_date"),
    *_text("owner", "extra"),
    Column("try_number", Integer),
)
hitl_detail = Table(
    "hitl_detail",
    metadata,
    Column("ti_id", Uuid, primary_key=True),
    Column("options", JSON),
    Column("subject", Text),
    Column("body", Text),
    Column("defaults", JSON),
    Column("multiple", Boolean),
    Column("params", JSON),
    Column("assignees", JSON),
    _time("created_at"),
    _time("responded_at"),
    Column("responded_by", JSON),
    Column("chosen_options", JSON),
    Column("params_input", JSON),
)
variable = Table(
    "variable",
    metadata,
    Column("id", Integer, primary_key=True),
    *_text("key", "val", "description", "team_name"),
    Column("is_encrypted", Boolean),
)
connection = Table(
    "connection",
    metadata,
    Column("id", Integer, primary_key=True),
    *_text("conn_id", "conn_type", "host", "schema", "login", "password", "extra", "team_name"),
    Column("port", Integer),
    Column("is_encrypted", Boolean),
    Column("is_extra_encrypted", Boolean),
)
connection_test_request = Table(
    "connection_test_request",
    metadata,
    Column("id", Uuid, primary_key=True),
    *_text("connection_id", "state", "result_message", "active_connection_id", "team_name"),
    *_text("conn_type", "host", "schema", "login", "password", "extra"),
    Column("port", Integer),
    Column("is_encrypted", Boolean),
    Column("is_extra_encrypted", Boolean),
    Column("commit_on_success", Boolean),
    _time("updated_at"),
)
asset = Table(
    "asset",
    metadata,
    Column("id", Integer, primary_key=True),
    *_text("name", "uri", "group"),
    Column("extra", JSON),
    _time("created_at"),
    _time("updated_at"),
)
asset_state_store = Table(
    "asset_state_store",
    metadata,
    Column("asset_id", Integer, primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", Text),
    _time("updated_at"),
    *_text("last_updated_by_kind", "last_updated_by_dag_id", "last_updated_by_run_id", "last_updated_by_task_id"),
    Column("last_updated_by_map_index", Integer),
)
asset_active = Table(
    "asset_active", metadata, Column("name", String, primary_key=True), Column("uri", String, primary_key=True)
)
asset_alias = Table("asset_alias", metadata, Column("id", Integer, primary_key=True), *_text("name", "group"))
asset_alias_asset = Table(
    "asset_alias_asset",
    metadata,
    Column("alias_id", Integer, primary_key=True),
    Column("asset_id", Integer, primary_key=True),
)
asset_event = Table(
    "asset_event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("asset_id", Integer),
    Column("extra", JSON),
    *_text("source_task_id", "source_dag_id", "source_run_id", "partition_key"),
    Column("source_map_index", Integer),
    _time("timestamp"),
)
asset_alias_asset_event = Table(
    "asset_alias_asset_event",
    metadata,
    Column("alias_id", Integer, primary_key=True),
    Column("event_id", Integer, primary_key=True),
)
dagrun_asset_event = Table(
    "dagrun_asset_event",
    metadata,
    Column("dag_run_id", Integer, primary_key=True),
    Column("event_id", Integer, primary_key=True),
)
asset_dag_run_queue = Table(
    "asset_dag_run_queue",
    metadata,
    Column("asset_id", Integer, primary_key=True),
    Column("target_dag_id", String, primary_key=True),
    _time("created_at"),
)
partitioned_asset_key_log = Table(
    "partitioned_asset_key_log",
    metadata,
    Column("id", Integer, primary_key=True),
    *(Column(name, Integer) for name in ("asset_id", "asset_event_id", "asset_partition_dag_run_id")),
    *_text("source_partition_key", "target_dag_id", "target_partition_key"),
    _time("created_at"),
)
dag_schedule_asset_reference = Table(
    "dag_schedule_asset_reference",
    metadata,
    Column("asset_id", Integer, primary_key=True),
    Column("dag_id", String, primary_key=True),
    Column("allow_producer_teams", JSON),
    Column("allow_global_producers", Boolean),
)
dag_schedule_asset_alias_reference = Table(
    "dag_schedule_asset_alias_reference",
    metadata,
    Column("alias_id", Integer, primary_key=True),
    Column("dag_id", String, primary_key=True),
)
dag_schedule_asset_name_reference = Table(
    "dag_schedule_asset_name_reference",
    metadata,
    Column("name", String, primary_key=True),
    Column("dag_id", String, primary_key=True),
)
dag_schedule_asset_uri_reference = Table(
    "dag_schedule_asset_uri_reference",
    metadata,
    Column("uri", String, primary_key=True),
    Column("dag_id", String, primary_key=True),
)


def date_of(run: FromClause) -> ColumnElement[Any]:
    """Return when a run is, among its Dag's runs: its logical date, or without one (it need have none) when it could start.

    PostgreSQL sorts NULL first in descending order: by the logical date alone, a run without one is the newest for ever.

    :param run: ``dag_run``, or an alias of it.
    """
    return func.coalesce(run.c.logical_date, run.c.run_after)


def as_text(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Select a JSON column as the text that PostgreSQL stores, to pass it on without decoding it."""
    return cast(column, Text).label(getattr(column, "name", None))


def as_bytes(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Select a JSON column as its text in UTF-8: what may be large is neither decoded nor encoded on its way."""
    return func.convert_to(cast(column, Text), literal_column("'UTF8'")).label(getattr(column, "name", None))


def from_bytes(value: ColumnElement[Any]) -> ColumnElement[Any]:
    """Give a ``jsonb`` column its value as text in UTF-8; see :func:`as_bytes`."""
    return cast(func.convert_from(cast(value, LargeBinary), literal_column("'UTF8'")), JSONB)


def from_text(value: ColumnElement[Any], kind: type[JSON] = JSONB) -> ColumnElement[Any]:
    """Give a JSON column its value as text; PostgreSQL parses it, once.

    :param value: an expression of JSON text.
    :param kind: the column's type, ``JSONB`` or ``JSON``.
    """
    return cast(cast(value, Text), kind)


def rows_of(alias: str, /, **columns: TypeEngine[Any] | type[TypeEngine[Any]]) -> TableValuedAlias:
    """Return rows that a statement is sent, numbered by ``place``: as one array for each column, however many they are.

    A statement takes 32,767 arguments. See :func:`arguments` for how they are given.

    :param columns: their types. The array of ``name`` is the ``bindparam`` ``names``.
    """
    arrays = (bindparam(f"{name}s", type_=ARRAY(kind, dimensions=1)) for name, kind in columns.items())
    return func.unnest(*arrays).table_valued(*columns, with_ordinality="place").render_derived(name=alias)


def arguments(names: Sequence[str], rows: Collection[tuple[Any, ...]]) -> dict[str, list[Any]]:
    """Return rows as the arrays that :func:`rows_of` has.

    :param names: of the arrays, in the order of a row's values.
    """
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}
