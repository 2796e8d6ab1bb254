"""What API date 2026-10-30 brought, and what its server has of it at the older ones."""

from __future__ import annotations

from typing import Any

from tests.contract.cases.case import (
    AE,
    BETTER_REFUSAL,
    DEFER,
    ENDED,
    ENTER,
    ERROR_SHAPE,
    OUT,
    PARK,
    STORE,
    STRANGER,
    TI,
    WORDS,
    Case,
    X,
    get,
    on,
    run,
    state,
)
from tests.contract.cases.setups import SETUPS, Setup, setup
from tests.contract.cases.tries import DEAD, SINCE
from tests.world import EPOCH, World, ti_id

BEFORE = {"Airflow-API-Version": "2026-06-30"}
NOTE = f"{TI}/dag-run-note"
CALLBACK = "/callbacks/{ti}/run"
OF_A_CALLBACK = {"scope": "callback"}
STATED: dict[str, tuple[dict[str, Any], str]] = {  # what may be reported, and the first date that documents it
    "awaiting input": (PARK, "2026-06-30"),
    "the reason of a retry": ({"state": "up_for_retry", **ENDED, "retry_reason": "x"}, "2026-06-30"),
    "the delay of a retry": ({"state": "up_for_retry", **ENDED, "retry_delay_seconds": 1.5}, "2026-06-30"),
    "the label of a success": ({**OUT, "rendered_map_index": "x"}, "2025-04-28"),
    "the label of a failure": ({"state": "failed", **ENDED, "rendered_map_index": "x"}, "2025-04-28"),
    "the label of a retry": ({"state": "up_for_retry", **ENDED, "rendered_map_index": "x"}, "2025-04-28"),
    "the label of a deferral": ({**DEFER, "rendered_map_index": "x"}, "2025-04-28"),
}
DATES = ("2025-04-11", "2025-04-28", "2026-04-06", "2026-06-30", "2026-10-30")
WRITES: tuple[tuple[str, str, Any], ...] = (
    ("PATCH", f"{TI}/run", ENTER),
    ("PUT", f"{TI}/rtif", {"a": 1}),
    ("PATCH", f"{TI}/rendered-map-index", "label"),
    ("PATCH", f"{TI}/skip-downstream", {"tasks": ["t0"]}),
    ("PATCH", f"{TI}/state", OUT),
    ("PATCH", f"{TI}/state", {"state": "failed", **ENDED}),
    ("PUT", f"{TI}/heartbeat", {"hostname": "worker", "pid": 42}),
    ("POST", f"{X}/job/key", "value"),
    ("PUT", "/variables/v", {"val": "x"}),
    ("PUT", f"{STORE}/k", {"value": 1}),
)


def _dated(date: str) -> dict[str, Any]:
    return {**SINCE, "headers": {"Airflow-API-Version": date}}


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


CASES: list[Case] = [
    # --- bodies of reports
    *(
        state(f"{what} at {date}", body, "with_tries", **_dated(date), **({"differs": ERROR_SHAPE, "ours": 422} if date < first else {}))
        for what, (body, first) in STATED.items()
        for date in DATES
    ),
    state("failed for a reason", {"state": "failed", **ENDED, "retry_reason": "because " * 100}, **SINCE),
    state("failed for no reason", {"state": "failed", **ENDED, "retry_reason": None}, **SINCE),
    *(
        state(f"{end} elsewhere: {body}", {"state": end, **ENDED, **body}, **SINCE)
        for end in ("failed", "skipped")
        for body in ({"hostname": "elsewhere", "pid": 7}, {"hostname": None}, {"pid": None})
    ),
    state("failed on a host that cannot be", {"state": "failed", **ENDED, "hostname": "h" * 1001}, **SINCE, differs=WORDS, ours=422),
    state("skipped for a reason", {"state": "skipped", **ENDED, "retry_reason": "because"}, **SINCE),
    state("success of a task that is no gate, with a decision", {**OUT, "loop_decision": {"stop": True}}, **SINCE),
    state("success without a decision", {**OUT, "loop_decision": None}, **SINCE),
    *(
        state(f"success with a decision of {decision}", {**OUT, "loop_decision": decision}, **SINCE, differs=ERROR_SHAPE, ours=422)
        for decision in ({}, {"stop": True, "x": 1}, {"stop": True, "reason": "é" * 257}, {"stop": True, "reason": "a\0"})
    ),
    # --- a process that the server ended
    state("terminated, nothing", DEAD, "nothing", **SINCE),
    state("terminated, cleared, nobody", {k: v for k, v in DEAD.items() if k != "hostname"}, "cleared", **SINCE),
    # --- archived tries
    *(on("archived", method, path, body, **_dated(date), note=date) for method, path, body in WRITES for date in ("2026-06-30", "2026-10-30")),
    *(on("nothing", method, path, body, **SINCE, note="nobody") for method, path, body in WRITES),
    *(get(f"own XCom of an archived try at {date}", f"{X}/job/key", "archived", **_dated(date)) for date in ("2026-06-30", "2026-10-30")),
    get("count by an archived try", "/task-instances/count?dag_id=d", "archived", **SINCE),
    run("rescheduled", "queued_with_reschedules", **SINCE),
    run("rescheduled, before", "queued_with_reschedules", **_dated("2026-06-30")),
    # --- notes of runs
    *(
        on(setup, "PATCH", NOTE, body, **SINCE)
        for setup in ("running", "noted", "archived", "nothing")
        for body in ({"note": "text"}, {"note": ""}, {"note": None}, {})
    ),
    *(on("noted", "PATCH", NOTE, body, **SINCE) for body in ({"note": "n" * 1000}, {"note": 5}, {"note": "n", "x": 1}, [])),
    on("noted", "PATCH", NOTE, {"note": "a\0"}, **SINCE, differs=BETTER_REFUSAL, ours=422),
    on("noted", "PATCH", NOTE, {"note": "text"}, token="other", **SINCE, differs=STRANGER, ours=403),
    on("noted", "PATCH", NOTE, {"note": "text"}, **_dated("2026-06-30"), note="before"),
    # --- callbacks
    *(on(f"callback_{s}", "PATCH", CALLBACK, claims=OF_A_CALLBACK, **SINCE) for s in ("queued", "running", "success", "scheduled")),
    on("callback_queued", "PATCH", CALLBACK, claims=OF_A_CALLBACK, **_dated("2026-06-30"), note="before"),
    on("callback_queued", "PATCH", CALLBACK, **SINCE, note="with an execution token"),
    on("callback_queued", "PATCH", CALLBACK, token="other", claims=OF_A_CALLBACK, **SINCE),
    on("nothing", "PATCH", CALLBACK, claims=OF_A_CALLBACK, **SINCE),
    *(on("callback_running", method, path, *body, **SINCE) for method, path, *body in (("PUT", "/variables/v", {"val": "x"}), ("PUT", f"{STORE}/k", {"value": 1}), ("GET", "/variables/v"))),
    on("callback_queued", "GET", "/variables/v", claims=OF_A_CALLBACK, **SINCE),
    # --- filters of asset events, at every date
    *(
        on("asset_events_that_say", "GET", f"{path}&{query}", **_dated(date), note=date)
        for path in (f"{AE}?name=a&uri=", "/asset-events/by-asset-alias?name=alias")
        for query in (
            "extra=n=1", "extra=x=y", "extra=x=y&extra=z=w", "extra=x=y=z", "extra=nothing", "extra=", "extra==",
            "partition_key=key", "partition_key=", "partition_key_regexp_pattern=k.*", "partition_key_regexp_pattern=(",
        )
        for date in ("2026-06-30", "2026-10-30")
    ),
    # --- the rest of what its server does at every date
    *(get(f"connection {name!r}", f"/connections/{name}", "with_a_slashed_connection", **SINCE) for name in ("a/b", "a%2Fb", "a/c", "a/", "/a")),
    get("XComs of an empty key", f"{X}/job/", method="HEAD", **SINCE),
    *(on("running", "POST", f"{X}/job/return_value?mapped_length={n}", [1], **SINCE) for n in (-1, 0, 2)),
    *(get(f"the pass before at {date}", f"{X}/job/key?previous_iteration=true", **_dated(date), differs=WORDS, ours=400) for date in ("2025-04-11", "2026-10-30")),
]  # fmt: skip
