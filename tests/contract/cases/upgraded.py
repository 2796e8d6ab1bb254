"""A database that Airflow 3.3 wrote and Airflow 3.4 upgraded: what is in it, and what its tasks ask afterwards."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from tests.contract.cases.case import ABSENT, ASK, DEFER, END, ENTER, PARK, RESPONSE, RUN
from tests.contract.cases.dag_setups import version_id, write_version
from tests.contract.cases.hitl import ask
from tests.contract.cases.task_instance_setups import archive
from tests.contract.cases.tries import DEAD
from tests.world import EPOCH, World, ti_id

RESUMES = {"next_method": "resume", "next_kwargs": {"event": {"a": 1}}}
ENDED = {"end_date": EPOCH + timedelta(minutes=1), "duration": 50.0}
MOVED = "cleared, on the newest version"
# The tasks of each Dag: whether a try has ended before, and how it is.
TASKS: dict[str, tuple[bool, dict[str, Any]]] = {
    "queued": (False, {"state": "queued"}),
    "queued again": (True, {"state": "queued", "try_number": 2, "pid": None}),
    "running": (True, {"state": "running", "try_number": 2}),
    "deferred": (True, {"state": "deferred", "try_number": 2, "trigger_id": 1, **RESUMES}),
    "resuming": (True, {"state": "queued", "try_number": 2, **RESUMES}),
    "rescheduled": (False, {"state": "up_for_reschedule", **ENDED}),
    "retrying": (True, {"state": "up_for_retry", "retry_reason": "why", **ENDED}),
    "retrying, kept by nobody": (False, {"state": "up_for_retry", **ENDED}),
    "cleared": (True, {"state": None, "max_tries": 3}),
    "cleared while it ran": (True, {"state": "restarting"}),
    "asked": (True, {"state": "running", "try_number": 2}),
    "parked": (False, {"state": "awaiting_input", **RESUMES}),
    "succeeded": (True, {"state": "success", "try_number": 2, **ENDED}),
    "failed": (False, {"state": "failed", **ENDED}),
}
# Those that the Dag really has, mapped ones among them: by place, as Airflow 3.3 had expanded them.
REAL = {
    ("a", -1): "success", ("b", 0): "running", ("b", 1): "success", ("b", 2): "up_for_retry", ("c", -1): "success",
    ("m", -1): None, ("md", 0): "success", ("md", 1): "failed", ("g.e", 0): "deferred", ("g.e", 1): "queued",
}  # fmt: skip


async def write(world: World, dag_id: str) -> None:
    """Write a Dag with a run that is over and one that goes on, each try with what it rendered, pushed and was told."""
    await world.dag(dag_id)
    await write_version(world, "sample", dag_id=dag_id)
    if dag_id == MOVED:
        await write_version(world, "sample, moving", 2, dag_id=dag_id)
    version = {"dag_version_id": version_id(dag_id, 1)}
    runs = {}
    for number, run_id in enumerate(("early", RUN)):
        date = EPOCH + timedelta(days=number)
        state = ("success", "running")[number]
        dates = {
            "logical_date": date,
            "run_after": date,
            "state": state,
            "created_dag_version_id": version["dag_version_id"],
        }
        runs[run_id] = await world.run(dag_id, run_id, **dates)
    for task_id in ("running", "a"):
        await world.running(dag_id, task_id, "early", state="success", **version)
        await world.xcom(dag_id, task_id, "return_value", "early", "early")
    for task_id, (is_tried, values) in TASKS.items():
        await _task(world, dag_id, task_id, is_tried=is_tried, **{**version, **values})
    for (task_id, map_index), state in REAL.items():
        await _task(world, dag_id, task_id, is_tried=state == "up_for_retry", map_index=map_index, state=state, **version)
    of_run = {"dag_run_id": runs[RUN], "dag_id": dag_id, "run_id": RUN, "key": "kept", "updated_at": EPOCH}
    for task_id, map_index in (("running", -1), ("b", 0), ("b", 1)):
        await world.insert("task_state_store", task_id=task_id, map_index=map_index, value='{"a": 1}', **of_run)


async def _task(world: World, dag_id: str, task_id: str, *, is_tried: bool, map_index: int = -1, **values: Any) -> None:
    """Write a task instance.

    :param is_tried: whether a try of it has ended, and is in the history as 3.3 put it there.
    """
    place = {"dag_id": dag_id, "task_id": task_id, "run_id": RUN, "map_index": map_index}
    ti = ended = await world.running(dag_id, task_id, map_index=map_index, dag_version_id=values["dag_version_id"])
    if task_id in ("asked", "parked"):
        await ask(world, ended)
    if is_tried:
        await archive(world, ended)
        await world.connection.execute("INSERT INTO hitl_detail_history SELECT * FROM hitl_detail WHERE ti_id = $1", ended)
        ti = ti_id(f"{ended} again")
        await world.connection.execute("UPDATE task_instance SET id = $2 WHERE id = $1", ended, ti)
    texts = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in values.items()}
    changes = ", ".join(f"{name} = ${number}" for number, name in enumerate(texts, start=2))
    await world.connection.execute(f"UPDATE task_instance SET {changes} WHERE id = $1", ti, *texts.values())
    if values["state"] == "up_for_reschedule":
        stamps = {"start_date": EPOCH, "end_date": EPOCH, "duration": 0, "reschedule_date": EPOCH}
        await world.insert("task_reschedule", ti_id=ti, **stamps)
    await world.xcom(dag_id, task_id, "return_value", [task_id, map_index, 1.5], map_index=map_index)
    await world.xcom(dag_id, task_id, "pushed", None, map_index=map_index)
    await world.insert("task_map", **place, length=3)
    await world.insert("rendered_task_instance_fields", **place, rendered_fields={"command": "echo"})


@dataclass(frozen=True)
class Asked:
    """What is asked.

    :param dag: the Dag, one of its own for each group of requests that write.
    :param task: who asks, with its map index.
    :param of: by which of its tries: ``last``, or ``first``, which ended before the upgrade.
    :param path: with ``{x}`` for the XComs of the run, ``{dag}`` and ``{ti}``.
    """

    dag: str
    task: str
    method: str
    path: str
    json: Any = ABSENT
    map_index: int = -1
    of: str = "last"
    date: str = ""

    def __str__(self) -> str:
        parts = [self.dag, self.method, self.path, self.task, self.of, self.date]
        parts += [] if self.map_index < 0 else [str(self.map_index)]
        return " ".join(filter(None, parts))


TI = "/task-instances/{ti}"
BEAT = {"hostname": "worker", "pid": 42}
WRITTEN = {
    "run": ("PATCH", f"{TI}/run", ENTER),
    "heartbeat": ("PUT", f"{TI}/heartbeat", BEAT),
    "success": ("PATCH", f"{TI}/state", {"state": "success", "end_date": END}),
    "failed": ("PATCH", f"{TI}/state", {"state": "failed", "end_date": END}),
    "retry": ("PATCH", f"{TI}/state", {"state": "up_for_retry", "end_date": END, "retry_reason": "again"}),
    "defer": ("PATCH", f"{TI}/state", DEFER),
    "dead": ("PATCH", f"{TI}/state", DEAD),
    "rendered": ("PUT", f"{TI}/rtif", {"command": "anew"}),
}
MAPPED = [("b", 0), ("b", 2), ("g.e", 0)]
REPLAYS = {"run": ("running", "asked")}  # these, and a retry that is reported again, are answered otherwise on purpose
ARCHIVED = ("running", "retrying", "cleared while it ran")
X = "/xcoms/{dag}/manual__1"
READS = [
    *(Asked("read", "running", "GET", f"{X}/{task_id}/return_value") for task_id in (*TASKS, "a", "b", "m", "none")),
    *(Asked("read", "running", "GET", f"{X}/b/return_value?{query}") for query in ("map_index=0", "map_index=2", "offset=1", "offset=-1")),
    *(Asked("read", "running", "GET", f"{X}/b/return_value/{rest}") for rest in ("item/1", "item/3", "slice", "slice?start=1&step=1")),
    *(Asked("read", "running", "HEAD", f"{X}/{task_id}/return_value") for task_id in ("a", "b", "md")),
    *(Asked("read", "running", "GET", f"{X}/{task_id}/return_value?include_prior_dates=true") for task_id in ("a", "running", "b")),
    Asked("read", "running", "GET", f"{X}/running/pushed"),
    *(Asked("read", "running", "GET", f"{X}/running/return_value", of="first", date=date) for date in ("", "2026-06-30")),
    *(Asked("read", "running", "GET", f"/task-instances/{path}") for path in (
        "breadcrumbs?dag_id={dag}&run_id=manual__1",
        *(f"{what}?dag_id={{dag}}{rest}" for what in ("count", "states") for rest in ("", "&run_ids=manual__1", "&task_ids=b")),
        "count?dag_id={dag}&map_index=1", "count?dag_id={dag}&states=up_for_retry", "count?dag_id={dag}&states=null",
        *(f"previous/{{dag}}/{task_id}?logical_date=2026-01-02T00:00:00Z" for task_id in ("running", "a", "b")),
        "previous/{dag}/running?logical_date=2026-01-03T00:00:00Z", "previous/{dag}/b?map_index=2&logical_date=2026-01-03T00:00:00Z",
        "previous/{dag}/retrying?logical_date=2026-01-03T00:00:00Z", "previous/{dag}/cleared?logical_date=2026-01-03T00:00:00Z",
    )),
    *(Asked("read", task_id, "GET", f"{TI}/previous-successful-dagrun") for task_id in ("running", "retrying")),
    *(Asked("read", task_id, "GET", "/task-reschedules/{ti}/start_date") for task_id in ("rescheduled", "running")),
    *(Asked("read", task_id, "GET", "/hitlDetails/{ti}", of=of) for task_id, of in (("asked", "last"), ("asked", "first"), ("parked", "last"), ("running", "last"))),
    *(Asked("read", task_id, "GET", "/store/ti/{ti}/kept", map_index=at) for task_id, at in (("running", -1), ("b", 0), ("b", 2))),
]  # fmt: skip
WRITES = [
    *(Asked(name, task_id, *how) for name, how in WRITTEN.items() for task_id in TASKS if task_id not in REPLAYS.get(name, ())),
    *(Asked(name, task_id, *how, map_index=at) for name, how in WRITTEN.items() for task_id, at in MAPPED if (name, at) != ("run", 0)),
    *(Asked(name, task_id, *how, of="first") for name, how in WRITTEN.items() for task_id in ARCHIVED if name != "retry"),
    *(Asked(name, "running", *WRITTEN[name], of="first", date="2026-06-30") for name in ("run", "heartbeat", "success", "rendered")),
    *(Asked("pushed", task_id, "POST", f"{X}/{task_id}/return_value?mapped_length=2", [1, 2]) for task_id in (*TASKS, "a")),
    Asked("pushed", "running", "POST", f"{X}/cleared/by_another", 1),
    *(Asked("pushed", "b", "POST", f"{X}/b/pushed?map_index={at}", at, map_index=0) for at in (0, 1, 2, 3)),
    Asked("pushed", "running", "POST", f"{X}/running/late", 1, of="first"),
    *(Asked("pushed", "running", "GET", f"{X}/{task_id}/return_value") for task_id in ("running", "retrying")),
    *(Asked("pushed", "running", "GET", f"{X}/b/pushed{rest}") for rest in ("/slice", "?offset=1", "/item/2")),
    *(Asked("deleted", "running", "DELETE", f"{X}/{task_id}/return_value") for task_id in ("running", "retrying", "b", "none")),
    Asked("deleted", "b", "DELETE", f"{X}/b/return_value?map_index=1", map_index=1),
    *(Asked("deleted", "running", "GET", f"{X}/{path}") for path in ("running/return_value", "running/pushed", "b/return_value/slice")),
    *(Asked("told", task_id, "POST", "/hitlDetails/{ti}", ASK, of=of) for task_id, of in (("running", "last"), ("parked", "last"), ("running", "first"))),
    Asked("told", "asked", "PATCH", "/hitlDetails/{ti}", RESPONSE),
    Asked("told", "asked", "PATCH", f"{TI}/state", PARK),
    *(Asked("stored", "b", method, "/store/ti/{ti}/kept", body, map_index=at) for method, body in (("PUT", {"value": 2}), ("DELETE", ABSENT)) for at in (0, 2)),
    Asked("skipped", "running", "PATCH", f"{TI}/skip-downstream", {"tasks": ["cleared", ["b", 1], "m", "retrying"]}),
    Asked("noted", "running", "PATCH", f"{TI}/dag-run-note", {"note": "upgraded"}),
    Asked("cleared", "running", "POST", "/dag-runs/{dag}/manual__1/clear"),
    *(Asked("cleared", task_id, *WRITTEN["heartbeat"]) for task_id in ("running", "deferred")),
    *(Asked("cleared", task_id, *WRITTEN["dead"], map_index=at) for task_id, at in (("running", -1), ("asked", -1), ("b", 0))),
    *(Asked("cleared", "running", "GET", f"{X}/{task_id}/return_value") for task_id in ("running", "retrying", "succeeded")),
    *(Asked("cleared", "running", "GET", f"{X}/{task_id}/return_value/slice") for task_id in ("b", "md")),
    *(2 * [Asked("cleared again", "running", "POST", "/dag-runs/{dag}/manual__1/clear")]),
    Asked("cleared again", "b", *WRITTEN["dead"], map_index=0),
    Asked(MOVED, "running", "POST", "/dag-runs/{dag}/manual__1/clear"),
    Asked(MOVED, "b", *WRITTEN["dead"], map_index=0),
    Asked("triggered", "running", "POST", "/dag-runs/{dag}/after", {}),
    Asked("cleared early", "running", "POST", "/dag-runs/{dag}/early/clear"),
]  # fmt: skip
