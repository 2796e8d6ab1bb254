"""What workers report of task instances, and read of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.contract.cases.case import (
    BETTER_REFUSAL,
    CUT,
    DEFER,
    END,
    ENDED,
    ENTER,
    ERROR_SHAPE,
    JSON_HEADER,
    LONG_LISTS,
    NEW,
    NOT_FAILED,
    PARK,
    QUIET_SKIP,
    REFUSED_TOKEN_TEXT,
    REPLAY,
    RUN_DATES,
    STRICTER_TOKEN,
    TI,
    UNDECLARED,
    Case,
    beat,
    get,
    run,
    state,
)
from tests.contract.cases.setups import setup
from tests.world import EPOCH, World, ti_id


@setup
async def rendered_in_many_runs(world: World) -> Any:
    """The fields of more runs are there than are kept, and the one that asks is not of the newest."""
    await world.dag("d")
    for number in range(34):
        date = EPOCH + timedelta(hours=number)
        await world.run("d", f"r{number}", logical_date=date, run_after=date)
        ti = await world.running("d", run_id=f"r{number}", state="success")
        of = {"task_instance_id": ti, "id": ti_id(f"fields {number}")}
        if not world.keeps_tries:
            of = {"dag_id": "d", "run_id": f"r{number}", "task_id": "job", "map_index": -1}
        await world.insert(world.table("rendered_task_instance_fields"), **of, rendered_fields={"a": number})
    return await world.running("d", run_id="r20", map_index=0)


@setup
async def with_left_xcoms(world: World) -> Any:
    ti = await world.one("d")
    await world.xcom("d", "job", "left", 1)
    await world.xcom("d", "job", "over", 2)
    await world.insert("task_reschedule", ti_id=ti, start_date=EPOCH, end_date=EPOCH, duration=0, reschedule_date=EPOCH)
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
async def downstream(world: World) -> Any:
    ti = await world.one_running("d")
    for number, each in enumerate((None, "scheduled", "queued", "running", "success", "failed", "deferred", "skipped")):
        await world.ti("d", f"t{number}", state=each)
    for index in range(3):
        await world.ti("d", "m", map_index=index, state=None)
    return ti


CASES: list[Case] = [
    # --- run
    run("queued"),
    run("restarting", "restarting"),
    run("no state", "no_state"),
    *(run(f"from {s}", s) for s in ("success", "failed", "scheduled", "deferred", "up_for_reschedule", "skipped")),
    run("again by the same process", "running", differs=REPLAY, ours=200),
    run("already running elsewhere", "running", {**ENTER, "hostname": "elsewhere"}),
    run("already running as another process", "running", {**ENTER, "pid": 43}),
    run("unknown task instance", "nothing"),
    run("resuming from a deferral", "resuming"),
    run("with XComs of an earlier try", "with_left_xcoms"),
    run("triggered by assets", "triggered_by_assets"),
    run("without a hostname", "queued", {**ENTER, "hostname": ""}),
    run("unknown field", "queued", {**ENTER, "extra": 1}),
    run("missing pid", "queued", {k: v for k, v in ENTER.items() if k != "pid"}),
    run("pid is a text", "queued", {**ENTER, "pid": "x"}),
    run("pid as a numeric text", "queued", {**ENTER, "pid": "7"}),
    run("pid beyond int4", "queued", {**ENTER, "pid": 2**40}, differs=BETTER_REFUSAL, ours=422, revisions=("3.2",)),
    run("naive start date", "queued", {**ENTER, "start_date": "2026-01-01T00:00:00"}),
    run("start date with an offset", "queued", {**ENTER, "start_date": "2026-01-01T02:00:00+02:00"}),
    run("wrong state", "queued", {**ENTER, "state": "success"}),
    run("body is a list", "queued", []),
    run("body is null", "queued", None, differs=ERROR_SHAPE, ours=422),
    run("hostname too long", "queued", {**ENTER, "hostname": "h" * 1001}, differs=BETTER_REFUSAL, ours=422),
    run("NUL in the hostname", "queued", {**ENTER, "hostname": "a\0b"}, differs=BETTER_REFUSAL, ours=422),
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
    *(beat(f"pid of {pid}", {"hostname": "worker", "pid": pid}) for pid in (2**31, 2**40, 2**63, -(2**31) - 1)),
    beat("pid of 2**40 in queued", {"hostname": "worker", "pid": 2**40}, setup="queued"),
    beat("workload token", claims={"scope": "workload"}),
    beat("another task's token", token="other"),
    Case("heartbeat malformed JSON", "PUT", f"{TI}/heartbeat", content=b'{"hostname": ', headers=JSON_HEADER),
    Case("heartbeat empty body", "PUT", f"{TI}/heartbeat", content=b"", headers=JSON_HEADER),
    Case("heartbeat not UTF-8", "PUT", f"{TI}/heartbeat", content=b"\xff\xfe", headers=JSON_HEADER),
    Case("heartbeat not declared JSON", "PUT", f"{TI}/heartbeat", content=b'{"hostname": "worker", "pid": 42}', differs=UNDECLARED, ours=204),
    Case("heartbeat path is no UUID", "PUT", "/task-instances/x/heartbeat", {"hostname": "worker", "pid": 42}),
    Case("heartbeat by GET", "GET", f"{TI}/heartbeat"),
    # --- state
    *(state(s, {"state": s, **ENDED}) for s in ("success", "failed", "skipped", "removed", "upstream_failed")),
    state("success with a label", {"state": "success", **ENDED, "rendered_map_index": "label"}, "mapped_one"),
    state("failed with a null label", {"state": "failed", **ENDED, "rendered_map_index": None}),
    state("label too long", {"state": "failed", **ENDED, "rendered_map_index": "l" * 251}, differs=CUT, ours=204),
    state("success that never started", {"state": "success", **ENDED}, "never_started"),
    state("success of a resumed task", {"state": "success", **ENDED}, "resuming", differs=None),
    state("success before its start", {"state": "success", "end_date": "2025-12-31T00:00:00Z"}),
    *(state(f"success from {s}", {"state": "success", **ENDED}, s) for s in ("queued", "failed", "deferred", "no_state")),
    state("success again", {"state": "success", **ENDED}, "success", revisions=("3.3",)),
    state("success again on 3.2", {"state": "success", **ENDED}, "success", revisions=("3.2",), differs=REPLAY, ours=200),
    state("failed again", {"state": "failed", **ENDED}, "failed", revisions=("3.3",)),
    state("skipped again on 3.2", {"state": "skipped", **ENDED}, "skipped", revisions=("3.2",), differs=REPLAY, ours=200),
    state("unknown task instance", {"state": "success", **ENDED}, "nothing"),
    state("archived try", {"state": "success", **ENDED}, "archived"),
    state("retry", {"state": "up_for_retry", **ENDED}, "with_tries"),
    state("retry of a mapped task", {"state": "up_for_retry", **ENDED}, "mapped_one"),
    state("retry with history and more", {"state": "up_for_retry", **ENDED, "rendered_map_index": "r"}, "retried_before"),
    state("retry that never started", {"state": "up_for_retry", **ENDED}, "never_started"),
    state("retry of an archived try", {"state": "up_for_retry", **ENDED}, "archived", differs=REPLAY, ours=200),
    state(
        "retry with a policy",
        {"state": "up_for_retry", **ENDED, "retry_delay_seconds": 1.5, "retry_reason": "because " * 100},
        "with_tries", revisions=("3.3",),
    ),
    state(
        "retry with a policy on 3.2", {"state": "up_for_retry", **ENDED, "retry_reason": "x"}, "with_tries",
        revisions=("3.2",), differs=ERROR_SHAPE, ours=422,
    ),
    state(
        "retry with a policy under the older date", {"state": "up_for_retry", **ENDED, "retry_reason": "x"}, "with_tries",
        headers={"Airflow-API-Version": "2026-04-06"}, **NEW,
    ),
    state("awaiting input under the older date", PARK, headers={"Airflow-API-Version": "2026-04-06"}, **NEW),
    state("deferred", DEFER),
    state("deferred with a timeout", {**DEFER, "trigger_timeout": "PT60S"}),
    state("deferred with a timeout in seconds", {**DEFER, "trigger_timeout": 90.5}),
    state("deferred with a queue", {**DEFER, "queue": "q"}),
    state("deferred with encrypted kwargs", {**DEFER, "trigger_kwargs": "gAAAA-encrypted"}),
    state("deferred without kwargs", {"state": "deferred", "classpath": "T", "next_method": "m"}),
    state("deferred with a label", {**DEFER, "rendered_map_index": "x"}),
    state("deferred with big numbers", {**DEFER, "next_kwargs": {"big": 2**70, "small": 1e-7}}),
    state("deferred from success", DEFER, "success"),
    state("deferred again", DEFER, "deferred", revisions=("3.3",)),
    state("classpath too long", {**DEFER, "classpath": "c" * 1001}, differs=BETTER_REFUSAL, ours=422),
    state("reschedule", {"state": "up_for_reschedule", **ENDED, "reschedule_date": END}),
    state("reschedule never started", {"state": "up_for_reschedule", **ENDED, "reschedule_date": END}, "never_started"),
    state("reschedule again", {"state": "up_for_reschedule", **ENDED, "reschedule_date": END}, "up_for_reschedule", revisions=("3.3",)),
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
    state("unknown state", {"state": "bogus", **ENDED}, differs=ERROR_SHAPE, ours=422),
    state("no state", ENDED, differs=ERROR_SHAPE, ours=422),
    state("success without an end", {"state": "success"}, differs=ERROR_SHAPE, ours=422),
    state("success with an unknown field", {"state": "success", **ENDED, "x": 1}, differs=ERROR_SHAPE, ours=422),
    state("end date is no date", {"state": "failed", "end_date": "soon"}, differs=ERROR_SHAPE, ours=422),
    state("another task's token", {"state": "success", **ENDED}, token="other"),
    # --- fail fast
    state("failed in a fail-fast Dag", {"state": "failed", **ENDED}, "fail_fast"),
    state("success in a fail-fast Dag", {"state": "success", **ENDED}, "fail_fast"),
    # --- rendered fields and labels
    Case("rtif", "PUT", f"{TI}/rtif", {"a": 1, "b": ["x", None], "c": {"d": 1.5}}),
    Case("rtif with secrets", "PUT", f"{TI}/rtif", {"password": "p", "env": {"MY_TOKEN": "t", "n": [{"api_key": 1}]}, "x": "y"}),
    Case("rtif with deep secrets", "PUT", f"{TI}/rtif", {"secret": {"a": ["b", {"c": "d"}], "n": 1}}),
    Case("rtif of a task with those of many runs", "PUT", f"{TI}/rtif", {"a": 1}, setup="rendered_in_many_runs"),
    Case("rtif unknown task instance", "PUT", f"{TI}/rtif", {"a": 1}, setup="nothing"),
    Case("rtif of an archived try", "PUT", f"{TI}/rtif", {"a": 1}, setup="archived"),
    Case("rtif empty", "PUT", f"{TI}/rtif", {}, differs=BETTER_REFUSAL, ours=422),
    Case("rtif is a list", "PUT", f"{TI}/rtif", [1]),
    Case("rendered map index", "PATCH", f"{TI}/rendered-map-index", "label"),
    Case("rendered map index empty", "PATCH", f"{TI}/rendered-map-index", ""),
    Case("rendered map index is a number", "PATCH", f"{TI}/rendered-map-index", 5),
    Case("rendered map index unknown", "PATCH", f"{TI}/rendered-map-index", "x", setup="nothing"),
    Case("rendered map index too long", "PATCH", f"{TI}/rendered-map-index", "x" * 251, differs=CUT, ours=204),
    # --- labels of mapped tasks, and tries that the history has already
    *(
        state(f"retry labelled {label!r} of {setup}", {"state": "up_for_retry", **ENDED, "rendered_map_index": label}, setup)
        for setup in ("labelled", "mapped_one", "labelled_alone", "tried_already", "labelled_and_tried_already")
        for label in (None, "new", "")
    ),
    *(state(f"retry of {setup}", {"state": "up_for_retry", **ENDED}, setup) for setup in ("labelled", "tried_already", "labelled_and_tried_already")),
    *(state(f"{s} without a label any more", {"state": s, **ENDED, "rendered_map_index": None}, "labelled") for s in ("success", "failed", "skipped")),
    *(
        state(f"{s} with a long label", {"state": s, **ENDED, "rendered_map_index": "x" * 251}, "labelled", differs=CUT, ours=204)
        for s in ("success", "failed", "skipped", "up_for_retry")
    ),
    # --- skip downstream
    Case("skip all", "PATCH", f"{TI}/skip-downstream", {"tasks": [f"t{n}" for n in range(7)]}, setup="downstream"),
    Case("skip the skipped", "PATCH", f"{TI}/skip-downstream", {"tasks": ["t7"]}, setup="downstream", differs=QUIET_SKIP, ours=204),
    Case("skip mapped", "PATCH", f"{TI}/skip-downstream", {"tasks": [["m", 0], ["m", 2]]}, setup="downstream"),
    Case("skip a mapped task without index", "PATCH", f"{TI}/skip-downstream", {"tasks": ["m"]}, setup="downstream"),
    Case("skip none", "PATCH", f"{TI}/skip-downstream", {"tasks": []}, setup="downstream"),
    Case("skip unknown tasks", "PATCH", f"{TI}/skip-downstream", {"tasks": ["nope"]}, setup="downstream"),
    Case("skip 15,000 tasks", "PATCH", f"{TI}/skip-downstream", {"tasks": [f"t{n}" for n in range(15_000)]}, setup="downstream", differs=LONG_LISTS, ours=204),
    Case("skip 20,000 mapped tasks", "PATCH", f"{TI}/skip-downstream", {"tasks": [["m", n] for n in range(20_000)]}, setup="downstream", differs=LONG_LISTS, ours=204),
    Case("skip unknown task instance", "PATCH", f"{TI}/skip-downstream", {"tasks": ["t0"]}, setup="nothing"),
    Case("skip bad pair", "PATCH", f"{TI}/skip-downstream", {"tasks": [["m", "x"]]}, setup="downstream"),
    Case("skip unknown field", "PATCH", f"{TI}/skip-downstream", {"tasks": [], "x": 1}, setup="downstream"),
    # --- task instance reads
    get("previous successful run", f"{TI}/previous-successful-dagrun", "several_runs"),
    get("previous successful run among undated ones", f"{TI}/previous-successful-dagrun", "with_undated"),
    get("previous successful run of none", f"{TI}/previous-successful-dagrun"),
    get("previous successful run unknown", f"{TI}/previous-successful-dagrun", "nothing"),
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
    get("previous task instance mapped", "/task-instances/previous/d/mapped?map_index=1", "several_runs", differs=RUN_DATES, ours=200),
    get("previous task instance mapped before", "/task-instances/previous/d/mapped?map_index=1&logical_date=2026-01-04T00:00:00Z", "several_runs"),
    get("previous task instance among undated ones", "/task-instances/previous/d/job", "with_undated", differs=RUN_DATES, ours=200),
    get("previous task instance before, among undated ones", "/task-instances/previous/d/job?logical_date=2026-01-02T00:00:00Z", "with_undated"),
    get("previous task instance unknown", "/task-instances/previous/d/nope", "several_runs"),
    get("previous task instance bad state", "/task-instances/previous/d/work?state=awaiting_input", "several_runs", revisions=("3.3",)),
    get("validate inlets and outlets", f"{TI}/validate-inlets-and-outlets", "with_serialized"),
    get("validate inlets and outlets of a mapped task", f"{TI}/validate-inlets-and-outlets", "mapped_with_serialized"),
    get("validate without a serialized Dag", f"{TI}/validate-inlets-and-outlets"),
    get("validate unknown", f"{TI}/validate-inlets-and-outlets", "nothing"),
    get("first reschedule", "/task-reschedules/{ti}/start_date", "with_reschedules"),
    get("no reschedule", "/task-reschedules/{ti}/start_date"),
    get("reschedules of another", "/task-reschedules/{ti}/start_date", "with_reschedules", token="other", differs=STRICTER_TOKEN, ours=403, revisions=("3.2",)),
    get("reschedules of another on 3.3", "/task-reschedules/{ti}/start_date", "with_reschedules", token="other", revisions=("3.3",)),
]  # fmt: skip
