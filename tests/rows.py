"""Rows of a database as comparable text: what cannot be equal on two equal runs is masked."""

from __future__ import annotations

import io
import pickle
import re
from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

UNORDERED = {"log", "asset_event"}  # Airflow writes several of these rows in the order of a set
FERNET = re.compile(r"gAAAAA[\w=-]{20,}")
TRACE = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}")  # of the W3C's traceparent; its flags follow
PICKLED = re.compile(r'"executor_config": "\\\\x([0-9a-f]+)"')
# A try's history has one without a zone, in UTC: when its trigger timed out.
MOMENT = re.compile(r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00|(?![\d.:Z+-]))")


async def rows(connection: asyncpg.Connection, tables: Collection[str] | None = None) -> Counter[str]:
    """Return every row of these tables, or of all, as masked text."""
    return _masked(await stored(connection, tables))


async def stored(
    connection: asyncpg.Connection, tables: Collection[str] | None = None, *, without: Collection[str] = ()
) -> Counter[tuple[str, str]]:
    """Return every row of these tables, or of all but those ``without``, as it is, with its table."""
    if tables is None:
        found = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        tables = [row["tablename"] for row in found if row["tablename"] not in without]
    row = r"replace(to_json(t)::text, '\u0000', '\u2400')::jsonb::text"  # jsonb cannot hold a NUL that json does
    query = " UNION ALL ".join(f"SELECT '{table}', {row} FROM \"{table}\" t" for table in tables)
    return Counter((table, row) for table, row in await connection.fetch(query))


def changes(before: Counter[tuple[str, str]], after: Counter[tuple[str, str]]) -> tuple[Counter[str], Counter[str]]:
    """Return the masked rows that are gone, and those that came."""
    return _masked(before - after), _masked(after - before)


def _masked(found: Counter[tuple[str, str]]) -> Counter[str]:
    return Counter(f"{table}: {masked(row, table)}" for table, row in found.elements())


def masked(text: str, table: str = "") -> str:
    """Return a row or body with what cannot be equal masked: new ids, times of now, what was encrypted."""
    if table in UNORDERED:
        text = re.sub(r'"id": \d+', '"id": N', text)
    if table == "asset_dag_run_queue":
        text = re.sub(r'"asset_event_id": \d+', '"asset_event_id": N', text)
    text = FERNET.sub("FERNET", text)
    text = PICKLED.sub(lambda found: f'"executor_config": {_unpickled(bytes.fromhex(found[1]))}', text)
    text = TRACE.sub("TRACE", text)
    text = MOMENT.sub(_mask_recent, text)
    text = re.sub(r"-?\d{7,}\.\d+", "LONG", text)  # durations up to now
    text = re.sub(r'("duration": )-?\d{7,}', r'\1"LONG"', text)
    text = re.sub(r"01[0-9a-f]{6}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "NEW-ID", text)
    if '"parent_region_id": "NEW-ID"' in text:  # what is made of the new id
        text = re.sub(r'"slot_key": "[^"]+"', '"slot_key": "NEW"', text)
    return re.sub(r"x01[0-9a-f]{10}7[0-9a-f]{19}([0-9a-f]{8})", r"xNEW-ID-\1", text)


class _Zone:
    """Stands for pendulum's classes of time zones."""

    @classmethod
    def _unpickle(cls, *_: Any) -> None:
        return None


class _Unpickler(pickle.Unpickler):
    """Reads what an Airflow pickled, without its libraries."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("pendulum.datetime", "DateTime"):
            return lambda *parts: datetime(*parts[:7], tzinfo=UTC)  # the zone is UTC in every Dag that is asked
        if module.startswith("pendulum."):
            return _Zone
        if module == "airflow.serialization.enums":  # texts that have a name, and are equal to those that have none
            return str
        return super().find_class(module, name)


def _unpickled(content: bytes) -> str:
    """Return a pickled value as text that is the same for equal ones: two writers share equal parts in other ways."""
    return repr(_sorted(_Unpickler(io.BytesIO(content)).load()))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(item) for name, item in sorted(value.items())}
    if isinstance(value, set):
        return ("a set", *sorted(map(repr, value)))
    return type(value)(map(_sorted, value)) if isinstance(value, list | tuple) else value


def _mask_recent(found: re.Match[str]) -> str:
    moment = datetime.fromisoformat(found[0].removesuffix("Z").removesuffix("+00:00")).replace(tzinfo=UTC)
    return "NOW" if abs(moment - datetime.now(UTC)) < timedelta(hours=2) else found[0]
