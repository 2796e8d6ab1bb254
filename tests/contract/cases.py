"""The corpus of the differential test: adding a case is adding a row to :data:`CASES`.

A case is one request on a database that its setup made. It is asked of Airflow's own server and of ours; status, body and
every row of every table must come out equal.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

from tests.servers import FERNET_KEY
from tests.world import EPOCH, World, ti_id

ABSENT: Any = object()
BOTH = ("3.2", "3.3")
END = "2026-01-01T00:05:00Z"
START = "2026-01-01T00:04:00Z"
RUN = "manual__1"
JSON_HEADER = {"Content-Type": "application/json"}

# Differences that are kept on purpose: see docs/compatibility.md, which gives each one's reason.
BETTER_REFUSAL = "a 4xx instead of a 500"
REPLAY = "a replay is answered like the first request"
ERROR_SHAPE = "the same refusal, worded for the one model that the state chooses"
NOT_FAILED = "a report that cannot be recorded is refused instead of failing the task"
QUIET_SKIP = "what is skipped already is not skipped and logged again"
CLEARED_DEADLINES = "a run with deadlines is cleared instead of a 500"
OLD_TIMES = "times end in Z on every API date"
OLD_EVENTS = "an old API date is answered instead of a 500"
SAME_DATE = "a second run of one logical date is refused as one that exists"
UNDECLARED = "a body without Content-Type is read as JSON"
WORDS = "the same refusal in our words"
PING = "health names our parts"
STRICTER_TOKEN = "only a task itself may ask for its reschedules, on 3.2 too"
REFUSED_TOKEN_TEXT = "the reason why a token does not verify is not told"


@dataclass(frozen=True)
class Case:
    """One request.

    :param setup: the name of a function in :data:`SETUPS`.
    :param token: whose token it carries: ``own`` (the setup's task instance), ``other``, ``none``, or ``garbage``.
    :param differs: the name of the difference that is kept on purpose; then ``ours`` is the status that we answer.
    """

    name: str
    method: str
    path: str
    json: Any = ABSENT
    content: bytes | None = None
    setup: str = "running"
    token: str = "own"
    claims: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    revisions: tuple[str, ...] = BOTH
    differs: str | None = None
    ours: int | None = None


# --- setups ---------------------------------------------------------------------------------------------------------

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
SETUPS["never_started"] = _in_state("running", start_date=None)
SETUPS["with_tries"] = _in_state("running", max_tries=2, try_number=2)


@setup
async def nothing(world: World) -> Any:
    return "00000000-0000-4000-8000-000000000000"


async def _archived(world: World, ti: Any) -> None:
    row = await world.connection.fetchrow("SELECT * FROM task_instance WHERE id = $1", ti)
    kept = {name: value for name, value in row.items() if name not in ("id", "last_heartbeat_at", "trigger_timeout")}
    await world.insert("task_instance_history", task_instance_id=ti, **{**kept, "state": "failed"})


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


async def _sample(world: World, **changed: Any) -> Any:
    """Write the Dag ``sample`` as it is serialized (mapped tasks and groups, weights, pools, params), and a task that asks."""
    ti = await world.one_running("d")
    await world.connection.execute("UPDATE dag_run SET triggering_user_name = 'ann'")
    await world.dag("sample", bundle_version="v1")
    await world.insert("log_template", id=7, filename="f", elasticsearch_id="e", created_at=EPOCH)
    data = json.loads((Path(__file__).parent / "sample_dag.json").read_text())
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
            data = json.loads((Path(__file__).parent / "sample_dag.json").read_text())
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


# --- cases ----------------------------------------------------------------------------------------------------------

_START = {"state": "running", "hostname": "worker", "unixname": "airflow", "pid": 42, "start_date": START}
_TI = "/task-instances/{ti}"
_X = "/xcoms/d/manual__1"


def run(name: str, setup: str = "queued", body: Any = ABSENT, **options: Any) -> Case:
    return Case(f"run {name}", "PATCH", f"{_TI}/run", _START if body is ABSENT else body, setup=setup, **options)


def state(name: str, body: Any, setup: str = "running", **options: Any) -> Case:
    return Case(f"state {name}", "PATCH", f"{_TI}/state", body, setup=setup, **options)


def beat(name: str, body: Any = ABSENT, setup: str = "running", **options: Any) -> Case:
    body = {"hostname": "worker", "pid": 42} if body is ABSENT else body
    return Case(f"heartbeat {name}", "PUT", f"{_TI}/heartbeat", body, setup=setup, **options)


def get(name: str, path: str, setup: str = "running", **options: Any) -> Case:
    return Case(name, options.pop("method", "GET"), path, setup=setup, **options)


_ENDED = {"end_date": END}
_DEFER = {
    "state": "deferred",
    "classpath": "my.Trigger",
    "trigger_kwargs": {"moment": "é", "n": 1},
    "next_method": "resume",
    "next_kwargs": {"k": [1, None]},
}
_OUT = {"state": "success", **_ENDED}
_A1 = {"name": "first", "uri": "s3://bucket/first", "type": "Asset"}
_A2 = {"name": "second", "uri": "s3://bucket/second", "type": "Asset"}
_ALIAS = {"name": "alias", "type": "AssetAlias"}


def event(name: str, extra: Any, **more: Any) -> dict[str, Any]:
    return {"dest_asset_key": {"name": name, "uri": f"s3://bucket/{name}"}, "extra": extra, **more}


_AE = "/asset-events/by-asset"
_HITL = "/hitlDetails/{ti}"
_ASK = {
    "ti_id": "00000000-0000-4000-8000-000000000001",
    "options": ["yes", "no"],
    "subject": "Really?",
    "params": {"p": 1},
    "assigned_users": [{"id": "3", "name": "cid"}],
}
_RESPONSE = {"ti_id": _ASK["ti_id"], "chosen_options": ["no"], "params_input": {"p": 5}}
_PARK = {"state": "awaiting_input", "timeout": "PT1H", "next_method": "execute_complete", "next_kwargs": {"k": 1}}
_STORE = "/store/ti/{ti}"
_TEST = "/connection-tests/{ti}"
_WORKLOAD = {"scope": "workload"}
NEW = {"revisions": ("3.3",)}


def on(setup: str, method: str, path: str, body: Any = ABSENT, **options: Any) -> Case:
    """Return a case that is named by what it asks, of whom, and how."""
    named = [options.pop("note", "")]
    named += [str(options[name]) for name in ("token", "claims", "revisions") if name in options]
    shown = "" if body is ABSENT else str(body)[:200]
    name = " ".join(filter(None, (method, path, shown, "on", setup, *named)))
    return Case(name, method, path, body, setup=setup, **options)


_RUN_IT = "/dag-runs/sample/r1"
_WHEN = {"logical_date": "2026-02-03T04:05:06Z", "run_after": "2026-02-03T04:05:07Z"}
OLD_DATES = ("2026-04-06", "2025-11-05", "2025-10-27", "2025-09-23", "2025-08-10", "2025-05-20", "2025-04-28", "2025-04-11")
MAR, OCT = "2026-03-29T01:30:00Z", "2026-10-25T01:30:00Z"  # the clocks of Paris are put forward, and back

CASES: list[Case] = [
    # --- triggered runs
    on("sample", "POST", _RUN_IT, {}),
    on("sample", "POST", _RUN_IT, {**_WHEN, "conf": {"x": 4, "other": [1]}, "note": "noted"}, note="with a note"),
    on("sample", "POST", _RUN_IT, {**_WHEN, "logical_date": "2027-06-01T00:00:00Z"}, note="after every start"),
    *(
        on(f"sample, {name}", "POST", _RUN_IT, {"logical_date": when, "run_after": when}, note=when)
        for name in TIMETABLES
        for when in ("2026-02-03T04:05:06Z", MAR, OCT)
    ),
    on("sample", "POST", "/dag-runs/none/r1", {}),
    on("stale_sample", "POST", _RUN_IT, {}),
    on("sample_with_import_errors", "POST", _RUN_IT, {}),
    on("scheduled_only_sample", "POST", _RUN_IT, {}),
    on("sample_that_ran", "POST", _RUN_IT, {}),
    on("sample_that_ran", "POST", "/dag-runs/sample/r2", {"logical_date": "2026-01-01T00:00:00Z"}, differs=SAME_DATE, ours=409),
    on("sample", "POST", _RUN_IT, {"logical_date": "2024-01-01T00:00:00Z"}, note="too early", revisions=("3.3",)),
    on("sample", "POST", _RUN_IT, {"logical_date": "2024-01-01T00:00:00Z"}, note="too early", revisions=("3.2",), differs=BETTER_REFUSAL, ours=400),
    on("sample", "POST", _RUN_IT, {"conf": {"x": 2}}, differs=BETTER_REFUSAL, ours=400),
    on("sample", "POST", "/dag-runs/sample/a%20b", {}, revisions=("3.3",)),
    on("sample", "POST", "/dag-runs/sample/a..b", {}, revisions=("3.3",)),
    on("sample", "POST", "/dag-runs/sample/a%20b", {}, revisions=("3.2",), differs=BETTER_REFUSAL, ours=400),
    on("sample", "POST", _RUN_IT, {"partition_key": "k"}, revisions=("3.3",)),
    *(on(name, "POST", _RUN_IT, {"partition_key": key}, revisions=("3.3",)) for name, (_, keys) in KEYS.items() for key in keys),
    *(on("sample by partitions, weeks", "POST", _RUN_IT, {"partition_key": key}, revisions=("3.3",), differs=WORDS, ours=400) for key in ("2026-02-02", "2026-99-99")),
    on("sample by partitions, quarters", "POST", _RUN_IT, {"partition_key": "2026-Q5"}, revisions=("3.3",), differs=WORDS, ours=400),
    *(on(name, "POST", _RUN_IT, {"partition_key": "2026-02-03"}, revisions=("3.2",)) for name in ("sample", "sample by cron partitions", "sample by partitions, days")),
    *(on(f"sample, deadline {name}", "POST", _RUN_IT, _WHEN) for name in WITH_DEADLINES),
    *(on(f"sample, deadline {name}", "POST", _RUN_IT, _WHEN, revisions=("3.3",)) for name in WITH_DEADLINES_SINCE_3_3),
    on("sample, deadline after its logical date", "POST", _RUN_IT, {"partition_key": None}),
    on("sample", "POST", _RUN_IT, {"unknown": 1}),
    on("sample", "POST", _RUN_IT, {"conf": 1}),
    on("sample", "POST", _RUN_IT, {}, token="none"),
    # --- cleared runs
    *(on(name, "POST", f"{_RUN_IT}/clear", **NEW) for name in SETUPS if name.startswith("to_clear,")),
    on("to_clear_with_a_serialized_deadline", "POST", f"{_RUN_IT}/clear", **NEW, differs=CLEARED_DEADLINES, ours=204),
    on("to_clear, success", "POST", f"{_RUN_IT}/clear", revisions=("3.2",)),
    *(on(name, "POST", f"{_RUN_IT}/clear") for name in ("sample", "stale_sample", "sample_with_import_errors", "sample_that_ran")),
    on("sample", "POST", "/dag-runs/none/r1/clear"),
    on("to_clear, success", "POST", f"{_RUN_IT}/clear", token="none"),
    # --- assets and their events
    *(on("asset_events", "GET", f"/assets/by-{what}") for what in ("name?name=a", "name?name=none", "name", "uri")),
    *(on("asset_events", "GET", f"/assets/by-uri?uri=s3://bucket/{uri}") for uri in ("a", "old", "none")),
    *(on("asset_events", "GET", f"/assets/by-alias?alias_name={name}", **NEW) for name in ("alias", "none", "")),
    on("asset_events", "GET", "/assets/by-alias", **NEW),
    on("asset_events", "GET", "/assets/by-alias?alias_name=alias", revisions=("3.2",)),
    on("asset_events", "GET", "/assets/by-name?name=a", token="none"),
    *(
        on("asset_events", "GET", f"{_AE}?{query}")
        for query in (
            "name=a&uri=s3://bucket/a",
            "name=a&uri=s3://bucket/old",
            "name=a&uri=",
            "name=&uri=s3://bucket/b",
            "name=&uri=s3://bucket/old",
            "name=&uri=",
            "name=none&uri=",
            "name=a",
            "name=a&uri=&ascending=false",
            "name=a&uri=&ascending=perhaps",
            "name=a&uri=&limit=1",
            "name=a&uri=&limit=0",
            "name=a&uri=&limit=x",
            "name=a&uri=&after=2026-01-01T00:20:00Z",
            "name=a&uri=&before=2026-01-01T00:20:00Z",
            "name=a&uri=&after=2026-01-01T00:10:00Z&before=2026-01-01T00:10:00Z",
            "name=a&uri=&after=2026-01-01T00:00:00",
        )
    ),
    on("asset_events", "GET", f"{_AE}?name=a&uri=&limit=-1", differs=BETTER_REFUSAL, ours=422),
    *(
        on("asset_events", "GET", f"/asset-events/by-asset-alias?{query}")
        for query in ("name=alias", "name=none", "", "name=alias&limit=1", "name=alias&after=2026-02-01T00:00:00Z")
    ),
    # --- human in the loop
    *(on(s, "GET", _HITL) for s in ("running", "asked", "asked_barely", "answered", "nothing")),
    on("asked", "GET", _HITL, token="other"),
    *(on(s, "POST", _HITL, _ASK) for s in ("running", "asked", "asked_barely", "answered")),
    on("running", "POST", _HITL, {**_ASK, "body": "b", "defaults": ["no"], "multiple": True}),
    on("running", "POST", _HITL, {**_ASK, "options": []}),
    on("running", "POST", _HITL, {"options": ["a"]}),
    on("running", "POST", _HITL, {**_ASK, "unknown": 1}, note="with an unknown field"),
    on("nothing", "POST", _HITL, _ASK, differs=BETTER_REFUSAL, ours=404),
    *(on(s, "PATCH", _HITL, _RESPONSE) for s in ("running", "asked", "answered", "nothing")),
    on("asked", "PATCH", _HITL, {**_RESPONSE, "chosen_options": []}),
    *(state(f"awaiting input when {s}", _PARK, s, **NEW) for s in ("running", "asked", "answered")),
    state("awaiting input without a limit", {k: v for k, v in _PARK.items() if k != "timeout"}, **NEW),
    # --- state stores
    *(on("state_stores", "GET", f"{_STORE}/{key}", **NEW) for key in ("kept", "with/slash", "none")),
    on("nothing", "GET", f"{_STORE}/kept", **NEW),
    on("state_stores", "GET", f"{_STORE}/kept", token="other", **NEW),
    on("running", "GET", f"{_STORE}/k", revisions=("3.2",)),
    *(
        on("state_stores", "PUT", f"{_STORE}/{key}", {"value": value}, **NEW)
        for key, value in (("kept", {"b": [1.5, "é", None]}), ("new", 1), ("new/slash", "text"), ("new", False), ("new", None))
    ),
    on("state_stores", "PUT", f"{_STORE}/new", {"value": 1, "expires_at": "2026-02-01T00:00:00+01:00"}, **NEW),
    on("state_stores", "PUT", f"{_STORE}/new", {"value": 1, "expires_at": "2026-02-01T00:00:00"}, differs=BETTER_REFUSAL, ours=422, **NEW),
    on("state_stores", "PUT", f"{_STORE}/new", {"value": 1, "unknown": 1}, **NEW),
    on("state_stores", "PUT", f"{_STORE}/{'k' * 513}", {"value": 1}, differs=BETTER_REFUSAL, ours=422, **NEW),
    on("nothing", "PUT", f"{_STORE}/new", {"value": 1}, **NEW),
    *(on("state_stores", "DELETE", f"{_STORE}{key}", **NEW) for key in ("/kept", "/none", "")),
    *(on("nothing", "DELETE", f"{_STORE}{key}", **NEW) for key in ("/kept", "")),
    *(
        on("state_stores", method, f"/store/asset/by-{which}", *body, **NEW)
        for which in ("name/value?name=a&key=kept", "uri/value?uri=s3://bucket/a&key=kept", "name/value?name=gone&key=kept",
                      "uri/value?uri=s3://bucket/gone&key=k", "name/value?name=a&key=none", "name/value?name=a&key=")
        for method, *body in (("GET",), ("PUT", {"value": {"n": 1}}), ("DELETE",))
    ),
    on("state_stores", "PUT", "/store/asset/by-name/value?name=a&key=kept", {"value": None}, **NEW),
    on("state_stores", "PUT", "/store/asset/by-name/value?name=a&key=kept", {"value": 1}, token="other", **NEW),
    on("state_stores", "GET", "/store/asset/by-name/value?name=a&key=kept", token="other", **NEW),
    *(on("state_stores", "DELETE", f"/store/asset/by-{which}", **NEW) for which in ("name/clear?name=a", "uri/clear?uri=s3://bucket/a", "name/clear?name=gone", "name/clear")),
    # --- connection tests
    *(
        on(f"connection_test_{s}", "GET", f"{_TEST}/connection", claims=_WORKLOAD, **NEW)
        for s in ("pending", "queued", "running", "success", "failed")
    ),
    *(
        on(f"connection_test_{s}", "PATCH", _TEST, {"state": result, "result_message": "m"}, claims=_WORKLOAD, **NEW)
        for s in ("pending", "queued", "running", "success", "failed", "to_save", "to_replace")
        for result in ("success", "failed")
    ),
    on("connection_test_running", "PATCH", _TEST, {"state": "queued"}, claims=_WORKLOAD, **NEW),
    on("nothing", "GET", f"{_TEST}/connection", claims=_WORKLOAD, **NEW),
    on("nothing", "PATCH", _TEST, {"state": "failed"}, claims=_WORKLOAD, **NEW),
    on("connection_test_pending", "GET", f"{_TEST}/connection", **NEW, note="with an execution token"),
    on("connection_test_pending", "GET", f"{_TEST}/connection", token="other", claims=_WORKLOAD, **NEW),
    # --- variable keys
    *(
        on("many_variables", "GET", f"/variables/keys{query}", **NEW)
        for query in ("", "?prefix=a", "?prefix=a_", "?prefix=a%25", "?limit=2&offset=1", "?limit=0", "?limit=10001", "?offset=-1", "?offset=99")
    ),
    on("many_variables", "GET", "/variables/keys", revisions=("3.2",)),
    # --- run
    run("queued"),
    run("restarting", "restarting"),
    run("no state", "no_state"),
    *(run(f"from {s}", s) for s in ("success", "failed", "scheduled", "deferred", "up_for_reschedule", "skipped")),
    run("again by the same process", "running", differs=REPLAY, ours=200),
    run("already running elsewhere", "running", {**_START, "hostname": "elsewhere"}),
    run("already running as another process", "running", {**_START, "pid": 43}),
    run("unknown task instance", "nothing"),
    run("resuming from a deferral", "resuming"),
    run("with XComs of an earlier try", "with_left_xcoms"),
    run("triggered by assets", "triggered_by_assets"),
    run("without a hostname", "queued", {**_START, "hostname": ""}),
    run("unknown field", "queued", {**_START, "extra": 1}),
    run("missing pid", "queued", {k: v for k, v in _START.items() if k != "pid"}),
    run("pid is a text", "queued", {**_START, "pid": "x"}),
    run("pid as a numeric text", "queued", {**_START, "pid": "7"}),
    run("pid beyond int4", "queued", {**_START, "pid": 2**40}, differs=BETTER_REFUSAL, ours=422, revisions=("3.2",)),
    run("naive start date", "queued", {**_START, "start_date": "2026-01-01T00:00:00"}),
    run("start date with an offset", "queued", {**_START, "start_date": "2026-01-01T02:00:00+02:00"}),
    run("wrong state", "queued", {**_START, "state": "success"}),
    run("body is a list", "queued", []),
    run("body is null", "queued", None, differs=ERROR_SHAPE, ours=422),
    run("hostname too long", "queued", {**_START, "hostname": "h" * 1001}, differs=BETTER_REFUSAL, ours=422),
    run("NUL in the hostname", "queued", {**_START, "hostname": "a\0b"}, differs=BETTER_REFUSAL, ours=422),
    run("no token", token="none"),
    run("garbage token", token="garbage", differs=REFUSED_TOKEN_TEXT, ours=403),
    run("another task's token", token="other"),
    run("expired token", claims={"exp": 1}, differs=REFUSED_TOKEN_TEXT, ours=403),
    run("wrong audience", claims={"aud": "x"}, differs=REFUSED_TOKEN_TEXT, ours=403),
    run("no iat", claims={"iat": None}, differs=REFUSED_TOKEN_TEXT, ours=403),
    run("unknown scope", claims={"scope": "root"}, differs=REFUSED_TOKEN_TEXT, ours=403),
    run("sub is no UUID", claims={"sub": "x"}, differs=BETTER_REFUSAL, ours=403),
    run("workload token", claims={"scope": "workload"}),
    # --- heartbeat
    beat("running"),
    *(beat(f"in {s}", setup=s) for s in ("success", "failed", "scheduled", "queued", "deferred", "no_state")),
    beat("from another host", {"hostname": "x", "pid": 42}),
    beat("from another process", {"hostname": "worker", "pid": 1}),
    beat("unknown task instance", setup="nothing"),
    beat("archived try", setup="archived"),
    beat("unknown field", {"hostname": "worker", "pid": 42, "x": 1}),
    beat("missing field", {"pid": 42}),
    beat("pid is null", {"hostname": "worker", "pid": None}),
    beat("pid is a float", {"hostname": "worker", "pid": 1.5}),
    beat("pid beyond int4", {"hostname": "worker", "pid": 2**40}, differs=BETTER_REFUSAL, ours=422),
    beat("workload token", claims={"scope": "workload"}),
    beat("another task's token", token="other"),
    Case("heartbeat malformed JSON", "PUT", f"{_TI}/heartbeat", content=b'{"hostname": ', headers=JSON_HEADER),
    Case("heartbeat empty body", "PUT", f"{_TI}/heartbeat", content=b"", headers=JSON_HEADER),
    Case("heartbeat not UTF-8", "PUT", f"{_TI}/heartbeat", content=b"\xff\xfe", headers=JSON_HEADER),
    Case("heartbeat not declared JSON", "PUT", f"{_TI}/heartbeat", content=b'{"hostname": "worker", "pid": 42}', differs=UNDECLARED, ours=204),
    Case("heartbeat path is no UUID", "PUT", "/task-instances/x/heartbeat", {"hostname": "worker", "pid": 42}),
    Case("heartbeat by GET", "GET", f"{_TI}/heartbeat"),
    # --- state
    *(state(s, {"state": s, **_ENDED}) for s in ("success", "failed", "skipped", "removed", "upstream_failed")),
    state("success with a label", {"state": "success", **_ENDED, "rendered_map_index": "label"}, "mapped_one"),
    state("failed with a null label", {"state": "failed", **_ENDED, "rendered_map_index": None}),
    state("label too long", {"state": "failed", **_ENDED, "rendered_map_index": "l" * 251}, differs=BETTER_REFUSAL, ours=422),
    state("success that never started", {"state": "success", **_ENDED}, "never_started"),
    state("success of a resumed task", {"state": "success", **_ENDED}, "resuming", differs=None),
    state("success before its start", {"state": "success", "end_date": "2025-12-31T00:00:00Z"}),
    *(state(f"success from {s}", {"state": "success", **_ENDED}, s) for s in ("queued", "failed", "deferred", "no_state")),
    state("success again", {"state": "success", **_ENDED}, "success", revisions=("3.3",)),
    state("success again on 3.2", {"state": "success", **_ENDED}, "success", revisions=("3.2",), differs=REPLAY, ours=200),
    state("failed again", {"state": "failed", **_ENDED}, "failed", revisions=("3.3",)),
    state("skipped again on 3.2", {"state": "skipped", **_ENDED}, "skipped", revisions=("3.2",), differs=REPLAY, ours=200),
    state("unknown task instance", {"state": "success", **_ENDED}, "nothing"),
    state("archived try", {"state": "success", **_ENDED}, "archived"),
    state("retry", {"state": "up_for_retry", **_ENDED}, "with_tries"),
    state("retry of a mapped task", {"state": "up_for_retry", **_ENDED}, "mapped_one"),
    state("retry with history and more", {"state": "up_for_retry", **_ENDED, "rendered_map_index": "r"}, "retried_before"),
    state("retry that never started", {"state": "up_for_retry", **_ENDED}, "never_started"),
    state("retry of an archived try", {"state": "up_for_retry", **_ENDED}, "archived", differs=REPLAY, ours=200),
    state(
        "retry with a policy",
        {"state": "up_for_retry", **_ENDED, "retry_delay_seconds": 1.5, "retry_reason": "because " * 100},
        "with_tries", revisions=("3.3",),
    ),
    state(
        "retry with a policy on 3.2", {"state": "up_for_retry", **_ENDED, "retry_reason": "x"}, "with_tries",
        revisions=("3.2",), differs=ERROR_SHAPE, ours=422,
    ),
    state(
        "retry with a policy under the older date", {"state": "up_for_retry", **_ENDED, "retry_reason": "x"}, "with_tries",
        headers={"Airflow-API-Version": "2026-04-06"}, **NEW,
    ),
    state("awaiting input under the older date", _PARK, headers={"Airflow-API-Version": "2026-04-06"}, **NEW),
    state("deferred", _DEFER),
    state("deferred with a timeout", {**_DEFER, "trigger_timeout": "PT60S"}),
    state("deferred with a timeout in seconds", {**_DEFER, "trigger_timeout": 90.5}),
    state("deferred with a queue", {**_DEFER, "queue": "q"}),
    state("deferred with encrypted kwargs", {**_DEFER, "trigger_kwargs": "gAAAA-encrypted"}),
    state("deferred without kwargs", {"state": "deferred", "classpath": "T", "next_method": "m"}),
    state("deferred with a label", {**_DEFER, "rendered_map_index": "x"}),
    state("deferred with big numbers", {**_DEFER, "next_kwargs": {"big": 2**70, "small": 1e-7}}),
    state("deferred from success", _DEFER, "success"),
    state("deferred again", _DEFER, "deferred", revisions=("3.3",)),
    state("classpath too long", {**_DEFER, "classpath": "c" * 1001}, differs=BETTER_REFUSAL, ours=422),
    state("reschedule", {"state": "up_for_reschedule", **_ENDED, "reschedule_date": END}),
    state("reschedule never started", {"state": "up_for_reschedule", **_ENDED, "reschedule_date": END}, "never_started"),
    state("reschedule again", {"state": "up_for_reschedule", **_ENDED, "reschedule_date": END}, "up_for_reschedule", revisions=("3.3",)),
    state("awaiting input", {"state": "awaiting_input", "next_method": "m", "next_kwargs": {"a": 1}}, revisions=("3.3",)),
    state("awaiting input with a timeout", {"state": "awaiting_input", "next_method": "m", "timeout": "PT1H"}, revisions=("3.3",)),
    state(
        "awaiting input on 3.2", {"state": "awaiting_input", "next_method": "m"}, revisions=("3.2",),
        differs=ERROR_SHAPE, ours=422,
    ),
    *(
        state(f"report of {s}", {"state": s}, differs=NOT_FAILED, ours=422)
        for s in ("scheduled", "queued", "restarting")
    ),
    state("report of scheduled from queued", {"state": "scheduled"}, "queued"),
    state("unknown state", {"state": "bogus", **_ENDED}, differs=ERROR_SHAPE, ours=422),
    state("no state", _ENDED, differs=ERROR_SHAPE, ours=422),
    state("success without an end", {"state": "success"}, differs=ERROR_SHAPE, ours=422),
    state("success with an unknown field", {"state": "success", **_ENDED, "x": 1}, differs=ERROR_SHAPE, ours=422),
    state("end date is no date", {"state": "failed", "end_date": "soon"}, differs=ERROR_SHAPE, ours=422),
    state("another task's token", {"state": "success", **_ENDED}, token="other"),
    # --- state with assets
    state("success with an outlet", {**_OUT, "task_outlets": [_A1]}, "outlets"),
    state("success with two outlets", {**_OUT, "task_outlets": [_A2, _A1]}, "outlets"),
    state("success with an event", {**_OUT, "task_outlets": [_A1], "outlet_events": [event("first", {"rows": 3})]}, "outlets"),
    state("success with a name reference", {**_OUT, "task_outlets": [{"name": "second", "type": "AssetNameRef"}]}, "outlets"),
    state("success with a uri reference", {**_OUT, "task_outlets": [{"uri": "s3://bucket/first", "type": "AssetUriRef"}]}, "outlets"),
    state("success with an inactive outlet", {**_OUT, "task_outlets": [{"name": "inactive", "uri": "s3://bucket/inactive", "type": "Asset"}]}, "outlets"),
    state("success with an unknown outlet", {**_OUT, "task_outlets": [{"name": "x", "uri": "y", "type": "Asset"}]}, "outlets"),
    state(
        "success through an alias, of a known asset",
        {**_OUT, "task_outlets": [_ALIAS], "outlet_events": [event("first", {"a": 1}, source_alias_name="alias", dest_asset_extra={})]},
        "outlets",
    ),
    state(
        "success through an alias, of a new asset",
        {**_OUT, "task_outlets": [_ALIAS], "outlet_events": [event("new", {}, source_alias_name="alias", dest_asset_extra={"x": 1})]},
        "outlets",
    ),
    state(
        "success through a new alias",
        {**_OUT, "task_outlets": [{"name": "fresh", "type": "AssetAlias"}], "outlet_events": [event("first", {}, source_alias_name="fresh")]},
        "outlets",
    ),
    state(
        "success through an alias that is no outlet",
        {**_OUT, "task_outlets": [], "outlet_events": [event("first", {}, source_alias_name="alias")]}, "outlets",
    ),
    state("success with an outlet in a partition", {**_OUT, "task_outlets": [_A1]}, "partitioned_run"),
    state("success with two events of one asset", {**_OUT, "task_outlets": [_A1], "outlet_events": [event("first", {"a": 1}), event("first", {"a": 2})]}, "outlets"),
    state("success with a partition key", {**_OUT, "task_outlets": [_A1], "outlet_events": [event("first", {}, partition_key="p")]}, "outlets"),
    state("success with an empty partition key", {**_OUT, "task_outlets": [_A1], "outlet_events": [event("first", {}, partition_key=" ")]}, "outlets", revisions=("3.3",)),
    *(state(f"success in a partition, {name}", {**_OUT, "task_outlets": [_A1]}, f"partitions, {name}") for name in MAPPED),
    state("success in a partition, by the default mapper", {**_OUT, "task_outlets": [_A2]}, "partitions, days"),
    *(state(f"success in a partition, {name}", {**_OUT, "task_outlets": [_A1]}, f"partitions, {name}", revisions=("3.3",)) for name in MAPPED_SINCE_3_3),
    *(state(f"success in a partition, {name}", {**_OUT, "task_outlets": [_A1]}, name) for name in WAITING),
    state("success in a partition of its own", {**_OUT, "task_outlets": [_A1], "outlet_events": [event("first", {}, partition_key="p2"), event("first", {}, partition_key="p1")]}, "waiting already"),
    state("success heard by a partitioned Dag", {**_OUT, "task_outlets": [_A2]}, "partitioned_consumer"),
    state("event without extra", {**_OUT, "task_outlets": [_A1], "outlet_events": [{"dest_asset_key": {"name": "first", "uri": "u"}}]}, "outlets", differs=NOT_FAILED, ours=422),
    state("event without a key", {**_OUT, "task_outlets": [_A1], "outlet_events": [{"extra": {}}]}, "outlets", differs=NOT_FAILED, ours=422),
    state("outlets are no list", {**_OUT, "task_outlets": {}}, "outlets", differs=ERROR_SHAPE, ours=422),
    # --- fail fast
    state("failed in a fail-fast Dag", {"state": "failed", **_ENDED}, "fail_fast"),
    state("success in a fail-fast Dag", {"state": "success", **_ENDED}, "fail_fast"),
    # --- rendered fields and labels
    Case("rtif", "PUT", f"{_TI}/rtif", {"a": 1, "b": ["x", None], "c": {"d": 1.5}}),
    Case("rtif with secrets", "PUT", f"{_TI}/rtif", {"password": "p", "env": {"MY_TOKEN": "t", "n": [{"api_key": 1}]}, "x": "y"}),
    Case("rtif with deep secrets", "PUT", f"{_TI}/rtif", {"secret": {"a": ["b", {"c": "d"}], "n": 1}}),
    Case("rtif unknown task instance", "PUT", f"{_TI}/rtif", {"a": 1}, setup="nothing"),
    Case("rtif of an archived try", "PUT", f"{_TI}/rtif", {"a": 1}, setup="archived"),
    Case("rtif empty", "PUT", f"{_TI}/rtif", {}, differs=BETTER_REFUSAL, ours=422),
    Case("rtif is a list", "PUT", f"{_TI}/rtif", [1]),
    Case("rendered map index", "PATCH", f"{_TI}/rendered-map-index", "label"),
    Case("rendered map index empty", "PATCH", f"{_TI}/rendered-map-index", ""),
    Case("rendered map index is a number", "PATCH", f"{_TI}/rendered-map-index", 5),
    Case("rendered map index unknown", "PATCH", f"{_TI}/rendered-map-index", "x", setup="nothing"),
    Case("rendered map index too long", "PATCH", f"{_TI}/rendered-map-index", "x" * 251, differs=BETTER_REFUSAL, ours=422),
    # --- skip downstream
    Case("skip all", "PATCH", f"{_TI}/skip-downstream", {"tasks": [f"t{n}" for n in range(7)]}, setup="downstream"),
    Case("skip the skipped", "PATCH", f"{_TI}/skip-downstream", {"tasks": ["t7"]}, setup="downstream", differs=QUIET_SKIP, ours=204),
    Case("skip mapped", "PATCH", f"{_TI}/skip-downstream", {"tasks": [["m", 0], ["m", 2]]}, setup="downstream"),
    Case("skip a mapped task without index", "PATCH", f"{_TI}/skip-downstream", {"tasks": ["m"]}, setup="downstream"),
    Case("skip none", "PATCH", f"{_TI}/skip-downstream", {"tasks": []}, setup="downstream"),
    Case("skip unknown tasks", "PATCH", f"{_TI}/skip-downstream", {"tasks": ["nope"]}, setup="downstream"),
    Case("skip unknown task instance", "PATCH", f"{_TI}/skip-downstream", {"tasks": ["t0"]}, setup="nothing"),
    Case("skip bad pair", "PATCH", f"{_TI}/skip-downstream", {"tasks": [["m", "x"]]}, setup="downstream"),
    Case("skip unknown field", "PATCH", f"{_TI}/skip-downstream", {"tasks": [], "x": 1}, setup="downstream"),
    # --- task instance reads
    get("previous successful run", f"{_TI}/previous-successful-dagrun", "several_runs"),
    get("previous successful run of none", f"{_TI}/previous-successful-dagrun"),
    get("previous successful run unknown", f"{_TI}/previous-successful-dagrun", "nothing"),
    get("count", "/task-instances/count?dag_id=d", "several_runs"),
    get("count by task", "/task-instances/count?dag_id=d&task_ids=work&task_ids=other", "several_runs"),
    get("count by state", "/task-instances/count?dag_id=d&states=success&states=failed", "several_runs"),
    get("count by null state", "/task-instances/count?dag_id=d&states=null&states=queued", "several_runs"),
    get("count by null alone", "/task-instances/count?dag_id=d&states=null", "several_runs"),
    get("count by run", "/task-instances/count?dag_id=d&run_ids=run1", "several_runs"),
    get("count by date", "/task-instances/count?dag_id=d&logical_dates=2026-01-02T00:00:00Z", "several_runs"),
    get("count by map index", "/task-instances/count?dag_id=d&map_index=1", "several_runs"),
    get("count without a Dag", "/task-instances/count"),
    get("count with a bad date", "/task-instances/count?dag_id=d&logical_dates=x"),
    get("count in a group", "/task-instances/count?dag_id=d&task_group_id=g", "with_serialized"),
    get("count in a nested group by state", "/task-instances/count?dag_id=d&task_group_id=g.inner&states=failed", "with_serialized"),
    get("count in an unknown group", "/task-instances/count?dag_id=d&task_group_id=zz", "with_serialized"),
    get("count in a group of an unknown Dag", "/task-instances/count?dag_id=zz&task_group_id=g", "with_serialized"),
    get("states", "/task-instances/states?dag_id=d", "several_runs"),
    get("states by task and run", "/task-instances/states?dag_id=d&task_ids=mapped&run_ids=run2", "several_runs"),
    get("states by date", "/task-instances/states?dag_id=d&logical_dates=2026-01-03T00:00:00Z", "several_runs"),
    get("states in a group", "/task-instances/states?dag_id=d&task_group_id=g", "with_serialized"),
    get("states in a group and by task", "/task-instances/states?dag_id=d&task_group_id=g&task_ids=work", "with_serialized"),
    get("states of an unknown Dag", "/task-instances/states?dag_id=nope"),
    get("breadcrumbs", "/task-instances/breadcrumbs?dag_id=d&run_id=run0", "several_runs"),
    get("breadcrumbs without a run", "/task-instances/breadcrumbs?dag_id=d"),
    get("previous task instance", "/task-instances/previous/d/work", "several_runs"),
    get("previous task instance before", "/task-instances/previous/d/work?logical_date=2026-01-03T00:00:00Z", "several_runs"),
    get("previous task instance in a state", "/task-instances/previous/d/other?state=failed", "several_runs"),
    get("previous task instance mapped", "/task-instances/previous/d/mapped?map_index=1", "several_runs"),
    get("previous task instance unknown", "/task-instances/previous/d/nope", "several_runs"),
    get("previous task instance bad state", "/task-instances/previous/d/work?state=awaiting_input", "several_runs", revisions=("3.3",)),
    get("validate inlets and outlets", f"{_TI}/validate-inlets-and-outlets", "with_serialized"),
    get("validate without a serialized Dag", f"{_TI}/validate-inlets-and-outlets"),
    get("validate unknown", f"{_TI}/validate-inlets-and-outlets", "nothing"),
    get("first reschedule", "/task-reschedules/{ti}/start_date", "with_reschedules"),
    get("no reschedule", "/task-reschedules/{ti}/start_date"),
    get("reschedules of another", "/task-reschedules/{ti}/start_date", "with_reschedules", token="other", differs=STRICTER_TOKEN, ours=403, revisions=("3.2",)),
    get("reschedules of another on 3.3", "/task-reschedules/{ti}/start_date", "with_reschedules", token="other", revisions=("3.3",)),
    # --- XComs
    get("xcom", f"{_X}/job/return_value", "with_xcoms"),
    get("xcom with slashes", f"{_X}/job/a/key%20with%20spaces", "with_xcoms"),
    get("xcom null", f"{_X}/job/null", "with_xcoms"),
    get("xcom of a map index", f"{_X}/mapped/return_value?map_index=3", "with_xcoms"),
    get("xcom of no map index", f"{_X}/mapped/return_value", "with_xcoms"),
    get("xcom by offset", f"{_X}/mapped/return_value?offset=1", "with_xcoms"),
    get("xcom by negative offset", f"{_X}/mapped/return_value?offset=-2", "with_xcoms"),
    get("xcom beyond the offsets", f"{_X}/mapped/return_value?offset=99", "with_xcoms"),
    get("xcom of prior dates", f"{_X}/job/early_only?include_prior_dates=true", "with_xcoms"),
    get("xcom of prior dates, newest first", f"{_X}/job/return_value?include_prior_dates=true", "with_xcoms"),
    get("xcom without prior dates", f"{_X}/job/early_only", "with_xcoms"),
    get("xcom of an unknown run", "/xcoms/d/nope/job/return_value", "with_xcoms"),
    get("xcom with a bad map index", f"{_X}/job/return_value?map_index=x", "with_xcoms"),
    get("xcom without a token", f"{_X}/job/return_value", "with_xcoms", token="none"),
    get("xcom with another's token", f"{_X}/job/return_value", "with_xcoms", token="other"),
    get("xcom count", f"{_X}/mapped/return_value", "with_xcoms", method="HEAD"),
    get("xcom count of none", f"{_X}/mapped/nope", "with_xcoms", method="HEAD"),
    get("xcom count with a map index", f"{_X}/mapped/return_value?map_index=1", "with_xcoms", method="HEAD"),
    *(get(f"xcom item {n}", f"{_X}/mapped/return_value/item/{n}", "with_xcoms") for n in (0, 5, 6, -1, -6, -7)),
    get("xcom item of no number", f"{_X}/mapped/return_value/item/x", "with_xcoms"),
    *(
        get(f"xcom slice {q or 'all'}", f"{_X}/mapped/return_value/slice?{q}", "with_xcoms")
        for q in (
            "", "start=2", "stop=2", "start=1&stop=4", "start=-2", "stop=-2", "start=-4&stop=-1", "start=1&stop=-1",
            "start=-4&stop=5", "step=2", "step=-1", "start=1&step=2", "start=4&step=-1", "start=4&stop=1&step=-1",
            "start=-1&step=-2", "step=0", "start=0&stop=0", "start=9",
        )
    ),
    get("xcom slice of prior dates", f"{_X}/mapped/return_value/slice?include_prior_dates=true&start=0&stop=2", "with_xcoms"),
    get("xcom slice with a bad step", f"{_X}/mapped/return_value/slice?step=x", "with_xcoms"),
    *(
        Case(f"xcom set {name}", "POST", f"{_X}/job/k", value)
        for name, value in (
            ("number", 1), ("float", 1.5), ("text", "té\u2028xt"), ("null", None), ("list", [1, [2]]), ("object", {"a": {"b": 1}}),
            ("big number", 2**70), ("false", False), ("text that looks like JSON", '{"a": 1}'),
        )
    ),
    Case("xcom set again", "POST", f"{_X}/job/return_value", "new", setup="with_xcoms"),
    Case("xcom set with slashes", "POST", f"{_X}/job/a%2Fb/c%20d", 1),
    Case("xcom set on a map index", "POST", f"{_X}/job/k?map_index=2", 1, setup="mapped_one"),
    Case("xcom set as the result of the Dag", "POST", f"{_X}/job/k?dag_result=true", 1),
    Case("xcom set with a length", "POST", f"{_X}/job/k?mapped_length=3", [1, 2, 3]),
    Case("xcom set with a length of none", "POST", f"{_X}/job/k?mapped_length=0", []),
    Case("xcom set with too great a length", "POST", f"{_X}/job/k?mapped_length=1025", [1]),
    Case("xcom set with a negative length", "POST", f"{_X}/job/k?mapped_length=-1", [1], differs=BETTER_REFUSAL, ours=422),
    Case("xcom set without a body", "POST", f"{_X}/job/k"),
    Case("xcom set malformed JSON", "POST", f"{_X}/job/k", content=b"[1", headers=JSON_HEADER),
    Case("xcom set NaN", "POST", f"{_X}/job/k", content=b"[NaN]", headers=JSON_HEADER, differs=BETTER_REFUSAL, ours=422),
    Case("xcom set lone surrogate", "POST", f"{_X}/job/k", content=b'"\\ud800"', headers=JSON_HEADER, differs=BETTER_REFUSAL, ours=422),
    Case("xcom set NUL in the value", "POST", f"{_X}/job/k", "a\0b", differs=BETTER_REFUSAL, ours=422),
    Case("xcom set NUL in the key", "POST", f"{_X}/job/a%00b", 1, differs=BETTER_REFUSAL, ours=422),
    Case("xcom set key too long", "POST", f"{_X}/job/" + "k" * 513, 1, differs=BETTER_REFUSAL, ours=422),
    Case("xcom set in an unknown run", "POST", "/xcoms/d/nope/job/k", 1),
    Case("xcom set for an unknown task", "POST", f"{_X}/nope/k", 1, differs=BETTER_REFUSAL, ours=404),
    Case("xcom set after success", "POST", f"{_X}/job/k", 1, setup="success"),
    Case("xcom set without a key", "POST", f"{_X}/job/", 1, differs=ERROR_SHAPE, ours=422),
    get("xcom delete", f"{_X}/job/return_value", "with_xcoms", method="DELETE"),
    get("xcom delete on a map index", f"{_X}/mapped/return_value?map_index=1", "with_xcoms", method="DELETE"),
    get("xcom delete none", f"{_X}/job/nope", "with_xcoms", method="DELETE"),
    # --- variables
    get("variable in clear", "/variables/clear", "variables"),
    get("variable encrypted", "/variables/secret", "variables"),
    get("variable with a slash", "/variables/with/slash", "variables"),
    get("variable empty", "/variables/empty", "variables"),
    get("variable not decryptable", "/variables/rotten", "variables"),
    get("variable unknown", "/variables/nope", "variables"),
    get("variable without a token", "/variables/clear", "variables", token="none"),
    Case("variable set", "PUT", "/variables/new", {"val": "v", "description": "d"}, setup="variables"),
    Case("variable set again", "PUT", "/variables/with/slash", {"val": "v2"}, setup="variables"),
    Case("variable set null", "PUT", "/variables/n", {"val": None}, setup="variables"),
    Case("variable set by field name", "PUT", "/variables/n", {"value": "x"}, setup="variables"),
    Case("variable set a number", "PUT", "/variables/n", {"val": 5}, setup="variables"),
    Case("variable set without a value", "PUT", "/variables/n", {}, setup="variables"),
    Case("variable set unknown field", "PUT", "/variables/n", {"val": "x", "y": 1}, setup="variables"),
    Case("variable set key too long", "PUT", "/variables/" + "k" * 251, {"val": "v"}, differs=BETTER_REFUSAL, ours=422),
    Case("variable set NUL in the description", "PUT", "/variables/k", {"val": "v", "description": "a\0"}, differs=BETTER_REFUSAL, ours=422),
    get("variable delete", "/variables/clear", "variables", method="DELETE"),
    get("variable delete unknown", "/variables/nope", "variables", method="DELETE"),
    get("variable without a key", "/variables/", "variables", differs=ERROR_SHAPE, ours=422),
    # --- connections
    get("connection", "/connections/full", "connections"),
    get("connection bare", "/connections/bare", "connections"),
    get("connection not decryptable", "/connections/rotten", "connections", differs=BETTER_REFUSAL, ours=404),
    get("connection unknown", "/connections/nope", "connections"),
    get("connection without a token", "/connections/full", "connections", token="none"),
    # --- Dags and runs
    get("dag", "/dags/d", "several_runs"),
    get("dag unknown", "/dags/nope"),
    get("dag run", "/dag-runs/d/run2", "several_runs"),
    get("dag run unknown", "/dag-runs/d/nope"),
    get("dag run under the older date", "/dag-runs/d/run2", "several_runs", headers={"Airflow-API-Version": "2026-04-06"}),
    get("dag run state", "/dag-runs/d/run1/state", "several_runs"),
    get("dag run state unknown", "/dag-runs/d/nope/state"),
    get("dag run count", "/dag-runs/count?dag_id=d", "several_runs"),
    get("dag run count by all", "/dag-runs/count?dag_id=d&states=success&run_ids=run0&run_ids=run1&logical_dates=2026-01-01T00:00:00Z", "several_runs"),
    get("previous run", "/dag-runs/previous?dag_id=d&logical_date=2026-01-04T00:00:00Z", "several_runs"),
    get("previous run in a state", "/dag-runs/previous?dag_id=d&logical_date=2026-01-04T00:00:00Z&state=failed", "several_runs"),
    get("previous run of none", "/dag-runs/previous?dag_id=d&logical_date=2020-01-01T00:00:00Z", "several_runs"),
    get("previous run without a date", "/dag-runs/previous?dag_id=d", "several_runs"),
    get("previous run bad state", "/dag-runs/previous?dag_id=d&logical_date=2026-01-04T00:00:00Z&state=x", "several_runs"),
    # --- the service itself
    get("health", "/health", token="none"),
    get("ping", "/health/ping", token="none", differs=PING, ours=200),
    get("unknown path", "/nope"),
    get("no method", "/health", method="POST"),
    get("version of no date", "/health", headers={"Airflow-API-Version": "x"}),
    get("version too old", "/health", headers={"Airflow-API-Version": "2025-01-01"}),
    get("version empty", "/health", headers={"Airflow-API-Version": ""}),
    get("version between two", "/health", headers={"Airflow-API-Version": "2026-05-05"}),
    get("version of the future", "/health", headers={"Airflow-API-Version": "2099-01-01"}),
    # --- API dates
    *(on("sample", "POST", _RUN_IT, {"note": "noted"}, headers={"Airflow-API-Version": d}, note=d, **NEW) for d in OLD_DATES),
    *(
        on("asset_events", "GET", f"{_AE}?name=a&uri=", headers={"Airflow-API-Version": date}, note=date,
           **({} if date == "2026-04-06" else {"differs": OLD_EVENTS, "ours": 200}))
        for date in OLD_DATES
    ),
    *(
        on("several_runs", "GET", "/dag-runs/d/previous?logical_date=2026-01-04T00:00:00Z", note=date,
           headers={"Airflow-API-Version": date},
           **({"differs": OLD_TIMES, "ours": 200} if "2025-06" < date < "2026" else {}))
        for date in OLD_DATES
    ),
    *(
        on(s, method, path, *body, headers={"Airflow-API-Version": date}, note=date)
        for date in OLD_DATES
        for s, method, path, *body in (
            ("queued", "PATCH", f"{_TI}/run", _START),
            ("queued_early", "PATCH", f"{_TI}/run", _START),
            ("resuming", "PATCH", f"{_TI}/run", _START),
            ("resuming_with_types", "PATCH", f"{_TI}/run", _START),
            ("resuming_with_a_class", "PATCH", f"{_TI}/run", _START),
            ("resuming_from_before", "PATCH", f"{_TI}/run", _START),
            ("triggered_by_assets", "PATCH", f"{_TI}/run", _START),
            ("several_runs", "GET", "/dag-runs/d/run1"),
            ("several_runs", "GET", "/dag-runs/d/run1/state"),
            ("several_runs", "GET", "/dags/d"),
            ("with_xcoms", "GET", f"{_X}/job/early_only?include_prior_dates=true"),
            ("running", "PATCH", f"{_TI}/state", {**_OUT, "rendered_map_index": "label"}),
            ("running", "PATCH", f"{_TI}/state", _DEFER),
            ("many_variables", "GET", "/variables/keys"),
            ("sample", "POST", _RUN_IT, {"note": "noted"}),
            ("sample", "POST", _RUN_IT, {"run_after": "2026-02-03T04:05:06Z"}),
        )
    ),
    get("correlation id", "/health", headers={"correlation-id": "abc"}),
]  # fmt: skip
