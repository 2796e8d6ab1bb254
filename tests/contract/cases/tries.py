"""Where every try is a row: what is cleared while it runs, what is archived, and what of 3.3's corpus is otherwise there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.contract.cases.case import (
    BETTER_REFUSAL,
    END,
    ENTER,
    ERROR_SHAPE,
    RUN_IT,
    STRANGER,
    WORDS,
    Case,
    on,
    run,
    state,
)
from tests.contract.cases.dag_setups import version_id, write_version
from tests.contract.cases.setups import SETUPS, Setup, setup
from tests.world import EPOCH, World

SINCE: dict[str, Any] = {"revisions": ("3.4",)}
DEAD = {"state": "server_terminated", "end_date": END, "hostname": "worker", "pid": 42}


def _cleared(*, serialized: bool = True, **values: Any) -> Setup:
    """Write a task instance that was cleared while it ran, and that somebody has noted something of."""

    async def make(world: World) -> Any:
        ti = await world.one_running("d", state="restarting", try_number=2, **values)
        if serialized:
            await world.serialized("d", [{"__var": {"task_id": "job", "retries": 3}, "__type": "operator"}])
        await world.insert("task_instance_note", ti_id=ti, content="noted", created_at=EPOCH, updated_at=EPOCH)
        return ti

    return make


SETUPS |= {
    "cleared": _cleared(),
    "cleared, with many tries": _cleared(serialized=False, max_tries=7),
    "cleared, that was deferred": _cleared(next_method="m", next_kwargs={"a": 1}, external_executor_id="e"),
    "cleared, that has no start": _cleared(start_date=None),
}


async def _mapped_before(world: World, *states: str | None) -> dict[int, Any]:
    """Write a run with a mapped task as Airflow 3.3 had expanded it, without a region; return its instances by map index."""
    version = {"dag_version_id": version_id("d", 1)}
    await world.dag("d")
    await write_version(world, "sample", dag_id="d")
    await world.run("d", created_dag_version_id=version_id("d", 1))
    found = {-1: await world.running("d", **version)}
    for index, each in enumerate(states):
        found[index] = await world.running("d", "b", map_index=index, state=each, **version)
    return found


@setup
async def mapped_before(world: World) -> Any:
    return (await _mapped_before(world, "running", "success", "up_for_retry", None))[-1]


@setup
async def mapped_before_and_cleared(world: World) -> Any:
    """All of them ran when it was cleared, and one has not ended yet; what they are expanded anew in is there."""
    found = await _mapped_before(world, "restarting", "restarting")
    await world.region("d", "manual__1", "b")
    over = "UPDATE task_instance SET state = 'failed', working_set = NULL, archived_reason = 'superseded' WHERE id = $1"
    await world.connection.execute(over, found[1])
    return found[0]


OTHER = {**ENTER, "pid": 43}
KEYS = ("__classname__", "__version__", "__data__", "__id__", "__cache__", "__type", "__source", "__var")

# What of 3.3's corpus has no counterpart, by its setup: a history that has a try already.
GONE = ("tried_already", "labelled_and_tried_already")
# What is answered otherwise than there, and on purpose, by name.
_BEYOND = ("2147483648", "1099511627776", "9223372036854775808", "-2147483649", "2**40 in queued")
OTHERWISE: dict[str, tuple[str, int]] = {f"heartbeat pid of {pid}": (BETTER_REFUSAL, 409) for pid in _BEYOND}
OTHERWISE |= {
    on(f"to_clear, {lengths}on the newest version, no more mapped", "POST", f"{RUN_IT}/clear", revisions=("3.3",)).name: (
        "what nothing maps any more stays where it is",
        204,
    )
    for lengths in ("", "known lengths, ")
}
OTHERWISE["run another task's token"] = (STRANGER, 403)
OTHERWISE |= {  # the fields of the state that was asked for, and not those of all states
    f"state {name} under the older date": (ERROR_SHAPE, 422) for name in ("retry with a policy", "awaiting input")
}
_LABELLED = {"state": "success", "end_date": END, "rendered_map_index": "label"}
OTHERWISE[on("running", "PATCH", "/task-instances/{ti}/state", _LABELLED, note="2025-04-11").name] = (ERROR_SHAPE, 422)

CASES = [
    *(state(f"terminated, {name}", DEAD, name, **SINCE) for name in SETUPS if name.startswith("cleared")),
    *(state(f"terminated, {name}", DEAD, name, **SINCE) for name in ("success", "failed", "skipped", "archived")),
    *(state(f"terminated, {name}", DEAD, name, **SINCE) for name in ("running", "queued", "deferred", "scheduled")),
    *(
        state(f"terminated by another, {name}: {body}", {**DEAD, **body}, name, **SINCE)
        for name in ("cleared", "success", "running")
        for body in ({"pid": 43}, {"hostname": "w2"}, {"pid": None}, {"hostname": None})
    ),
    on("mapped_before", "POST", "/dag-runs/d/manual__1/clear", **SINCE),
    state("terminated, mapped before", DEAD, "mapped_before_and_cleared", **SINCE),
    run("restarting from another process", "restarting", OTHER, **SINCE),
    run("restarting from its own process", "restarting", **SINCE),
    *(
        state(f"{body['state']} of an archived try{date and f', {date}'}", {"end_date": END, **body}, "archived", **SINCE,
              headers={"Airflow-API-Version": date} if date else {})
        for body in ({"state": "success"}, {"state": "failed"})
        for date in ("", "2026-06-30", "2025-04-28")
    ),
    *(on("sample", "POST", RUN_IT, {"conf": {"a": [{"b": {key: 1}}]}}, note="reserved", **SINCE, differs=WORDS, ours=422) for key in KEYS),
    on("sample", "POST", RUN_IT, {"conf": {"a": "__var", "b": ["__type"]}}, note="not reserved", **SINCE),
]  # fmt: skip


def for_revision(case: Case, revision: str) -> Case | None:
    """Return a case as it is asked on a revision, None where it is not: those of 3.3 are asked of what came after it."""
    if revision in case.revisions:
        return case
    if revision != "3.4" or "3.3" not in case.revisions or case.setup in GONE:
        return None
    differs, ours = OTHERWISE.get(case.name, (case.differs, case.ours))
    return replace(case, differs=differs, ours=ours)
