"""Rows for tests: Dags, runs, task instances and what belongs to them, written as Airflow would have written them."""

from __future__ import annotations

import json
import pickle
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from app.releases.airflow_3_4.lineage import slot_key

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def ti_id(name: str) -> uuid.UUID:
    """Return a task instance id that is the same on every run of the tests."""
    return uuid.uuid5(uuid.NAMESPACE_URL, name)


@dataclass(frozen=True)
class Vocabulary:
    """In which words a metadata revision writes rows; those of 3.3 where it says nothing.

    :param names: by table, what it calls columns.
    :param further: by table, columns that it has beyond, with what stands in them.
    :param keeps_tries: whether every try is a row of its own, and XComs belong to one.
    :param tables: what it calls tables in which what 3.3 has there is written anew.
    """

    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    further: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    keeps_tries: bool = False
    tables: Mapping[str, str] = field(default_factory=dict)


_SINCE_3_3 = {"dag": {"partition_mapper_info": []}}
_IN_REGIONS = {"map_index": "region_index"}
VOCABULARIES = {
    "3.2": Vocabulary(),
    "3.3": Vocabulary(further=_SINCE_3_3),
    "3.4": Vocabulary(
        names={"task_instance": _IN_REGIONS, "task_state_store": _IN_REGIONS},
        further=_SINCE_3_3,
        keeps_tries=True,
        tables={"xcom": "xcom_v2", "rendered_task_instance_fields": "rtif_v2"},
    ),
}


class World:
    """Writes rows into one database.

    :param connection: an open connection.
    :param revision: of the database.
    :param vocabulary: the words of that revision, if it is none of :data:`VOCABULARIES`.
    """

    def __init__(self, connection: asyncpg.Connection, revision: str = "3.3", vocabulary: Vocabulary | None = None) -> None:
        self.connection = connection
        self.revision = revision
        self._vocabulary = vocabulary or VOCABULARIES[revision]

    @property
    def keeps_tries(self) -> bool:
        """Whether every try is a row of ``task_instance``."""
        return self._vocabulary.keeps_tries

    def table(self, name: str) -> str:
        """Return what this revision calls a table of 3.3's."""
        return self._vocabulary.tables.get(name, name)

    async def insert(self, table: str, returning: str | None = None, **values: Any) -> Any:
        names = self._vocabulary.names.get(table, {})
        values = {
            names.get(name, name): value for name, value in {**self._vocabulary.further.get(table, {}), **values}.items()
        }
        columns = ", ".join(f'"{name}"' for name in values)
        marks = ", ".join(f"${i + 1}" for i in range(len(values)))
        encoded = [json.dumps(v) if isinstance(v, dict | list) else v for v in values.values()]
        statement = f'INSERT INTO "{table}" ({columns}) VALUES ({marks})'
        if returning:
            return await self.connection.fetchval(f"{statement} RETURNING {returning}", *encoded)
        await self.connection.execute(statement, *encoded)
        return None

    async def bundle(self, name: str = "dags-folder", team: str | None = None) -> None:
        await self.connection.execute("INSERT INTO dag_bundle (name, active) VALUES ($1, true) ON CONFLICT DO NOTHING", name)
        if team:
            await self.connection.execute("INSERT INTO team VALUES ($1) ON CONFLICT DO NOTHING", team)
            await self.connection.execute("INSERT INTO dag_bundle_team VALUES ($1, $2) ON CONFLICT DO NOTHING", name, team)

    async def dag(self, dag_id: str, **values: Any) -> None:
        bundle = values.pop("bundle_name", "dags-folder")
        await self.bundle(bundle, values.pop("team", None))
        defaults: dict[str, Any] = {
            "is_paused": False,
            "is_stale": False,
            "bundle_name": bundle,
            "owners": "ann, bob",
            "timetable_type": "none",
            "max_active_tasks": 16,
            "max_consecutive_failed_dag_runs": 0,
            "has_task_concurrency_limits": False,
            "fileloc": f"/dags/{dag_id}.py",
            "relative_fileloc": f"{dag_id}.py",
        }
        await self.insert("dag", dag_id=dag_id, **{**defaults, **values})

    async def run(self, dag_id: str, run_id: str = "manual__1", **values: Any) -> int:
        defaults: dict[str, Any] = {
            "state": "running",
            "run_type": "manual",
            "logical_date": EPOCH,
            "data_interval_start": EPOCH,
            "data_interval_end": EPOCH,
            "run_after": EPOCH,
            "start_date": EPOCH + timedelta(seconds=1),
            "conf": {},
            "queued_at": EPOCH,
            "triggered_by": "CLI",
        }
        row = {**defaults, **values}
        note = row.pop("note", None)
        run_pk: int = await self.insert("dag_run", "id", dag_id=dag_id, run_id=run_id, **row)
        if note is not None:
            await self.insert("dag_run_note", dag_run_id=run_pk, content=note, created_at=EPOCH, updated_at=EPOCH)
        return run_pk

    async def ti(self, dag_id: str, task_id: str = "job", run_id: str = "manual__1", **values: Any) -> uuid.UUID:
        map_index = values.get("map_index", -1)
        defaults: dict[str, Any] = {
            "id": ti_id(f"{dag_id}/{run_id}/{task_id}/{map_index}"),
            "map_index": map_index,
            "state": "queued",
            "try_number": 1,
            "max_tries": 0,
            "pool": "default_pool",
            "pool_slots": 1,
            "queue": "default",
            "priority_weight": 1,
            "operator": "PythonOperator",
            "custom_operator_name": "@task",
            "hostname": "",
            "unixname": "airflow",
            "queued_dttm": EPOCH + timedelta(seconds=2),
            "scheduled_dttm": EPOCH + timedelta(seconds=2),
            "executor_config": pickle.dumps({"__var": {}, "__type": "dict"}, protocol=5),
            "context_carrier": {"__var": {}, "__type": "dict"},
            "task_display_name": task_id,
            "updated_at": EPOCH,
        }
        row = {**defaults, **values}
        if row.pop("is_mapped", False) and self.keeps_tries:
            row["region_id"] = await self.region(dag_id, run_id, task_id)
        await self.insert("task_instance", dag_id=dag_id, task_id=task_id, run_id=run_id, **row)
        return row["id"]

    async def region(self, dag_id: str, run_id: str, task_id: str) -> uuid.UUID:
        """Write where the instances of a mapped task are, once."""
        pk = ti_id(f"{dag_id}/{run_id}/{task_id}/region")
        if not await self.connection.fetchval("SELECT count(*) FROM dynamic_region WHERE id = $1", pk):
            place = {"dag_id": dag_id, "run_id": run_id, "node_id": task_id, "slot_key": slot_key(dag_id, run_id, task_id)}
            await self.insert("dynamic_region", id=pk, family_root_id=pk, path=b"", created_at=EPOCH, **place)
        return pk

    async def running(self, dag_id: str, task_id: str = "job", run_id: str = "manual__1", **values: Any) -> uuid.UUID:
        """Write a task instance that runs on ``worker``, process 42."""
        defaults = {
            "state": "running",
            "hostname": "worker",
            "unixname": "airflow",
            "pid": 42,
            "start_date": EPOCH + timedelta(seconds=10),
            "last_heartbeat_at": EPOCH + timedelta(seconds=10),
        }
        return await self.ti(dag_id, task_id, run_id, **{**defaults, **values})

    async def one(self, dag_id: str, **values: Any) -> uuid.UUID:
        """Write a Dag with one run and one queued task instance."""
        await self.dag(dag_id)
        await self.run(dag_id)
        return await self.ti(dag_id, **values)

    async def one_running(self, dag_id: str, **values: Any) -> uuid.UUID:
        """Write a Dag with one run and one running task instance."""
        await self.dag(dag_id)
        await self.run(dag_id)
        return await self.running(dag_id, **values)

    async def xcom(self, dag_id: str, task_id: str, key: str, value: Any, run_id: str = "manual__1", **values: Any) -> None:
        row = {"map_index": -1, "timestamp": EPOCH, **values}
        if self._vocabulary.keeps_tries:
            place = (dag_id, run_id, task_id, row.pop("map_index"))
            of_last_try = "dag_id=$1 AND run_id=$2 AND task_id=$3 AND region_index=$4 AND working_set"
            owner = await self.connection.fetchval(f"SELECT id FROM task_instance WHERE {of_last_try}", *place)
            pk = ti_id(f"{owner}/{key}")
            await self.insert("xcom_v2", id=pk, task_instance_id=owner, key=key, value=json.dumps(value), **row)
            return
        run_pk = await self.connection.fetchval("SELECT id FROM dag_run WHERE dag_id=$1 AND run_id=$2", dag_id, run_id)
        await self.insert(
            "xcom",
            dag_run_id=run_pk,
            dag_id=dag_id,
            run_id=run_id,
            task_id=task_id,
            key=key,
            value=json.dumps(value),
            **row,
        )

    async def asset(self, name: str, uri: str | None = None, *, active: bool = True) -> int:
        uri = uri or f"s3://bucket/{name}"
        pk: int = await self.insert(
            "asset", "id", name=name, uri=uri, group="asset", extra={}, created_at=EPOCH, updated_at=EPOCH
        )
        if active:
            await self.insert("asset_active", name=name, uri=uri)
        return pk

    async def scheduled_by(self, dag_id: str, asset_pk: int) -> None:
        """Make ``dag_id`` a consumer of the asset."""
        await self.insert(
            "dag_schedule_asset_reference", asset_id=asset_pk, dag_id=dag_id, created_at=EPOCH, updated_at=EPOCH
        )

    async def serialized(self, dag_id: str, tasks: list[dict[str, Any]], groups: dict[str, list[str]] | None = None) -> None:
        """Write a Dag's serialized form, version 1, with nested task groups by dotted id."""
        version = uuid.uuid5(uuid.NAMESPACE_URL, f"{dag_id}/version")
        stamps = {"created_at": EPOCH, "last_updated": EPOCH}
        await self.insert("dag_version", id=version, version_number=1, dag_id=dag_id, bundle_name="dags-folder", **stamps)
        root = _group(None)
        nodes = {"": root}
        for group_id, task_ids in sorted((groups or {}).items()):
            parent = nodes[group_id.rpartition(".")[0]]
            nodes[group_id] = _group(group_id.rpartition(".")[2])
            parent["children"][group_id] = ["taskgroup", nodes[group_id]]
            nodes[group_id]["children"].update({task_id: ["operator", task_id] for task_id in task_ids})
        grouped = {task_id for task_ids in (groups or {}).values() for task_id in task_ids}
        for task in tasks:
            operator = task["__var"]
            operator |= {"task_type": "EmptyOperator", "_task_module": "airflow.providers.standard.operators.empty"}
            if operator["task_id"] not in grouped:
                root["children"][operator["task_id"]] = ["operator", operator["task_id"]]
        data = {
            "__version": 3,
            "dag": {
                "dag_id": dag_id,
                "fileloc": f"/dags/{dag_id}.py",
                "relative_fileloc": f"{dag_id}.py",
                "timezone": "UTC",
                "timetable": {"__var": {}, "__type": "airflow.timetables.simple.NullTimetable"},
                "tasks": tasks,
                "task_group": root,
                "dag_dependencies": [],
                "edge_info": {},
                "params": [],
                "deadline": None,
                "allowed_run_types": None,
                "_processor_dags_folder": "/dags",
            },
        }
        row = {"id": version, "dag_id": dag_id, "data": data, "dag_hash": "0" * 32, "dag_version_id": version}
        await self.insert("serialized_dag", **row, **stamps)


def _group(group_id: str | None) -> dict[str, Any]:
    empty: dict[str, Any] = {f"{way}stream_{kind}_ids": [] for way in ("up", "down") for kind in ("task", "group")}
    return {
        "_group_id": group_id,
        "group_display_name": "",
        "prefix_group_id": True,
        "tooltip": "",
        "ui_color": "CornflowerBlue",
        "ui_fgcolor": "#000",
        "children": {},
        **empty,
    }
