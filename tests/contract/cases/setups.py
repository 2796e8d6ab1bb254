"""What a database holds before a case's request: a function a setup, named by the cases that use it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from cryptography.fernet import Fernet

from tests.contract.cases.case import RUN
from tests.servers import FERNET_KEY
from tests.world import EPOCH, World, ti_id

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
_ASSET = {"name": "a", "uri": "s3://bucket/a", "group": "asset", "extra": {"n": [1]}}
_IN_SDK = "airflow.sdk.definitions.asset"
SETUPS["resuming_with_more_types"] = _in_state(
    "queued",
    next_method="resume",
    next_kwargs={
        "day": _instance("pendulum.date.Date", "2026-01-02"),
        "zone": _instance("pendulum.tz.timezone.Timezone", "Europe/Paris"),
        "several": _instance("builtins.set", [3, 1, 2]),
        "fixed": _instance("builtins.frozenset", ["a"]),
        "from before": {"__type": "timedelta", "__var": 90.5},
        "asset": _instance(f"{_IN_SDK}.Asset", {**_ASSET, "watchers": []}, 0),
        "by name": [_instance(f"{_IN_SDK}.AssetAlias", {"name": "n", "group": "asset"}, 0)],
    },
)
for _name, _held in {
    "class below": [{"k": _instance("my.Thing", {"a": 1})}],
    "pod": {"__type": "k8s.V1Pod", "__var": {}},
    "frozen set of aliases": _instance(
        "builtins.frozenset", [_instance(f"{_IN_SDK}.AssetAlias", {"name": "n", "group": "g"})]
    ),
    "watched asset": _instance(f"{_IN_SDK}.Asset", {**_ASSET, "watchers": [{"name": "w"}]}),
    "limited asset": _instance(
        f"{_IN_SDK}.Asset",
        _ASSET
        | {
            "access_control": _instance(
                f"{_IN_SDK}.access_control.AssetAccessControl",
                {"producer_teams": ["t"], "consumer_teams": None, "allow_global": False},
            )
        },
    ),
}.items():
    SETUPS[f"resuming_with_a_{_name}"] = _in_state("queued", next_method="resume", next_kwargs={"k": _held})
SETUPS["resuming_from_before, malformed"] = _in_state(
    "queued", next_method="resume", next_kwargs={"__type": "dict", "__var": {"a": {"b": 1}}}
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


@setup
async def queued_with_a_null_conf(world: World) -> Any:
    """Its run's conf is JSON's null, not SQL's."""
    ti = await world.one("d")
    await world.connection.execute("UPDATE dag_run SET conf = 'null'")
    return ti


SETUPS["mapped_one"] = _in_state("running", map_index=2)
SETUPS["labelled"] = _in_state("running", map_index=2, rendered_map_index="old", max_tries=3)
SETUPS["labelled_alone"] = _in_state("running", rendered_map_index="old", max_tries=3)
SETUPS["never_started"] = _in_state("running", start_date=None)
SETUPS["with_tries"] = _in_state("running", max_tries=2, try_number=2)


@setup
async def nothing(world: World) -> Any:
    return "00000000-0000-4000-8000-000000000000"


async def archive(world: World, ti: Any) -> None:
    """Let the history have a try already, where there is one."""
    if world.keeps_tries:
        return
    row = await world.connection.fetchrow("SELECT * FROM task_instance WHERE id = $1", ti)
    kept = {name: value for name, value in row.items() if name not in ("id", "last_heartbeat_at", "trigger_timeout")}
    await world.insert("task_instance_history", task_instance_id=ti, **{**kept, "state": "failed"})


def _tried_already(setup: str) -> Setup:
    """Let the history have the running try already: whoever cleared it put it there."""

    async def make(world: World) -> Any:
        ti = await SETUPS[setup](world)
        await archive(world, ti)
        return ti

    return make


SETUPS["tried_already"] = _tried_already("with_tries")
SETUPS["labelled_and_tried_already"] = _tried_already("labelled")


@setup
async def archived(world: World) -> Any:
    ti = await world.one_running("d")
    following = {"id": ti_id("next try"), "try_number": 2}
    if world.keeps_tries:
        ended = "state = 'failed', working_set = NULL, archived_reason = 'retry'"
        await world.connection.execute(f"UPDATE task_instance SET {ended} WHERE id = $1", ti)
        await world.running("d", **following)
        return ti
    await archive(world, ti)
    await world.connection.execute(
        "UPDATE task_instance SET id = $2, try_number = $3 WHERE id = $1", ti, *following.values()
    )
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
async def with_namesakes(world: World) -> Any:
    """Runs of two more Dags have the asking run's id, as scheduled ones of one moment do."""
    ti = await with_xcoms(world)
    for dag_id in ("one more", "and another"):
        await world.dag(dag_id)
        await world.run(dag_id, RUN, logical_date=EPOCH.replace(day=2), run_after=EPOCH.replace(day=2))
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


async def ask(world: World, ti: Any, **values: Any) -> None:
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
    await ask(world, ti)
    return ti


@setup
async def asked_barely(world: World) -> Any:
    ti = await world.one_running("d")
    await ask(world, ti, body=None, defaults=None, assignees=[], params={})
    return ti


@setup
async def answered(world: World) -> Any:
    ti = await world.one_running("d")
    await ask(
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
    """A test of a connection that is stored already, with a password and an extra, and may be replaced."""

    async def make(world: World) -> Any:
        hidden = Fernet(FERNET_KEY)
        stored = {"password": hidden.encrypt(b"kept").decode(), "extra": hidden.encrypt(b'{"k": 1}').decode()}
        named = {"conn_id": values.get("connection_id", "tested"), "conn_type": "ftp", "description": "d"}
        await world.insert("connection", **named, **stored, is_encrypted=True, is_extra_encrypted=True)
        allowed = {"commit_allows_update": True} if world.keeps_tries else {}
        return await _connection_test("running", commit_on_success=True, **allowed, **values)(world)

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


@setup
async def many_variables(world: World) -> Any:
    for key in ("b", "a_1", "a%2", "ab", "z"):
        await world.insert("variable", key=key, val="v", is_encrypted=False)
    return await world.one_running("d")


@setup
async def queued_with_reschedules(world: World) -> Any:
    """Two waits, of which the second was written first."""
    ti = await world.one("d")
    for minute in (5, 3):
        since = EPOCH.replace(minute=minute)
        times = {"start_date": since, "end_date": since, "reschedule_date": since}
        await world.insert("task_reschedule", ti_id=ti, duration=0, **times)
    return ti


@setup
async def noted(world: World) -> Any:
    """A run with a note that somebody wrote."""
    ti = await world.one_running("d")
    run_pk = await world.connection.fetchval("SELECT id FROM dag_run")
    written = {"user_id": "somebody", "content": "before", "created_at": EPOCH, "updated_at": EPOCH}
    await world.insert("dag_run_note", dag_run_id=run_pk, **written)
    return ti


def _callback(state: str) -> Setup:
    async def make(world: World) -> Any:
        callback = ti_id("callback")
        kind = {
            "type": "executor",
            "fetch_method": "import_path",
            "data": {"__var": {}, "__type": "dict"},
            "priority_weight": 1,
        }
        await world.insert("callback", id=callback, state=state, created_at=EPOCH, **kind)
        await world.insert("variable", key="v", val="v", is_encrypted=False)
        return callback

    return make


SETUPS |= {f"callback_{state}": _callback(state) for state in ("scheduled", "queued", "running", "success")}


@setup
async def with_a_slashed_connection(world: World) -> Any:
    plain = {"conn_type": "http", "is_encrypted": False, "is_extra_encrypted": False}
    await world.insert("connection", conn_id="a/b", **plain)
    return await world.one_running("d")


@setup
async def asset_events_that_say(world: World) -> Any:
    ti = await asset_events(world)
    said = """UPDATE asset_event SET extra = '{"x": "y", "z": "w", "n": 2}', partition_key = 'key' WHERE id >= 3"""
    await world.connection.execute(said)
    return ti
