"""Set-ups of one task instance, in every state that it may be in when its case's request comes."""

from __future__ import annotations

from typing import Any

from tests.contract.cases.setups import SETUPS, Setup, changed, setup
from tests.world import EPOCH, World, ti_id


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


# Its run has not started, and has no conf; its run's conf is JSON's null, not SQL's.
SETUPS["queued_early"] = changed(queued, "UPDATE dag_run SET start_date = NULL, conf = NULL, state = 'queued'")
SETUPS["queued_with_a_null_conf"] = changed(queued, "UPDATE dag_run SET conf = 'null'")
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
async def with_reschedules(world: World) -> Any:
    ti = await world.one_running("d")
    for minute in (7, 3):
        when = EPOCH.replace(minute=minute)
        await world.insert("task_reschedule", ti_id=ti, start_date=when, end_date=when, duration=0, reschedule_date=when)
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
