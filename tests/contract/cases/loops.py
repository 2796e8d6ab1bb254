"""Loops, and what belongs to tries."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

from tests.contract.cases.case import ABSENT, ENTER, UNASKED, WORDS, Case, X
from tests.contract.cases.dag_setups import triggerable, version_id, write_version
from tests.contract.cases.setups import SETUPS, setup
from tests.world import EPOCH, World, ti_id

SINCE = ("3.4",)
RUN = "manual__1"
PASSES = (0, 1)
IN_LOOP = {"numbers": "again.numbers", "double": "again.double", "enough": "again.enough"}


def region_id(name: str) -> Any:
    return ti_id(f"region {name}")


async def region(world: World, node_id: str, within: tuple[Any, int] | None = None, **values: Any) -> Any:
    """Write a region of the run, as Airflow names and places it."""
    pk = region_id(f"{node_id} in {within}")
    path = b"" if within is None else within[0].bytes + within[1].to_bytes(4)
    parent = within or (None, None)
    place = {
        "dag_id": "d",
        "run_id": RUN,
        "node_id": node_id,
        "parent_region_id": parent[0],
        "parent_region_index": parent[1],
    }
    row = {"id": pk, **place, "family_root_id": pk, "path": path, "created_at": EPOCH, **values}
    await world.insert("dynamic_region", **row)
    return row["id"]


async def place(world: World, task_id: str, region: Any, index: int, **values: Any) -> Any:
    """Write a task instance at an index of a region, with what it returned."""
    pk = ti_id(f"{task_id} at {index} of {region}")
    of_version = {"dag_version_id": version_id("d", 1)}
    row = {"id": pk, "region_id": region, "map_index": index, "state": "success", **of_version, **values}
    await world.running("d", task_id, RUN, **row)
    await returned(world, pk, [task_id, index])
    return pk


async def returned(world: World, pk: Any, value: Any, key: str = "return_value") -> None:
    at = {"id": ti_id(f"{pk}/{key}"), "task_instance_id": pk, "key": key, "timestamp": EPOCH}
    await world.insert("xcom_v2", **at, value=json.dumps(value))


async def looping(
    world: World, name: str = "served, with a loop", passes: tuple[int, ...] = PASSES
) -> dict[tuple[str, int], Any]:
    """Write a run with a loop in its passes; return its task instances by task and pass."""
    await world.dag("d")
    await write_version(world, name)
    await world.run("d", created_dag_version_id=version_id("d", 1))
    found = {}
    for task_id in ("job", "after"):
        found[task_id, -1] = await world.running("d", task_id, dag_version_id=version_id("d", 1))
    own = await region(world, "mapped")
    for index in (0, 1):
        found["mapped", index] = await place(world, "mapped", own, index)
    loop = await region(world, "again")
    for number in passes:
        for task_id in ("again.numbers", "again.enough" if "until" not in name else ""):
            running = {"state": "running", "operator": "LoopGateOperator"} if task_id == "again.enough" else {}
            found[task_id, number] = await place(world, task_id, loop, number, **running)
        for task_id in ("again.double", "again.literal"):
            inside = await region(world, task_id, (loop, number))
            for index in (0, 1):
                found[f"{task_id}[{index}]", number] = await place(world, task_id, inside, index)
    return found


def asked_by(task: str, number: int, state: str = "running") -> str:
    """Return the name of the set-up in which a task instance of the loop's run asks."""
    name = f"{task} of pass {number} asks, {state}"
    if name not in SETUPS:

        async def asks(world: World) -> Any:
            pk = (await looping(world))[task, number]
            await world.connection.execute("UPDATE task_instance SET state = $2 WHERE id = $1", pk, state)
            return pk

        SETUPS[name] = asks
    return name


def skips(task: str, number: int) -> str:
    """Return the name of the set-up in which a task instance of the loop's run skips others, which all wait."""
    name = f"{task} of pass {number} skips"

    async def waiting(world: World) -> Any:
        pk = (await looping(world))[task, number]
        await world.connection.execute(
            "UPDATE task_instance SET state = CASE WHEN id = $1 THEN 'running' END, end_date = NULL, duration = NULL", pk
        )
        return pk

    SETUPS[name] = waiting
    return name


ASKING = [("again.numbers", 1), ("again.enough", 0), ("again.double[0]", 1), ("after", -1), ("mapped", 0)]
READS = [
    *(("GET", f"?{query}") for query in (
        "", "map_index=0", "map_index=1", "offset=0", "offset=-1", "offset=3", "previous_iteration=true", "previous_iteration=true&map_index=1",
        "previous_iteration=true&offset=0", "include_prior_dates=true", "include_prior_dates=true&previous_iteration=true",
    )),
    *(("GET", f"/item/{offset}{query}") for offset in (0, -1) for query in ("", "?previous_iteration=true")),
    *(("GET", f"/slice{query}") for query in ("", "?start=1", "?step=-1", "?previous_iteration=true", "?include_prior_dates=true")),
    ("HEAD", ""), ("HEAD", "?previous_iteration=true"),
]  # fmt: skip


def of_loop(
    name: str, method: str, path: str, asking: tuple[str, int], body: Any = ABSENT, state: str = "running", **options: Any
) -> Case:
    task, number = asking
    return Case(
        f"{name}, asked by {task} of pass {number}",
        method,
        path,
        body,
        setup=asked_by(task, number, state),
        revisions=SINCE,
        **options,
    )


@setup
async def ended_and_tried_again(world: World) -> Any:
    """The try that asks has ended, and left what the next one overwrote in part."""
    await world.dag("d")
    await world.run("d")
    ti = await world.running("d", working_set=None, archived_reason="retry", state="failed")
    again = await world.running("d", id=ti_id("again"), try_number=2)
    for pk, key in ((ti, "first"), (ti, "both"), (again, "both"), (again, "second")):
        await returned(world, pk, key, key)
    return ti


@setup
async def with_migrated(world: World) -> Any:
    """What was pushed before tries had it, in part pushed again."""
    ti = await world.one_running("d")
    for index in (0, 1):
        await world.running("d", "mapped", map_index=index)
    for task_id, index, pk in (
        ("job", -1, ti),
        ("mapped", 0, ti_id("d/manual__1/mapped/0")),
        ("mapped", 1, ti_id("d/manual__1/mapped/1")),
    ):
        owned = {"dag_id": "d", "task_id": task_id, "run_id": RUN, "map_index": index}
        await world.insert("legacy_task_data_owner", **owned, task_instance_id=pk)
        for key in ("old", "both"):
            await world.insert(
                "xcom_v1", dag_run_id=1, **owned, key=key, value=json.dumps([task_id, index]), timestamp=EPOCH
            )
        await returned(world, pk, ["new", task_id, index], "both")
    return ti


@setup
async def triggers_a_loop(world: World) -> Any:
    return await triggerable(world, "with a loop")


@setup
async def skips_without_a_version(world: World) -> Any:
    """Its run's version of the Dag was cleaned up."""
    pk = await SETUPS[skips("again.numbers", 1)](world)
    await world.connection.execute("UPDATE task_instance SET dag_version_id = NULL")
    await world.connection.execute("UPDATE dag_run SET created_dag_version_id = NULL")
    return pk


@setup
async def stopped_in_a_pass_that_is_over(world: World) -> Any:
    """Its loop has gone back to the first pass, since the gate of that was cleared."""
    pk = (await looping(world))["again.numbers", 1]
    await world.connection.execute("UPDATE task_instance SET state = 'restarting' WHERE id = $1", pk)
    root = region_id("again in None")
    fork = {"family_root_id": root, "forked_from_region_id": root, "resumes_from_index": 1}
    await region(world, "again", id=region_id("fork"), **fork)
    return pk


@setup
async def gone_back(world: World) -> Any:
    """The gate of the first pass runs again after its loop has gone back."""
    found = await looping(world, passes=(0,))
    root = region_id("again in None")
    fork = {"family_root_id": root, "forked_from_region_id": root, "resumes_from_index": 1}
    await region(world, "again", id=region_id("fork"), **fork)
    return found["again.enough", 0]


OF_TRIES = [
    *((method, f"{X}/job/{key}{query}") for key, query in product(("first", "both", "second"), ("", "/item/0", "/slice", "?offset=0", "?include_prior_dates=true")) for method in ("GET",)),
    *(("HEAD", f"{X}/job/{key}") for key in ("first", "both")),
    *((method, f"{X}/job/{key}") for method, key in product(("POST", "DELETE"), ("first", "both", "new"))),
]  # fmt: skip
MIGRATED = [
    *(("GET", f"{X}/{task}/{key}{query}") for task, key, query in product(("job", "mapped"), ("old", "both"), ("", "/item/1", "/slice", "?map_index=1"))),
    *(("HEAD", f"{X}/mapped/{key}") for key in ("old", "both")),
    *((method, f"{X}/{at}") for method, at in product(("POST", "DELETE"), ("job/old", "job/both", "mapped/old?map_index=1"))),
]  # fmt: skip
STOP, GO_ON = {"loop_decision": {"stop": True}}, {"loop_decision": {"stop": False}}
ENDED = {"end_date": "2026-01-01T00:05:00Z"}


CASES: list[Case] = [
    *(
        of_loop(f"{method} {task}{query}", method, f"{X}/{IN_LOOP[task]}/return_value{query}", asking)
        for asking, task, (method, query) in product(ASKING, ("numbers", "double"), READS)
    ),
    *(
        of_loop(f"{method} {at}", method, f"{X}/{at}", asking, "new" if method == "POST" else ABSENT)
        for asking in ASKING
        for method in ("POST", "DELETE")
        for at in ("again.numbers/return_value", "again.double/k?map_index=1", "again.double/return_value", "job/k", "mapped/return_value?map_index=1", "mapped/k", "again.numbers/k?map_index=0")
    ),
    of_loop("GET of another run's loop", "GET", "/xcoms/d/nope/again.numbers/return_value?previous_iteration=true", ("after", -1), differs=WORDS, ours=400),
    *(Case(f"{method} {path}, of tries {' '.join(headers.values())}".rstrip(), method, path, "new" if method == "POST" else ABSENT, setup="ended_and_tried_again", headers=headers, revisions=SINCE)
      for headers in ({}, {"Airflow-API-Version": "2026-06-30"}) for method, path in OF_TRIES),
    *(Case(f"{method} {path}, migrated", method, path, "new" if method == "POST" else ABSENT, setup="with_migrated", revisions=SINCE) for method, path in MIGRATED),
    Case("xcom set under a reserved key", "POST", f"{X}/job/_airflow_loop_k", 1, revisions=SINCE),
    Case("xcom deleted under a reserved key", "DELETE", f"{X}/job/_airflow_loop_k", revisions=SINCE),
    Case("xcom of a loop's gate set", "POST", f"{X}/job/return_value?mapped_length=2", [1, 2], revisions=SINCE),
    Case("xcom with a length under another key set", "POST", f"{X}/job/k?mapped_length=2", [1, 2], revisions=SINCE),
    Case("xcom of a task instance that is not there set", "POST", f"{X}/nope/k", 1, revisions=SINCE),
    Case("xcom of a map index that is not there set", "POST", f"{X}/job/k?map_index=4", 1, revisions=SINCE),
    *(of_loop(f"state success {decision}", "PATCH", "/task-instances/{ti}/state", ("again.enough", number), {"state": "success", **ENDED, **decision})
      for number in PASSES for decision in ({}, STOP, GO_ON, {"loop_decision": {"stop": False, "reason": "not yet"}}, {"loop_decision": {"stop": True, "reason": "done"}})),
    *(of_loop(f"state {body['state']} {body.get('loop_decision')}", "PATCH", "/task-instances/{ti}/state", ("again.enough", 1), {**ENDED, **body})
      for body in ({"state": "failed", "retry_reason": None}, {"state": "failed", "loop_decision": {"stop": False, "reason": "never"}}, {"state": "skipped"}, {"state": "up_for_retry"})),
    *(of_loop(f"state success with an outlet {decision}", "PATCH", "/task-instances/{ti}/state", ("again.enough", 1), {"state": "success", **ENDED, "task_outlets": [{"name": "a", "uri": "s3://bucket/a", "type": "Asset"}], **decision})
      for decision in ({}, GO_ON)),
    Case("POST of a run with a loop", "POST", "/dag-runs/sample/r1", {}, setup="triggers_a_loop", revisions=SINCE),
    *(of_loop("run is cleared", "POST", "/dag-runs/d/manual__1/clear", asking) for asking in ASKING),
    Case("the end of a process in a pass that is over", "PATCH", "/task-instances/{ti}/state", {"state": "server_terminated", **ENDED, "hostname": "worker", "pid": 42},
         setup="stopped_in_a_pass_that_is_over", revisions=SINCE),
    Case("a gate goes on after its loop went back", "PATCH", "/task-instances/{ti}/state", {"state": "success", **ENDED, **GO_ON}, setup="gone_back", revisions=SINCE),
    Case("a run with a loop is cleared again", "POST", "/dag-runs/d/manual__1/clear", setup="gone_back", revisions=SINCE),
    *(of_loop(f"run {version}", "PATCH", "/task-instances/{ti}/run", asking, ENTER, "queued", headers={"Airflow-API-Version": version})
      for asking in (*ASKING, ("again.numbers", 0)) for version in ("2026-10-30", "2026-06-30")),
    *(Case(f"{task} of pass {number} skips {skipped}", "PATCH", "/task-instances/{ti}/skip-downstream", {"tasks": skipped}, setup=skips(task, number), revisions=SINCE)
      for task, number in ASKING
      for skipped in (["again.double", "after"], ["again.numbers", "again.enough"], [["again.double", 1], ["again.numbers", -1], ["again.enough", 0]], ["again.literal", ["mapped", 1]])),
    Case("skip downstream, of no version", "PATCH", "/task-instances/{ti}/skip-downstream", {"tasks": ["again.double", "after"]}, setup="skips_without_a_version", revisions=SINCE, differs=UNASKED, ours=204),
    *(of_loop(f"GET {path}", "GET", path, asking) for asking in (("again.numbers", 0), ("after", -1)) for path in (
        "/task-instances/count?dag_id=d", "/task-instances/count?dag_id=d&task_ids=again.numbers", "/task-instances/count?dag_id=d&states=success",
        "/task-instances/count?dag_id=d&map_index=0", "/task-instances/states?dag_id=d", "/task-instances/states?dag_id=d&task_group_id=again",
        "/task-instances/states?dag_id=d&map_index=1", "/task-instances/breadcrumbs?dag_id=d&run_id=manual__1",
        "/task-instances/previous/d/again.numbers?logical_date=2026-02-01T00:00:00Z", "/task-instances/previous/d/again.double?map_index=1&logical_date=2026-02-01T00:00:00Z",
        "/task-instances/previous/d/job?logical_date=2026-02-01T00:00:00Z", "/task-instances/previous/d/again.numbers?logical_date=2026-02-01T00:00:00Z&state=success",
    )),
]  # fmt: skip
