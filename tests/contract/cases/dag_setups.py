"""Set-ups of Dags whose text matters: each is what the release of the revision's server serializes, see ``contract/serialized.py``."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import partial
from typing import Any

from tests.contract import serialized
from tests.contract.cases.hitl import ask
from tests.contract.cases.setups import SETUPS, Setup, changed, setup
from tests.contract.cases.task_instance_setups import archive
from tests.servers import AIRFLOW
from tests.world import EPOCH, World, ti_id

TRIGGERED = "sample"  # the id of nearly every Dag of the corpus, so that one is asked for like another


def names(release: str = AIRFLOW["3.3"]) -> list[str]:
    """Return the names of the corpus' Dags that have the id ``sample``."""
    return [name for name, data in serialized.kept(release).items() if data["dag"]["dag_id"] == TRIGGERED]


def since(name: str) -> tuple[str, ...]:
    """Return the revisions whose Airflows have what a Dag is made of."""
    return tuple(revision for revision, release in AIRFLOW.items() if name in serialized.kept(release))


async def write_version(
    world: World, name: str, number: int = 1, *, dag_id: str = "", changed: dict[str, Any] | None = None, **version: Any
) -> None:
    """Write a version of a Dag, its deadlines' alerts in rows of their own, as Airflow stores them.

    :param dag_id: whose version it is, if not that of the Dag's own file.
    :param changed: parts of the Dag that no release would write like that.
    :param version: further columns of ``dag_version``.
    """
    data = serialized.dag(AIRFLOW[world.revision], name)
    data["dag"] |= changed or {}
    dag_id = dag_id or data["dag"]["dag_id"]
    data["dag"]["dag_id"], pk = dag_id, version_id(dag_id, number)
    when = EPOCH + timedelta(days=number - 1)
    stamps = {"created_at": when, "last_updated": when}
    alerts = data["dag"]["deadline"] or []
    data["dag"]["deadline"] = [str(ti_id(f"{pk}/{n}")) for n, _ in enumerate(alerts)] or None
    await world.insert(
        "dag_version", id=pk, version_number=number, dag_id=dag_id, bundle_name="dags-folder", **version, **stamps
    )
    row = {"id": pk, "dag_id": dag_id, "data": data, "dag_hash": (str(number) * 32)[:32], "dag_version_id": pk}
    await world.insert("serialized_dag", **row, **stamps)
    for n, alert in enumerate(alerts):
        interval = alert["interval"] if world.revision == "3.2" else json.dumps(alert["interval"])
        told = {"name": alert.get("name"), "reference": alert["reference"], "callback_def": alert["callback"]}
        ids = {"id": ti_id(f"{pk}/{n}"), "serialized_dag_id": pk, "created_at": EPOCH}
        await world.insert("deadline_alert", **ids, **told, interval=interval)


def version_id(dag_id: str, number: int) -> Any:
    return ti_id(f"version {number} of {dag_id}")


async def triggerable(world: World, name: str = TRIGGERED, **changed: Any) -> Any:
    """Write a Dag of the corpus, and a task that asks."""
    ti = await world.one_running("d")
    await world.connection.execute("UPDATE dag_run SET triggering_user_name = 'ann'")
    await world.dag(TRIGGERED, bundle_version="v1")
    await world.insert("log_template", id=7, filename="f", elasticsearch_id="e", created_at=EPOCH)
    await write_version(world, name, changed=changed)
    return ti


# --- served while its tasks run


@setup
async def fail_fast(world: World) -> Any:
    ti = await world.one_running("d")
    await world.connection.execute("UPDATE dag SET fail_fast = true")
    for name, state in (
        ("busy", "running"),
        ("waiting", None),
        ("planned", "scheduled"),
        ("done", "success"),
        ("broken", "failed"),
        ("clean", None),
    ):
        await world.ti("d", name, state=state)
    await write_version(
        world, "served, failing fast", number=9
    )  # 3.4 keeps a Dag by its version's id: one that no other has
    return ti


@setup
async def with_serialized(world: World) -> Any:
    await world.asset("a")
    ti = await world.one_running("d")
    for task_id, state in (("g.one", "success"), ("g.inner.two", "failed")):
        await world.ti("d", task_id, state=state)
    await write_version(world, "served, with groups and assets")
    return ti


@setup
async def mapped_with_serialized(world: World) -> Any:
    await with_serialized(world)
    return await world.running("d", "mapped", map_index=0)


# --- triggered

SETUPS |= {f"sample, {name}": partial(triggerable, name=name) for name in names(AIRFLOW["3.4"])}
SETUPS["sample"] = triggerable


async def _with_deadline(world: World, name: str, runs: tuple[tuple[str, int], ...] = ()) -> Any:
    """Write a Dag with deadlines, the variables that some of them read, and runs that took so many seconds."""
    ti = await triggerable(world, name)
    await world.insert("variable", key="length", val="60", is_encrypted=False)
    await world.insert("variable", key="word", val="long", is_encrypted=False)
    for number, (state, seconds) in enumerate(runs):
        when = {"start_date": EPOCH, "end_date": EPOCH + timedelta(seconds=seconds)}
        await world.run(TRIGGERED, f"before_{number}", state=state, logical_date=EPOCH + timedelta(days=number), **when)
    return ti


WITH_DEADLINES = {f"sample, {name}": name for name in names() if "deadline" in name}
SETUPS |= {setup_: partial(_with_deadline, name=name) for setup_, name in WITH_DEADLINES.items()}
AVERAGED: dict[str, tuple[str, tuple[tuple[str, int], ...]]] = {
    "sample, deadline after an average of too few": ("deadline after an average of two", (("success", 100),)),
    "sample, deadline after an average of too few that succeeded": (
        "deadline after an average of two",
        (("success", 100), ("failed", 100)),
    ),
    "sample, deadline after an average of runs": (
        "deadline after an average",
        (("success", 100), ("success", 50), ("success", 70), ("failed", 1)),
    ),
}
SETUPS |= {setup_: partial(_with_deadline, name=name, runs=runs) for setup_, (name, runs) in AVERAGED.items()}


SETUPS |= {
    name: changed(triggerable, f"UPDATE dag SET {change} WHERE dag_id = 'sample'")
    for name, change in (
        ("sample_with_import_errors", "has_import_errors = true"),
        ("stale_sample", "is_stale = true"),
        ("scheduled_only_sample", "allowed_run_types = '[\"scheduled\"]'"),
    )
}


@setup
async def sample_that_ran(world: World) -> Any:
    ti = await triggerable(world)
    await world.run("sample", "r1")
    return ti


MARS = "Mars/Phobos"
ZONED = ("cron trigger", "daily interval", "several crons", "assets or time", "cron partitions")


def _in_zone(name: str) -> Setup:
    """Write a Dag of the corpus whose schedule is in a time zone that no machine has: those of workers may know others."""

    async def make(world: World) -> Any:
        text = json.dumps(serialized.dag(AIRFLOW[world.revision], name)["dag"]["timetable"])
        return await triggerable(world, name, timetable=json.loads(text.replace("Europe/Paris", MARS)))

    return make


SETUPS |= {f"sample on Mars, {name}": _in_zone(name) for name in ZONED}


@setup
async def a_partition_on_mars(world: World) -> Any:
    """Let ``c1`` wait for partitions, of a mapper in a time zone that no machine has."""
    ti = await SETUPS["partitions, days"](world)
    data = serialized.dag(AIRFLOW[world.revision], "days")
    text = json.dumps(data["dag"]["timetable"]).replace('"timezone": "UTC"', f'"timezone": "{MARS}"')
    assert MARS in text
    path = "UPDATE serialized_dag SET data = jsonb_set(data::jsonb, '{dag,timetable}', $1) WHERE dag_id = 'c1'"
    await world.connection.execute(path, text)
    return ti


# --- cleared


def _to_clear(
    run_state: str, *, versioned: bool = True, newest: str = "", lengths: dict[str, int] | None = None, **run: Any
) -> Setup:
    """Write a run of ``sample`` with task instances in many states.

    :param versioned: whether the run has a Dag version of its own.
    :param newest: the name of what is the Dag's newest version; without it there is no newer one.
    :param lengths: how many values each task has returned, as far as something is mapped over them.
    """

    async def make(world: World) -> Any:
        ti = await triggerable(world)
        own = {"created_dag_version_id": version_id("sample", 1), "bundle_version": "v1"} if versioned else {}
        run_pk = await world.run("sample", "r1", state=run_state, end_date=EPOCH + timedelta(hours=1), **{**own, **run})
        version = {"dag_version_id": version_id("sample", 1)} if versioned else {}
        done = {"start_date": EPOCH, "end_date": EPOCH + timedelta(minutes=1), "duration": 60.0}
        resumes = {"next_method": "execute_complete", "next_kwargs": {"__type": "dict", "__var": {"x": 1}}}
        for task_id, map_index, values in (
            ("a", -1, {"state": "success", "try_number": 2, "max_tries": 3, **done}),
            ("b", 0, {"state": "failed", **done}),
            ("b", 1, {"state": "running", "start_date": EPOCH}),
            ("b", 7, {"state": "skipped"}),
            ("c", -1, {"state": "deferred", **resumes}),
            ("m", -1, {"state": None, "try_number": 0, "start_date": EPOCH, "external_executor_id": "e"}),
            ("md", 0, {"state": "success", **done}),
            ("md", 1, {"state": "removed"}),
            ("g.e", 0, {"state": "up_for_retry", "try_number": 3, "max_tries": 5, **done}),
            ("gone", -1, {"state": "upstream_failed", "max_tries": 4}),
            ("removed", -1, {"state": "removed"}),
        ):
            values = {**version, **values} if task_id != "m" else values
            is_mapped = task_id in ("b", "m", "md", "g.e")
            await world.ti("sample", task_id, "r1", map_index=map_index, is_mapped=is_mapped, **values)
        waiting = ti_id("sample/r1/c/-1")
        stamps = {"start_date": EPOCH, "end_date": EPOCH, "duration": 0, "reschedule_date": EPOCH}
        await world.insert("task_reschedule", ti_id=waiting, **stamps)
        await ask(world, waiting)
        await archive(world, ti_id("sample/r1/gone/-1"))
        for task_id, length in (lengths or {}).items():
            if world.keeps_tries:
                await world.xcom("sample", task_id, "return_value", [], "r1", mapped_length=length)
                continue
            of = {"dag_id": "sample", "run_id": "r1", "task_id": task_id, "map_index": -1}
            await world.insert("task_map", **of, length=length, keys=None)
        if newest:
            await write_version(world, newest, 2, bundle_version="v2")
            await world.connection.execute("UPDATE dag SET bundle_version = 'v2' WHERE dag_id = 'sample'")
        await _deadlines(world, run_pk)
        return ti

    return make


CALLED = {
    "__classname__": "airflow.sdk.definitions.callback.AsyncCallback",
    "__version__": 0,
    "__data__": {"path": "my.called", "kwargs": {}},
}


async def _deadlines(world: World, run_pk: int) -> None:
    """Give a run a deadline that counts from when it was queued, one that was missed already, and one of another kind."""
    for name, reference, missed in (
        ("queued", "DagRunQueuedAtDeadline", False),
        ("missed", "DagRunQueuedAtDeadline", True),
        ("logical", "DagRunLogicalDateDeadline", False),
    ):
        alert = {"id": ti_id(f"alert {name}"), "created_at": EPOCH, "serialized_dag_id": version_id("sample", 1)}
        interval = 90.5 if world.revision == "3.2" else "90.5"
        what = {"reference": {"reference_type": reference}, "interval": interval, "callback_def": CALLED}
        await world.insert("deadline_alert", **alert, **what)
        callback = {"id": ti_id(f"callback {name}"), "type": "triggerer", "fetch_method": "import_path"}
        callback["data"] = {"__type": "dict", "__var": {}}
        await world.insert("callback", **callback, priority_weight=1, created_at=EPOCH)
        row = {"id": ti_id(f"deadline {name}"), "created_at": EPOCH, "last_updated_at": EPOCH, "dagrun_id": run_pk}
        ids = {"callback_id": callback["id"], "deadline_alert_id": alert["id"]}
        await world.insert("deadline", **row, **ids, deadline_time=EPOCH, missed=missed)


MOVING = "sample, moving"
SETUPS |= {
    "to_clear, success": _to_clear("success"),
    "to_clear, failed": _to_clear("failed"),
    "to_clear, running": _to_clear("running"),
    "to_clear, queued": _to_clear("queued"),
    "to_clear, without a version": _to_clear("failed", versioned=False),
    "to_clear, of a bundle version without a version": _to_clear("failed", versioned=False, bundle_version="v1"),
    "to_clear, running without a version": _to_clear("running", versioned=False),
    "to_clear, a newer version": _to_clear("failed", newest="sample"),
    "to_clear, on the newest version": _to_clear("failed", newest=MOVING),
    "to_clear, running, on the newest version": _to_clear("running", newest=MOVING),
    "to_clear, queued, on the newest version": _to_clear("queued", newest=MOVING),
    "to_clear, a backfill on the newest version": _to_clear("failed", newest=MOVING, run_type="backfill"),
    "to_clear, on the newest version without bundle versions": _to_clear(
        "success", newest=f"{MOVING}, without bundle versions"
    ),
    "to_clear, known lengths, on the newest version": _to_clear("failed", newest=MOVING, lengths={"c": 3}),
    "to_clear, lengths of none, on the newest version": _to_clear("failed", newest=MOVING, lengths={"c": 0}),
    **{
        f"to_clear, on the newest version, {name}": _to_clear("failed", newest=f"{MOVING}, {name}")
        for name in ("no more mapped", "mapped to fewer", "mapped by a literal", "a run of other dates")
    },
    **{
        f"to_clear, known lengths, on the newest version, {name}": _to_clear(
            "failed", newest=f"{MOVING}, {name}", lengths={"c": 2, "gone": 2}
        )
        for name in ("no more mapped", "mapped by a literal", "mapped over what is mapped")
    },
}


def _with_intervals(interval: Any) -> Setup:
    """Write a run whose deadlines are of one length, and the variables that may say it."""

    async def make(world: World) -> Any:
        ti = await SETUPS["to_clear, success"](world)
        for key, value in (("length", "60"), ("word", "long")):
            await world.insert("variable", key=key, val=value, is_encrypted=False)
        await world.connection.execute("UPDATE deadline_alert SET interval = $1", json.dumps(interval))
        return ti

    return make


def _by_variable(key: str) -> dict[str, Any]:
    name = "airflow.sdk.definitions.deadline.VariableInterval"
    return {"__classname__": name, "__version__": 0, "__data__": {"key": key}}


SETUPS |= {
    "to_clear_with_a_serialized_deadline": _with_intervals(
        {"__classname__": "datetime.timedelta", "__version__": 2, "__data__": 90.5}
    ),
    **{f"to_clear_with_a_deadline_by {key}": _with_intervals(_by_variable(key)) for key in ("length", "word", "none")},
}
