"""What runs leave behind with Airflow's own server: recorded, and compared with what they leave behind with ours.

``RECORD=1`` runs the tests with Airflow's own server as their target, and writes the records anew.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import asyncpg

from tests import rows

RECORDING = bool(os.environ.get("RECORD"))
# Every table in which the execution API writes, or whose rows follow from what it wrote.
WRITTEN = {
    "asset", "asset_alias", "asset_dag_run_queue", "asset_event", "asset_partition_dag_run", "asset_state_store", "dag_run",
    "dag_run_note", "dagrun_asset_event", "dynamic_region", "hitl_detail", "log", "rendered_task_instance_fields",
    "task_instance", "task_instance_history", "task_map", "task_reschedule", "task_state_store", "trigger", "variable",
    "xcom",
}  # fmt: skip
THERE = """
    SELECT DISTINCT table_name::text FROM information_schema.tables
    WHERE table_schema = ANY (current_schemas(false)) AND table_name = ANY ($1)
"""
# What is another on every run: processes, and how long things took. Whether it is there is compared.
CHANCE = {"context_carrier", "duration", "external_executor_id", "hostname", "pid", "queued_by_job_id", "try_id", "unixname"}
NUMBERS = ("id", "_id")  # of other rows
MASKS = (
    (re.compile(r'(?<=host_name\\": \\")[^"\\]*'), "HOST"),
    (re.compile(r"(?<=__NOW)_\w{8}"), ""),  # of a run that events started
    (re.compile(r'(?<="target_time": ")[^"]*'), "SOON"),
)
UNSURE = {"last_heartbeat_at"}  # a short task may end before its first


# What a database of Airflow 3.4 has otherwise, as those before have it; of every try, since what one left stays there.
AS_BEFORE = """
    CREATE SCHEMA as_before;
    CREATE VIEW as_before.try AS
        SELECT t.*, CASE WHEN r.node_id = t.task_id OR r.id IS NULL THEN t.region_index ELSE -1 END AS map_index
        FROM public.task_instance t LEFT JOIN public.dynamic_region r ON r.id = t.region_id;
    CREATE VIEW as_before.task_instance AS SELECT * FROM as_before.try WHERE working_set;
    CREATE VIEW as_before.task_instance_history AS SELECT * FROM as_before.try WHERE working_set IS NULL;
    CREATE VIEW as_before.task_map AS
        SELECT t.dag_id, t.run_id, t.task_id, t.map_index, t.try_number, x.mapped_length AS length
        FROM public.xcom_v2 x JOIN as_before.try t ON t.id = x.task_instance_id WHERE x.mapped_length IS NOT NULL;
    CREATE VIEW as_before.xcom AS
        SELECT t.dag_id, t.run_id, t.task_id, t.map_index, t.try_number, x.key, x.value, x.dag_result
        FROM public.xcom_v2 x JOIN as_before.try t ON t.id = x.task_instance_id;
    CREATE VIEW as_before.rendered_task_instance_fields AS
        SELECT t.dag_id, t.run_id, t.task_id, t.map_index, t.try_number, f.rendered_fields
        FROM public.rtif_v2 f JOIN as_before.try t ON t.id = f.task_instance_id;
"""


async def connected(url: str, version: str) -> asyncpg.Connection:
    """Connect to the database of an Airflow that has migrated it; what it has is found where 3.3 has it."""
    if version < "3.4":
        return await asyncpg.connect(url)
    connection = await asyncpg.connect(url, server_settings={"search_path": "as_before, public"})
    await connection.execute(AS_BEFORE)
    return connection


def recorded(name: str) -> dict[str, list[Any]]:
    """Return what is recorded by this name."""
    found: dict[str, list[Any]] = json.loads(_file(name).read_text())
    return found


def compare(name: str, found: dict[str, list[Any]]) -> None:
    """Assert that what was found is what is recorded by this name; or record it."""
    if RECORDING:
        _file(name).write_text("{\n" + ",\n".join(f" {json.dumps(kind)}: {_lines(found[kind])}" for kind in found) + "\n}\n")
        return
    expected = recorded(name)
    for kind in found | expected:  # what a release does not have is not recorded of it
        here, there = found.get(kind, []), expected.get(kind, [])
        assert _without(here, there) == _without(there, here), kind


def _file(name: str) -> Path:
    return Path(__file__).parent / "recorded" / f"{name}.json"


def _lines(found: list[Any]) -> str:
    return "[\n  " + ",\n  ".join(map(json.dumps, found)) + "\n ]" if found else "[]"


def _without(some: list[Any], others: list[Any]) -> list[Any]:
    """Return what is in a list more often than in another."""
    left, more = list(others), []
    for each in some:
        if each in left:
            left.remove(each)
        else:
            more.append(each)
    return more


async def left_behind(connection: asyncpg.Connection, differs: Collection[tuple[str, str, str]]) -> dict[str, list[Any]]:
    """Return the rows that runs left behind, by table: without what is null, and what is another on every run.

    :param differs: tables, Dags and tasks whose rows differ on purpose, or by chance.
    """
    found: dict[str, list[Any]] = {table: [] for table in sorted(WRITTEN)}
    there = await connection.fetch(THERE, list(WRITTEN))
    for line in (await rows.rows(connection, [row["table_name"] for row in there])).elements():
        table, _, text = line.partition(": ")
        row = json.loads(_masked(text.replace('"id": N,', '"id": 0,')))
        is_of_nobody = table == "log" and row["task_id"] is None  # what commands did
        if not is_of_nobody and (table, row.get("dag_id"), row.get("task_id")) not in differs:
            found[table].append(dict(_told(row)))
    return {table: sorted(each, key=lambda row: json.dumps(row, sort_keys=True)) for table, each in found.items()}


def _masked(text: str) -> str:
    for pattern, mask in MASKS:
        text = pattern.sub(mask, text)
    return text


def _told(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in sorted(row.items()):
        if value is None or name in UNSURE:
            continue
        if name == "value" and row.get("key") == "skipmixin_key":  # in the order of a set
            value = {what: sorted(tasks) for what, tasks in value.items()}
        by_chance = name in CHANCE or (name.endswith(NUMBERS) and not isinstance(value, str)) or value == "NEW-ID"
        yield name, "..." if by_chance else value
