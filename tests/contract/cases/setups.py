"""What a database holds before a case's request: a function a setup, named by the cases that use it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

from tests.contract.cases.case import RUN
from tests.servers import FERNET_KEY
from tests.world import EPOCH, World, ti_id

SAMPLE = Path(__file__).parent.parent / "sample_dag.json"

Setup = Callable[[World], Awaitable[Any]]
SETUPS: dict[str, Setup] = {}


def setup(function: Setup) -> Setup:
    SETUPS[function.__name__] = function
    return function


@setup
async def queued(world: World) -> Any:
    return await world.one("d")


@setup
async def running(world: World) -> Any:
    return await world.one_running("d")


def _in_state(state: str | None, **values: Any) -> Setup:
    async def make(world: World) -> Any:
        return await world.one_running("d", **{"state": state, **values})

    return make


for _state in (
    "success",
    "failed",
    "skipped",
    "up_for_reschedule",
    "scheduled",
    "restarting",
    "upstream_failed",
    "deferred",
):
    SETUPS[_state] = _in_state(_state)
SETUPS["no_state"] = _in_state(None)
SETUPS["resuming"] = _in_state("queued", next_method="resume", next_kwargs={"event": {"a": 1}}, trigger_id=None)


def _instance(name: str, data: Any, version: int = 1) -> dict[str, Any]:
    return {"__classname__": name, "__version__": version, "__data__": data}


_UTC_ZONE = _instance("builtins.tuple", ["UTC", "pendulum.tz.timezone.Timezone", 1, True])
SETUPS["resuming_with_types"] = _in_state(
    "queued",
    next_method="resume",
    next_kwargs={
        "moment": _instance("datetime.datetime", {"timestamp": 1000.5, "tz": _UTC_ZONE}, 2),
        "delay": _instance("datetime.timedelta", 90.5, 2),
        "pair": _instance("builtins.tuple", [1, "a"]),
        "day": _instance("datetime.date", "2026-01-02", 2),
        "plain": {"a": [1, 2.5, None, True, {"b": 1}]},
    },
)
SETUPS["resuming_with_a_class"] = _in_state(
    "queued", next_method="resume", next_kwargs={"thing": _instance("my.Thing", {"a": 1})}
)
SETUPS["resuming_from_before"] = _in_state(
    "queued", next_method="resume", next_kwargs={"__type": "dict", "__var": {"a": {"__type": "dict", "__var": {"b": 1}}}}
)


@setup
async def queued_early(world: World) -> Any:
    """Its run has not started, and has no conf."""
    ti = await world.one("d")
    await world.connection.execute("UPDATE dag_run SET start_date = NULL, conf = NULL, state = 'queued'")
    return ti


SETUPS["mapped_one"] = _in_state("running", map_index=2)
SETUPS["labelled"] = _in_state("running", map_index=2, rendered_map_index="old", max_tries=3)
SETUPS["labelled_alone"] = _in_state("running", rendered_map_index="old", max_tries=3)
SETUPS["never_started"] = _in_state("running", start_date=None)
SETUPS["with_tries"] = _in_state("running", max_tries=2, try_number=2)


@setup
async def nothing(world: World) -> Any:
    return "00000000-0000-4000-8000-000000000000"


async def _archived(world: World, ti: Any) -> None:
    row = await world.connection.fetchrow("SELECT * FROM task_instance WHERE id = $1", ti)
    kept = {name: value for name, value in row.items() if name not in ("id", "last_heartbeat_at", "trigger_timeout")}
    await world.insert("task_instance_history", task_instance_id=ti, **{**kept, "state": "failed"})


def _tried_already(setup: str) -> Setup:
    """Let the history have the running try already: whoever cleared it put it there."""

    async def make(world: World) -> Any:
        ti = await SETUPS[setup](world)
        await _archived(world, ti)
        return ti

    return make


SETUPS["tried_already"] = _tried_already("with_tries")
SETUPS["labelled_and_tried_already"] = _tried_already("labelled")


@setup
async def archived(world: World) -> Any:
    ti = await world.one_running("d")
    await _archived(world, ti)
    await world.connection.execute("UPDATE task_instance SET id = $2, try_number = 2 WHERE id = $1", ti, ti_id("next try"))
    return ti


@setup
async def with_xcoms(world: World) -> Any:
    await world.dag("d")
    ti = None
    for number, run_id in enumerate(("early", RUN)):
        date = EPOCH.replace(day=1 + number)
        await world.run("d", run_id, logical_date=date, run_after=date)
        ti = await world.running("d", "job", run_id, try_number=1)
        await world.xcom("d", "job", "return_value", {"run": run_id, "n": [1, 2.5, None, "é"]}, run_id)
        await world.xcom("d", "job", "a/key with spaces", "slashes", run_id)
        for index in range(6):
            await world.ti("d", "mapped", run_id, map_index=index, state="success")
            await world.xcom("d", "mapped", "return_value", index * 10 + number, run_id, map_index=index)
    await world.xcom("d", "job", "null", None)
    await world.xcom("d", "job", "early_only", 1, "early")
    await world.dag("other")
    await world.run("other", "its own")
    await world.running("other", "job", "its own")
    await world.xcom("other", "job", "return_value", "from another Dag", "its own")
    return ti


@setup
async def with_undated(world: World) -> Any:
    """An old run without a logical date, with a task instance and an XCom, beside those of :func:`with_xcoms`."""
    ti = await with_xcoms(world)
    before = EPOCH - timedelta(days=1)
    await world.run("d", "undated", logical_date=None, data_interval_start=None, data_interval_end=None, run_after=before)
    await world.running("d", "job", "undated", state="success")
    await world.xcom("d", "job", "return_value", "old", "undated")
    return ti


@setup
async def with_left_xcoms(world: World) -> Any:
    ti = await world.one("d")
    await world.xcom("d", "job", "left", 1)
    await world.xcom("d", "job", "over", 2)
    await world.insert("task_reschedule", ti_id=ti, start_date=EPOCH, end_date=EPOCH, duration=0, reschedule_date=EPOCH)
    return ti


@setup
async def with_reschedules(world: World) -> Any:
    ti = await world.one_running("d")
    for minute in (7, 3):
        when = EPOCH.replace(minute=minute)
        await world.insert("task_reschedule", ti_id=ti, start_date=when, end_date=when, duration=0, reschedule_date=when)
    return ti


@setup
async def triggered_by_assets(world: World) -> Any:
    ti = await world.one("d")
    asset = await world.asset("a")
    event = await world.insert(
        "asset_event",
        "id",
        asset_id=asset,
        extra={"k": 1},
        source_task_id="t",
        source_dag_id="p",
        source_run_id="r",
        source_map_index=-1,
        timestamp=EPOCH,
    )
    alias = await world.insert("asset_alias", "id", name="alias", group="asset")
    await world.insert("asset_alias_asset_event", alias_id=alias, event_id=event)
    run = await world.connection.fetchval("SELECT id FROM dag_run")
    await world.insert("dagrun_asset_event", dag_run_id=run, event_id=event)
    return ti


@setup
async def several_runs(world: World) -> Any:
    await world.dag("d", next_dagrun=EPOCH)
    for name in ("blue", "amber"):
        await world.insert("dag_tag", name=name, dag_id="d")
    ti = None
    for number, state in enumerate(("success", "failed", "success", "running")):
        date = EPOCH.replace(day=1 + number)
        await world.run(
            "d",
            f"run{number}",
            logical_date=date,
            run_after=date,
            state=state,
            conf={"n": number},
            end_date=None if state == "running" else date.replace(hour=1),
            note="noted" if number == 2 else None,
        )
        ti = await world.running("d", "job", f"run{number}", state="success" if number < 3 else "running", duration=1.5)
        await world.ti("d", "other", f"run{number}", state=("failed", None, "skipped", "queued")[number])
        await world.ti("d", "mapped", f"run{number}", map_index=0, state="success")
        await world.ti("d", "mapped", f"run{number}", map_index=1, state="upstream_failed")
    return ti


@setup
async def downstream(world: World) -> Any:
    ti = await world.one_running("d")
    for number, state in enumerate((None, "scheduled", "queued", "running", "success", "failed", "deferred", "skipped")):
        await world.ti("d", f"t{number}", state=state)
    for index in range(3):
        await world.ti("d", "m", map_index=index, state=None)
    return ti


@setup
async def variables(world: World) -> Any:
    encrypted = Fernet(FERNET_KEY).encrypt(b"decrypted").decode()
    await world.insert("variable", key="clear", val="in clear", is_encrypted=False)
    await world.insert("variable", key="secret", val=encrypted, is_encrypted=True)
    await world.insert("variable", key="rotten", val="gAAAA-not-decryptable", is_encrypted=True)
    await world.insert("variable", key="with/slash", val="s", is_encrypted=False, description="old")
    await world.insert("variable", key="empty", val="", is_encrypted=False)
    return await world.one_running("d")


@setup
async def connections(world: World) -> Any:
    hidden = Fernet(FERNET_KEY)
    await world.insert(
        "connection",
        conn_id="full",
        conn_type="postgres",
        host="h",
        schema="s",
        login="l",
        port=5432,
        password=hidden.encrypt(b"pass").decode(),
        extra=hidden.encrypt(b'{"a": 1}').decode(),
        is_encrypted=True,
        is_extra_encrypted=True,
    )
    await world.insert("connection", conn_id="bare", conn_type="http", is_encrypted=False, is_extra_encrypted=False)
    await world.insert(
        "connection", conn_id="rotten", conn_type="http", password="gAAAA-no", is_encrypted=True, is_extra_encrypted=False
    )
    return await world.one_running("d")


@setup
async def of_a_team(world: World) -> Any:
    """A variable and a connection of a team, and a variable of none, where nobody asks for teams."""
    await world.connection.execute("INSERT INTO team VALUES ('red')")
    for name, team in (("red", "red"), ("nobody", None)):
        await world.insert("variable", key=f"of_{name}", val="v", is_encrypted=False, description="old", team_name=team)
    plain = {"is_encrypted": False, "is_extra_encrypted": False}
    await world.insert("connection", conn_id="of_red", conn_type="http", team_name="red", **plain)
    return await world.one_running("d")


@setup
async def extras(world: World) -> Any:
    for name, extra in (
        ("a list", "[1]"),
        ("a text", '"x"'),
        ("a number", "5"),
        ("null", "null"),
        ("no JSON", "{"),
        ("empty", ""),
    ):
        await world.insert(
            "connection", conn_id=name, conn_type="http", extra=extra, is_encrypted=False, is_extra_encrypted=False
        )
    return await world.one_running("d")


@setup
async def outlets(world: World) -> Any:
    """Assets with consumers: by asset (one paused), by name, by uri and by alias."""
    first, second = await world.asset("first"), await world.asset("second")
    await world.asset("inactive", active=False)
    for dag_id, paused in (
        ("c2", False),
        ("c1", False),
        ("paused", True),
        ("by_name", False),
        ("by_uri", False),
        ("by_alias", False),
    ):
        await world.dag(dag_id, is_paused=paused)
    for dag_id, asset in (("c2", first), ("c1", first), ("paused", first), ("c1", second)):
        await world.scheduled_by(dag_id, asset)
    await world.insert("dag_schedule_asset_name_reference", name="second", dag_id="by_name", created_at=EPOCH)
    await world.insert("dag_schedule_asset_uri_reference", uri="s3://bucket/first", dag_id="by_uri", created_at=EPOCH)
    alias = await world.insert("asset_alias", "id", name="alias", group="asset")
    await world.insert(
        "dag_schedule_asset_alias_reference", alias_id=alias, dag_id="by_alias", created_at=EPOCH, updated_at=EPOCH
    )
    return await world.one_running("d")


async def _queued_already(world: World) -> Any:
    """An event of ``first`` for which ``c1`` is queued, and has no run yet."""
    ti = await outlets(world)
    asset = await world.connection.fetchval("SELECT id FROM asset WHERE name = 'first'")
    await world.insert("asset_event", asset_id=asset, extra={}, source_map_index=-1, timestamp=EPOCH)
    await world.insert("asset_dag_run_queue", asset_id=asset, target_dag_id="c1", created_at=EPOCH)
    return ti


SETUPS["queued already"] = _queued_already


@setup
async def partitioned_run(world: World) -> Any:
    ti = await outlets(world)
    await world.connection.execute("UPDATE dag_run SET partition_key = 'p1'")
    return ti


@setup
async def partitioned_consumer(world: World) -> Any:
    ti = await outlets(world)
    await world.connection.execute("UPDATE dag SET timetable_partitioned = true WHERE dag_id = 'c1'")
    return ti


def _mapper(name: str, module: str = "temporal", **fields: Any) -> dict[str, Any]:
    """Return a partition mapper or a window, serialized."""
    return {"__type": f"airflow.partition_mappers.{module}.{name}", "__var": fields}


def _start_of(period: str, output_format: str, **fields: Any) -> dict[str, Any]:
    formats = {"input_format": "%Y-%m-%dT%H:%M:%S", "output_format": output_format}
    return _mapper(f"StartOf{period}Mapper", **{"timezone": "UTC", **formats, **fields})


def _fan_out(period: str, output_format: str, window: str, to: dict[str, Any], **fields: Any) -> dict[str, Any]:
    direction = {"direction": fields.pop("direction", "forward")}
    return _mapper(
        "FanOutMapper",
        upstream_mapper=_start_of(period, output_format),
        window=_mapper(window, "window", **direction),
        downstream_mapper=to,
        **fields,
    )


_IDENTITY = _mapper("IdentityMapper", "identity")
_WEEK, _QUARTER = "%Y-%m-%d (W%V)", "%Y-Q{quarter}"
_DAY, _MONTH = _start_of("Day", "%Y-%m-%d"), _start_of("Month", "%Y-%m")
_ROLLUP = {
    "window": _mapper("DayWindow", "window", direction="forward"),
    "wait_policy": _mapper("WaitForAll", "wait_policy"),
}
# Partition mappers, and the key of the run whose success they map.
MAPPED: dict[str, tuple[dict[str, Any], str]] = {
    "identity": (_IDENTITY, "p1"),
    "an allowed key": (_mapper("AllowedKeyMapper", "allowed_key", allowed_keys=["p0", "p1"]), "p1"),
    "no allowed key": (_mapper("AllowedKeyMapper", "allowed_key", allowed_keys=["p0"]), "p1"),
    "no time": (_DAY, "p1"),
    "hours in Paris": (_start_of("Hour", "%Y-%m-%dT%H", timezone="Europe/Paris"), "2026-02-03T04:05:06"),
    "an hour that Paris skips": (_start_of("Hour", "%Y-%m-%dT%H", timezone="Europe/Paris"), "2026-03-29T02:30:00"),
    "an hour that comes twice": (_start_of("Hour", "%Y-%m-%dT%H %z", timezone="Europe/Paris"), "2026-10-25T02:30:00"),
    "a time with its zone": (
        _start_of("Hour", "%Y-%m-%dT%H", timezone="Europe/Paris", input_format="%Y-%m-%dT%H:%M%z"),
        "2026-02-03T04:05+0000",
    ),
    "days": (_DAY, "2026-02-03T04:05:06"),
    "weeks": (_start_of("Week", _WEEK), "2026-02-03T04:05:06"),
    "months": (_MONTH, "2026-02-03T04:05:06"),
    "quarters": (_start_of("Quarter", _QUARTER), "2026-06-30T04:05:06"),
    "years": (_start_of("Year", "%Y"), "2026-06-30T04:05:06"),
    "an offset": (_start_of("Day", "%Y-%m-%d", timezone=3600 * 9), "2026-06-30T04:05:06"),
    "a product": (_mapper("ProductMapper", "product", delimiter="|", mappers=[_IDENTITY, _DAY]), "eu|2026-06-30T04:05:06"),
    "a product of too few": (_mapper("ProductMapper", "product", delimiter="|", mappers=[_IDENTITY, _DAY]), "eu"),
    "a chain": (
        _mapper("ChainMapper", "chain", mappers=[_DAY, _start_of("Month", "%Y-%m", input_format="%Y-%m-%d")]),
        "2026-06-30T04:05:06",
    ),
}
MAPPED_SINCE_3_3: dict[str, tuple[dict[str, Any], str]] = {
    "a fixed key": (_mapper("FixedKeyMapper", "fixed_key", downstream_key="all"), "p1"),
    "a rollup": (_mapper("RollupMapper", "base", upstream_mapper=_DAY, **_ROLLUP), "2026-06-30T04:05:06"),
    "weeks to days": (_fan_out("Week", _WEEK, "WeekWindow", _DAY), "2026-02-03T04:05:06"),
    "weeks to days before": (_fan_out("Week", _WEEK, "WeekWindow", _DAY, direction="backward"), "2026-02-03T04:05:06"),
    "months to days": (_fan_out("Month", "%Y-%m", "MonthWindow", _DAY), "2026-02-03T04:05:06"),
    "months to days before": (_fan_out("Month", "%Y-%m", "MonthWindow", _DAY, direction="backward"), "2026-03-03T04:05:06"),
    "quarters to months": (_fan_out("Quarter", _QUARTER, "QuarterWindow", _MONTH), "2026-11-03T04:05:06"),
    "years to months before": (_fan_out("Year", "%Y", "YearWindow", _MONTH, direction="backward"), "2026-11-03T04:05:06"),
    "days to hours": (_fan_out("Day", "%Y-%m-%d", "DayWindow", _start_of("Hour", "%Y-%m-%dT%H")), "2026-11-03T04:05:06"),
    "hours to minutes": (_fan_out("Hour", "%Y-%m-%dT%H", "HourWindow", _IDENTITY), "2026-11-03T04:05:06"),
    "more than it may": (_fan_out("Week", _WEEK, "WeekWindow", _DAY, max_downstream_keys=6), "2026-02-03T04:05:06"),
}


def _partitioned_timetable(mapper: dict[str, Any]) -> dict[str, Any]:
    """Return a schedule by partitions of ``first`` with this mapper, and of others by name and URI with none."""
    first = {"__type": "asset", "name": "first", "uri": "s3://bucket/first", "group": "asset", "extra": {}}
    others = [{"__type": "asset_ref", "name": "second"}, {"__type": "asset_ref", "uri": "s3://bucket/third"}]
    fields = {
        "asset_condition": {"__type": "asset_any", "objects": [first, *others]},
        "default_partition_mapper": _IDENTITY,
        "partition_mapper_config": [[first, mapper]],
    }
    return {"__type": "airflow.timetables.simple.PartitionedAssetTimetable", "__var": fields}


async def _set_timetable(world: World, dag_id: str, timetable: dict[str, Any]) -> None:
    await world.connection.execute(
        "UPDATE serialized_dag SET data = jsonb_set(data::jsonb, '{dag,timetable}', $1) WHERE dag_id = $2",
        json.dumps(timetable),
        dag_id,
    )


async def _partitioned(world: World, mapper: dict[str, Any], key: str) -> Any:
    """Let ``c1`` wait for partitions."""
    ti = await outlets(world)
    await world.serialized("c1", [{"__var": {"task_id": "job"}, "__type": "operator"}])
    await _set_timetable(world, "c1", _partitioned_timetable(mapper))
    await world.connection.execute("UPDATE dag SET timetable_partitioned = true WHERE dag_id = 'c1'")
    await world.connection.execute(
        "UPDATE dag_run SET partition_key = $1, partition_date = $2 WHERE dag_id = 'd'", key, EPOCH
    )
    return ti


for _name, _of in {**MAPPED, **MAPPED_SINCE_3_3}.items():
    SETUPS[f"partitions, {_name}"] = partial(_partitioned, mapper=_of[0], key=_of[1])


async def _waiting(world: World, *, ran: bool = False, **values: Any) -> Any:
    """Let ``c1`` wait for the partition of the run already."""
    ti = await _partitioned(world, *MAPPED["identity"])
    row = {"target_dag_id": "c1", "partition_key": "p1", "created_at": EPOCH, "updated_at": EPOCH}
    if world.revision == "3.3":
        row |= {"partition_date": EPOCH, "rollup_fingerprint": {}, **values}
    if ran:
        row["created_dag_run_id"] = await world.run("c1")
    await world.insert("asset_partition_dag_run", **row)
    return ti


SETUPS["waiting already"] = _waiting
SETUPS["waiting without a date"] = partial(_waiting, partition_date=None)
SETUPS["waiting with another date"] = partial(_waiting, partition_date=EPOCH.replace(year=2025))
SETUPS["waited before"] = partial(_waiting, ran=True)
WAITING = tuple(name for name in SETUPS if name.startswith("wait"))


@setup
async def retried_before(world: World) -> Any:
    ti = await world.one_running("d", max_tries=3)
    await world.insert("task_reschedule", ti_id=ti, start_date=EPOCH, end_date=EPOCH, duration=0, reschedule_date=EPOCH)
    await world.xcom("d", "job", "kept", 1)
    await world.insert(
        "hitl_detail",
        ti_id=ti,
        options=["a"],
        subject="s",
        params={},
        params_input={},
        created_at=EPOCH,
        defaults=["a"],
        multiple=False,
        assignees=[],
        chosen_options=["a"],
        responded_by={"id": "1", "name": "n"},
    )
    return ti


@setup
async def fail_fast(world: World) -> Any:
    ti = await world.one_running("d")
    await world.connection.execute("UPDATE dag SET fail_fast = true")
    tasks = [{"__var": {"task_id": "job"}, "__type": "operator"}]
    for name, state in (
        ("busy", "running"),
        ("waiting", None),
        ("planned", "scheduled"),
        ("done", "success"),
        ("broken", "failed"),
    ):
        await world.ti("d", name, state=state)
        tasks.append({"__var": {"task_id": name}, "__type": "operator"})
    await world.ti("d", "clean", state=None)
    tasks.append({"__var": {"task_id": "clean", "is_teardown": True}, "__type": "operator"})
    await world.serialized("d", tasks)
    return ti


@setup
async def with_serialized(world: World) -> Any:
    active, gone = ("a", "s3://bucket/a"), ("gone", "s3://bucket/gone")
    await world.asset("a")
    ti = await world.one_running("d")
    encoded = [{"__var": {"name": n, "uri": u, "extra": {}, "group": "asset"}, "__type": "asset"} for n, u in (active, gone)]
    tasks = [
        {"__var": {"task_id": "job", "inlets": encoded[:1], "outlets": encoded}, "__type": "operator"},
        {"__var": {"task_id": "g.one"}, "__type": "operator"},
        {"__var": {"task_id": "g.inner.two"}, "__type": "operator"},
    ]
    for task_id, state in (("g.one", "success"), ("g.inner.two", "failed")):
        await world.ti("d", task_id, state=state)
    await world.serialized("d", tasks, groups={"g": ["g.one"], "g.inner": ["g.inner.two"]})
    return ti


@setup
async def asset_events(world: World) -> Any:
    """Two assets of one name's past and present, one alias; events of both, one of which made two runs."""
    ti = await world.one_running("d")
    old = await world.asset("a", "s3://bucket/old", active=False)
    now = await world.asset("a")
    other = await world.asset("b")
    alias = await world.insert("asset_alias", "id", name="alias", group="asset")
    for asset in (old, other):
        await world.insert("asset_alias_asset", alias_id=alias, asset_id=asset)
    run = await world.connection.fetchval("SELECT id FROM dag_run")
    later = await world.run("d", "later", logical_date=None, data_interval_start=None, data_interval_end=None)
    for number, asset in enumerate((old, now, other, now)):
        event = await world.insert(
            "asset_event",
            "id",
            asset_id=asset,
            extra={"n": number},
            source_task_id="t",
            source_dag_id="p",
            source_run_id="r",
            source_map_index=-1,
            timestamp=EPOCH.replace(minute=number * 10),
            partition_key="key" if number == 3 else None,
        )
        if number == 1:
            for run_pk in (run, later):
                await world.insert("dagrun_asset_event", dag_run_id=run_pk, event_id=event)
        if number == 2:
            await world.insert("asset_alias_asset_event", alias_id=alias, event_id=event)
    return ti


async def _asked(world: World, ti: Any, **values: Any) -> None:
    defaults = {
        "options": ["yes", "no"],
        "subject": "Well?",
        "body": "text",
        "defaults": ["no"],
        "multiple": False,
        "params": {"p": {"value": 1}},
        "params_input": {},
        "assignees": [{"id": "1", "name": "ann"}],
        "created_at": EPOCH,
    }
    await world.insert("hitl_detail", ti_id=ti, **{**defaults, **values})


@setup
async def asked(world: World) -> Any:
    ti = await world.one_running("d")
    await _asked(world, ti)
    return ti


@setup
async def asked_barely(world: World) -> Any:
    ti = await world.one_running("d")
    await _asked(world, ti, body=None, defaults=None, assignees=[], params={})
    return ti


@setup
async def answered(world: World) -> Any:
    ti = await world.one_running("d")
    await _asked(
        world,
        ti,
        responded_at=EPOCH.replace(microsecond=250000),
        responded_by={"id": "2", "name": "bob"},
        chosen_options=["yes"],
        params_input={"p": 2},
    )
    return ti


@setup
async def state_stores(world: World) -> Any:
    ti = await world.one_running("d")
    run = await world.connection.fetchval("SELECT id FROM dag_run")
    for task_id, key in (("job", "kept"), ("job", "with/slash"), ("elsewhere", "kept")):
        key_of = {"dag_run_id": run, "dag_id": "d", "run_id": RUN, "task_id": task_id, "map_index": -1, "key": key}
        await world.insert("task_state_store", **key_of, value='{"a": [1, 2.5]}', updated_at=EPOCH, expires_at=EPOCH)
    asset = await world.asset("a")
    await world.asset("gone", active=False)
    for key in ("kept", "other"):
        await world.insert("asset_state_store", asset_id=asset, key=key, value='"v"', updated_at=EPOCH)
    return ti


def _connection_test(state: str, **values: Any) -> Setup:
    async def make(world: World) -> Any:
        test = ti_id("a connection test")
        defaults = {
            "id": test,
            "token": "t",
            "connection_id": "tested",
            "state": state,
            "created_at": EPOCH,
            "updated_at": EPOCH,
            "conn_type": "http",
            "host": "h",
            "login": "l",
            "schema": "s",
            "port": 80,
            "active_connection_id": "tested" if state in ("pending", "queued", "running") else None,
            "password": "p",
            "extra": '{"a": 1}',
        }
        await world.insert("connection_test_request", **{**defaults, **values})
        return test

    return make


for _state in ("pending", "queued", "running", "success", "failed"):
    SETUPS[f"connection_test_{_state}"] = _connection_test(_state)
SETUPS["connection_test_to_save"] = _connection_test("running", commit_on_success=True)


@setup
async def connection_test_to_replace(world: World) -> Any:
    await world.insert(
        "connection", conn_id="tested", conn_type="ftp", host="old", is_encrypted=False, is_extra_encrypted=False
    )
    return await _connection_test("running", commit_on_success=True)(world)


def _to_replace(**values: Any) -> Setup:
    """A test of a connection that is stored already, with a password and an extra."""

    async def make(world: World) -> Any:
        hidden = Fernet(FERNET_KEY)
        stored = {"password": hidden.encrypt(b"kept").decode(), "extra": hidden.encrypt(b'{"k": 1}').decode()}
        named = {"conn_id": values.get("connection_id", "tested"), "conn_type": "ftp", "description": "d"}
        await world.insert("connection", **named, **stored, is_encrypted=True, is_extra_encrypted=True)
        return await _connection_test("running", commit_on_success=True, **values)(world)

    return make


_ROTTEN = {"password": "gAAAA-no", "is_encrypted": True}
SETUPS |= {
    "connection_test_rotten": _connection_test("pending", **_ROTTEN),
    "connection_test_with_a_rotten_extra": _connection_test("queued", extra="gAAAA-no", is_extra_encrypted=True),
    "connection_test_rotten_to_save": _connection_test("running", commit_on_success=True, **_ROTTEN),
    "connection_test_to_replace_without_a_password": _to_replace(password=None, extra=None),
    "connection_test_to_replace_with_empty_ones": _to_replace(password="", extra=""),
    "connection_test_to_replace_an_odd_id": _to_replace(connection_id="odd id%"),
    "connection_test_to_replace_with_a_list": _to_replace(extra="[1]"),
    "connection_test_to_replace_with_no_json": _to_replace(extra="no JSON"),
    "connection_test_to_save_without_a_password": _connection_test("running", commit_on_success=True, password="", extra=""),
    "connection_test_to_save_an_odd_id": _connection_test("running", commit_on_success=True, connection_id="odd id%"),
    "connection_test_to_save_with_a_list": _connection_test("running", commit_on_success=True, extra="[1]"),
}  # fmt: skip


async def _sample(world: World, **changed: Any) -> Any:
    """Write the Dag ``sample`` as it is serialized (mapped tasks and groups, weights, pools, params), and a task that asks."""
    ti = await world.one_running("d")
    await world.connection.execute("UPDATE dag_run SET triggering_user_name = 'ann'")
    await world.dag("sample", bundle_version="v1")
    await world.insert("log_template", id=7, filename="f", elasticsearch_id="e", created_at=EPOCH)
    data = json.loads((SAMPLE).read_text())
    data["dag"] |= changed
    version = ti_id("version of sample")
    stamps = {"created_at": EPOCH, "last_updated": EPOCH}
    await world.insert("dag_version", id=version, version_number=1, dag_id="sample", bundle_name="dags-folder", **stamps)
    row = {"id": version, "dag_id": "sample", "data": data, "dag_hash": "0" * 32, "dag_version_id": version}
    await world.insert("serialized_dag", **row, **stamps)
    return ti


def _timetable(name: str, **fields: Any) -> Setup:
    async def make(world: World) -> Any:
        return await _sample(world, timetable={"__type": f"airflow.timetables.{name}", "__var": fields})

    return make


SETUPS["sample"] = _sample
_PARIS = {"timezone": "Europe/Paris"}
TIMETABLES = {
    "none": _timetable("simple.NullTimetable"),
    "once": _timetable("simple.OnceTimetable"),
    "continuous": _timetable("simple.ContinuousTimetable"),
    "several crons": _timetable(
        "trigger.MultipleCronTriggerTimetable", expressions=["0 1 * * *", "0 5 * * *"], **_PARIS, interval=7200.0,
        run_immediately=False,
    ),
    "delta trigger": _timetable("trigger.DeltaTriggerTimetable", delta=3600.0, interval=60.0),
    "daily interval": _timetable("interval.CronDataIntervalTimetable", expression="0 3 * * *", **_PARIS),
    "hourly interval": _timetable("interval.CronDataIntervalTimetable", expression="30 * * * *", **_PARIS),
    "utc offset": _timetable("interval.CronDataIntervalTimetable", expression="0 3 * * 1", timezone=7200),
    "delta interval": _timetable("interval.DeltaDataIntervalTimetable", delta=5400.0),
    "events": _timetable(
        "events.EventsTimetable", event_dates=["2026-01-01T00:00:00+00:00", "2026-03-01T00:00:00+00:00"],
        restrict_to_events=True, description="", _summary="",
    ),
}  # fmt: skip
SETUPS.update({f"sample, {name}": make for name, make in TIMETABLES.items()})
# Partitioned schedules of a triggered Dag, and keys: one that it may have made, and one that it cannot have.
KEYS: dict[str, tuple[Setup, tuple[str, ...]]] = {
    "sample by partitions at run time": (_timetable("simple.PartitionedAtRuntime"), ("any", " ", "k" * 251)),
    "sample by cron partitions": (
        _timetable("trigger.CronPartitionTimetable", expression="0 0 * * *", **_PARIS, run_offset=0, run_immediately=False, key_format="%Y-%m-%d %H:%M"),
        ("2026-02-03 00:00", "2026-03-29 02:30", "2026-10-25 02:30", "no date"),
    ),
} | {
    f"sample by partitions, {name}": (partial(_sample, timetable=_partitioned_timetable({**MAPPED, **MAPPED_SINCE_3_3}[name][0])), keys)
    for name, keys in {
        "identity": ("p1",),
        "an allowed key": ("p1",),
        "a fixed key": ("all",),
        "hours in Paris": ("2026-02-03T04", "2026-03-29T02", "no time"),
        "days": ("2026-02-03", "no day"),
        "weeks": ("2026-02-02 (W06)", "2026-02-04 (W06)", "2026-99-02 (W06)"),
        "months": ("2026-02",),
        "quarters": ("2026-Q2",),
        "years": ("2026",),
        "a product": ("eu|2026-06-30", "eu", "eu|no day"),
        "a chain": ("2026-06",),
        "a rollup": ("2026-06-30",),
        "weeks to days": ("2026-02-03",),
    }.items()
}  # fmt: skip
SETUPS.update({name: make for name, (make, _) in KEYS.items()})


_WHEN_SDK = _instance("datetime.datetime", {"timestamp": 1767225600.0, "tz": _UTC_ZONE}, 2)
_CALLBACKS = {
    "async": _instance(
        "airflow.sdk.definitions.callback.AsyncCallback", {"path": "my.called", "kwargs": {"a": 1, "when": _WHEN_SDK}}, 0
    ),
    "sync": _instance(
        "airflow.sdk.definitions.callback.SyncCallback",
        {"path": "my.called", "kwargs": {"a": [1, "x"]}, "executor": None},
        0,
    ),
}
_AVERAGE = {"reference_type": "AverageRuntimeDeadline", "max_runs": 2, "min_runs": 1}


def _with_deadline(
    reference: dict[str, Any], *, interval: Any = 90.5, called: str = "async", runs: tuple[tuple[str, int], ...] = ()
) -> Setup:
    async def make(world: World) -> Any:
        alert = ti_id("alert")
        ti = await _sample(world, deadline=[str(alert)])
        await world.insert("variable", key="length", val="60", is_encrypted=False)
        await world.insert("variable", key="word", val="long", is_encrypted=False)
        for number, (state, seconds) in enumerate(runs):
            ended = EPOCH + timedelta(seconds=seconds)
            when = {"logical_date": EPOCH + timedelta(days=number), "start_date": EPOCH, "end_date": ended}
            await world.run("sample", f"before_{number}", state=state, **when)
        row = {"id": alert, "created_at": EPOCH, "serialized_dag_id": ti_id("version of sample")}
        length = json.dumps(interval) if world.revision == "3.3" else interval
        await world.insert("deadline_alert", **row, reference=reference, interval=length, callback_def=_CALLBACKS[called])
        return ti

    return make


_OLD = datetime(2000, 1, 1, tzinfo=UTC).timestamp()
WITH_DEADLINES = {
    "at a fixed time": _with_deadline({"reference_type": "FixedDatetimeDeadline", "datetime": _OLD}),
    "after its logical date": _with_deadline({"reference_type": "DagRunLogicalDateDeadline"}, called="sync"),
    "after it was queued": _with_deadline({"reference_type": "DagRunQueuedAtDeadline"}),
    "after an average of too few": _with_deadline(_AVERAGE | {"min_runs": 2}, runs=(("success", 100),)),
    "after an average of none": _with_deadline(_AVERAGE),
    "after an average": _with_deadline(_AVERAGE, runs=(("success", 100), ("success", 50), ("success", 70), ("failed", 1))),
}
WITH_DEADLINES_SINCE_3_3 = {
    "after a serialized length": _with_deadline(
        {"reference_type": "FixedDatetimeDeadline", "datetime": _OLD}, interval=_instance("datetime.timedelta", 30.0, 2)
    ),
    "after a variable length": _with_deadline(
        {"reference_type": "FixedDatetimeDeadline", "datetime": _OLD},
        interval=_instance("airflow.sdk.definitions.deadline.VariableInterval", {"key": "length"}, 0),
    ),
    "after a variable that is missing": _with_deadline(
        {"reference_type": "FixedDatetimeDeadline", "datetime": _OLD},
        interval=_instance("airflow.sdk.definitions.deadline.VariableInterval", {"key": "none"}, 0),
    ),
    "after a variable that is no number": _with_deadline(
        {"reference_type": "FixedDatetimeDeadline", "datetime": _OLD},
        interval=_instance("airflow.sdk.definitions.deadline.VariableInterval", {"key": "word"}, 0),
    ),
}
SETUPS.update({f"sample, deadline {name}": make for name, make in {**WITH_DEADLINES, **WITH_DEADLINES_SINCE_3_3}.items()})


@setup
async def sample_with_import_errors(world: World) -> Any:
    ti = await _sample(world)
    await world.connection.execute("UPDATE dag SET has_import_errors = true WHERE dag_id = 'sample'")
    return ti


@setup
async def stale_sample(world: World) -> Any:
    ti = await _sample(world)
    await world.connection.execute("UPDATE dag SET is_stale = true WHERE dag_id = 'sample'")
    return ti


@setup
async def scheduled_only_sample(world: World) -> Any:
    ti = await _sample(world)
    await world.connection.execute("UPDATE dag SET allowed_run_types = '[\"scheduled\"]' WHERE dag_id = 'sample'")
    return ti


@setup
async def sample_that_ran(world: World) -> Any:
    ti = await _sample(world)
    await world.run("sample", "r1")
    return ti


def _to_clear(run_state: str, *, versioned: bool = True, newest: dict[str, Any] | None = None, **run: Any) -> Setup:
    """Write a run of ``sample`` with task instances in many states.

    :param versioned: whether the run has a Dag version of its own.
    :param newest: what a newer version of the Dag changes; without it there is no newer one.
    """

    async def make(world: World) -> Any:
        ti = await _sample(world)
        own = {"created_dag_version_id": ti_id("version of sample"), "bundle_version": "v1"} if versioned else {}
        run_pk = await world.run("sample", "r1", state=run_state, end_date=EPOCH + timedelta(hours=1), **own, **run)
        version = {"dag_version_id": ti_id("version of sample")} if versioned else {}
        done = {"start_date": EPOCH, "end_date": EPOCH + timedelta(minutes=1), "duration": 60.0}
        for task_id, map_index, values in (
            ("a", -1, {"state": "success", "try_number": 2, "max_tries": 3, **done}),
            ("b", 0, {"state": "failed", **done}),
            ("b", 1, {"state": "running", "start_date": EPOCH}),
            ("b", 7, {"state": "skipped"}),
            (
                "c",
                -1,
                {
                    "state": "deferred",
                    "next_method": "execute_complete",
                    "next_kwargs": {"__type": "dict", "__var": {"x": 1}},
                },
            ),
            ("m", -1, {"state": None, "try_number": 0, "start_date": EPOCH, "external_executor_id": "e"}),
            ("g.e", 0, {"state": "up_for_retry", "try_number": 3, "max_tries": 5, **done}),
            ("gone", -1, {"state": "upstream_failed", "max_tries": 4, **version}),
        ):
            values = {**version, **values} if task_id != "m" else values
            await world.ti("sample", task_id, "r1", map_index=map_index, **values)
        waiting = ti_id("sample/r1/c/-1")
        stamps = {"start_date": EPOCH, "end_date": EPOCH, "duration": 0, "reschedule_date": EPOCH}
        await world.insert("task_reschedule", ti_id=waiting, **stamps)
        await _asked(world, waiting)
        await _archived(world, ti_id("sample/r1/gone/-1"))
        if newest is not None:
            data = json.loads((SAMPLE).read_text())
            data["dag"] |= newest
            stamps = {"created_at": EPOCH + timedelta(days=1), "last_updated": EPOCH + timedelta(days=1)}
            row = {"id": ti_id("newer"), "dag_id": "sample"}
            await world.insert(
                "dag_version", version_number=2, bundle_name="dags-folder", bundle_version="v2", **row, **stamps
            )
            await world.insert(
                "serialized_dag", data=data, dag_hash="1" * 32, dag_version_id=ti_id("newer"), **row, **stamps
            )
            await world.connection.execute("UPDATE dag SET bundle_version = 'v2' WHERE dag_id = 'sample'")
        await _deadlines(world, run_pk)
        return ti

    return make


async def _deadlines(world: World, run_pk: int) -> None:
    """Give a run a deadline that counts from when it was queued, one that was missed already, and one of another kind."""
    for name, reference, missed in (
        ("queued", "DagRunQueuedAtDeadline", False),
        ("missed", "DagRunQueuedAtDeadline", True),
        ("logical", "DagRunLogicalDateDeadline", False),
    ):
        alert = {"id": ti_id(f"alert {name}"), "created_at": EPOCH, "serialized_dag_id": ti_id("version of sample")}
        interval = 90.5 if world.revision == "3.2" else "90.5"
        what = {"reference": {"reference_type": reference}, "interval": interval, "callback_def": {}}
        await world.insert("deadline_alert", **alert, **what)
        callback = {"id": ti_id(f"callback {name}"), "type": "triggerer", "fetch_method": "import_path"}
        callback["data"] = {"__type": "dict", "__var": {}}
        await world.insert("callback", **callback, priority_weight=1, created_at=EPOCH)
        row = {"id": ti_id(f"deadline {name}"), "created_at": EPOCH, "last_updated_at": EPOCH, "dagrun_id": run_pk}
        ids = {"callback_id": callback["id"], "deadline_alert_id": alert["id"]}
        await world.insert("deadline", **row, **ids, deadline_time=EPOCH, missed=missed)


SETUPS |= {
    "to_clear, success": _to_clear("success"),
    "to_clear, failed": _to_clear("failed"),
    "to_clear, running": _to_clear("running"),
    "to_clear, queued": _to_clear("queued"),
    "to_clear, without a version": _to_clear("failed", versioned=False),
    "to_clear, running without a version": _to_clear("running", versioned=False),
    "to_clear, a newer version": _to_clear("failed", newest={}),
    "to_clear, on the newest version": _to_clear("failed", newest={"rerun_with_latest_version": True}),
    "to_clear, running, on the newest version": _to_clear("running", newest={"rerun_with_latest_version": True}),
    "to_clear, on the newest version without bundle versions": _to_clear(
        "success", newest={"rerun_with_latest_version": True, "disable_bundle_versioning": True}
    ),
}  # fmt: skip


@setup
async def to_clear_with_a_serialized_deadline(world: World) -> Any:
    ti = await SETUPS["to_clear, success"](world)
    interval = json.dumps({"__classname__": "datetime.timedelta", "__version__": 2, "__data__": 90.5})
    await world.connection.execute("UPDATE deadline_alert SET interval = $1", interval)
    return ti


@setup
async def many_variables(world: World) -> Any:
    for key in ("b", "a_1", "a%2", "ab", "z"):
        await world.insert("variable", key=key, val="v", is_encrypted=False)
    return await world.one_running("d")
