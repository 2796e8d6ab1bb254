"""Runs that tasks trigger and clear."""

from __future__ import annotations

from typing import Any

from tests.contract.cases.case import (
    BETTER_REFUSAL,
    CLEARED_DEADLINES,
    MAR,
    NEW,
    OCT,
    RUN_IT,
    SAME_DATE,
    UNASKED,
    WHEN,
    WORDS,
    Case,
    on,
)
from tests.contract.cases.dag_setups import AVERAGED, WITH_DEADLINES, ZONED, names, since
from tests.contract.cases.setups import SETUPS
from tests.contract.serialized import kept
from tests.servers import AIRFLOW

FEB = "2026-02-03T04:05:06Z"


def _modules(module: str) -> list[str]:
    """Return the names of the Dags that come from a file."""
    return [name for name in names() if kept(AIRFLOW["3.3"])[name]["dag"]["relative_fileloc"].startswith(module)]


def _at(logical_date: str) -> dict[str, str]:
    return {"logical_date": logical_date, "run_after": logical_date}


DAILY = (
    "none", "once", "continuous", "daily preset", "cron trigger", "daily interval", "daily interval at two",
    "hours of one day a month", "utc offset", "in New York", "on Lord Howe", "events", "events and others", "an asset",
    "assets or time",
)  # fmt: skip
ASKED_ZONES = ("daily interval", "assets or time")  # of whose runs with a date an interval is asked
# A Dag with a schedule, and a moment that its clocks' changes make special.
FOLDS = {
    "daily interval at two": ("2026-10-25T03:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z"),
    "every other hour": ("2026-10-25T03:00:00Z", "2026-10-25T01:00:00Z"),
    "hours of one day a month": ("2026-11-03T00:00:00Z",),
    "in New York": ("2026-11-01T06:30:00Z", "2026-11-02T07:00:00Z"),
    "on Lord Howe": ("2026-04-04T15:20:00Z", "2026-04-05T16:00:00Z"),
}
# Partition keys of a triggered run, by its Dag: those that it may have made, and those that it cannot have.
KEYS: dict[str, tuple[str, ...]] = {
    "at run time": ("any", " ", "k" * 251),
    "cron partitions": ("2026-02-03 00:00", "2026-03-29 02:30", "2026-10-25 02:30", "no date"),
    "identity": ("p1",),
    "an allowed key": ("p1",),
    "a fixed key": ("all",),
    "hours in Paris": ("2026-02-03T04", "2026-03-29T02", "no time"),
    "hours in Paris with offsets": ("2026-02-03T04 +0100",),
    "days": ("2026-02-03", "no day"),
    "weeks": ("2026-02-02 (W06)", "2026-02-04 (W06)", "2026-99-02 (W06)"),
    "weeks in Paris": ("2026-03-30 (W14)",),
    "months": ("2026-02",),
    "quarters": ("2026-Q2",),
    "quarters in Paris": ("2026-Q2",),
    "years": ("2026",),
    "a product": ("eu|2026-06-30", "eu", "eu|no day"),
    "a chain": ("2026-06",),
    "a rollup": ("2026-06-30",),
    "a rollup of some": ("2026-06-29 (W27)",),
    "a rollup of segments": ("all",),
    "weeks to days": ("2026-02-03",),
    "two assets of a mapper each": ("2026-02",),
}
ODD = ("%C3%A9", "scheduled__x", "backfill__x", "asset_materialization__x", "asset_triggered__x")
CONFS: dict[str, tuple[Any, ...]] = {
    "params": ({}, {"number": 4, "maybe": "x"}, {"choice": "b", "several": ["a", "b"]}, {"unknown": {"a": 1}}),
    "params that are objects": ({}, {"whole": {"a": 2}}, {"loose": {"b": {}}}, {"loose": 1}),
    "params that are tuples": ({"listed": [1, 2]}, {"pair": [2, "b"]}),
    "params without a value": ({"needed": "ab"},),
    "params of local definitions": ({}, {"counted": {"n": 1}}),
}
INVALID: dict[str, tuple[Any, ...]] = {
    "params": ({"number": 2}, {"choice": "c"}, {"day": "tomorrow"}, {"pattern": "d"}, {"several": [1]}),
    "params that are objects": ({"whole": {"b": 1}},),
    "params that are tuples": ({"listed": []},),
    "params without a value": ({}, {"needed": "a"}),
    "params of local definitions": ({"counted": {"n": 4}},),
}


SAMPLED, PARENT = "airflow/trace_sampled", "airflow/dagrun_parent_trace_context"
DETAILED = {"airflow/task_span_detail_level": 2}
THEIRS = f"00-{'a1' * 16}-{'b2' * 8}-01"
TRACES = [{SAMPLED: True}, {SAMPLED: False}, {SAMPLED: "True"}, {PARENT: {"traceparent": THEIRS, "tracestate": "a=1, b=2"}}]
PLACES_IN_TRACES: list[dict[str, Any]] = [
    {PARENT: THEIRS},
    {PARENT: THEIRS, SAMPLED: True},
    *(
        {PARENT: {"traceparent": THEIRS, "tracestate": state}, **DETAILED}
        for state in ("a=1,airflow/task_span_detail_level=1", ",".join(f"k{n}={n}" for n in range(32)))
    ),
    *(
        {PARENT: {"traceparent": THEIRS, "tracestate": state}}
        for state in ("", "a=1,a=2", "a", "A=1", "t@v=1,,b=2", ",".join(f"k{n}={n}" for n in range(33)), 5)
    ),
    *(
        {PARENT: told}
        for told in (f"00-{'0' * 32}-{'b2' * 8}-01", f"{THEIRS}-more", THEIRS.upper(), {"tracestate": "a=1"}, 5, None)
    ),
    {PARENT: {"traceparent": f"01-{THEIRS[3:]}-more", "tracestate": "a=1"}},
]


CASES: list[Case] = [
    # --- triggered runs
    on("sample", "POST", RUN_IT, {}),
    on("sample", "POST", RUN_IT, {**WHEN, "conf": {"x": 4, "other": [1]}, "note": "noted"}, note="with a note"),
    on("sample", "POST", RUN_IT, {**WHEN, "logical_date": "2027-06-01T00:00:00Z"}, note="after every start"),
    *(
        on(f"sample, {name}", "POST", RUN_IT, _at(when), note=when, revisions=("3.3",))
        for name in _modules("timetables") if name != "a cron that never comes"
        for when in (FEB, MAR, OCT, *FOLDS.get(name, ()))
    ),
    # On 3.2 a run runs after now: what its interval is then, not masked as such, is the same for two servers all day.
    *(on(f"sample, {name}", "POST", RUN_IT, WHEN, revisions=("3.2",)) for name in DAILY),
    on("sample", "POST", RUN_IT, _at(FEB), note="run after a date that 3.2 does not take"),
    *(on("sample, assets and time", "POST", RUN_IT, _at(when), revisions=("3.4",)) for when in (FEB, MAR)),
    on("sample, a cron that never comes", "POST", RUN_IT, WHEN, differs=BETTER_REFUSAL, ours=400),
    on("sample, a cron that never comes", "POST", RUN_IT, {}),
    *(on(f"sample on Mars, {name}", "POST", RUN_IT, WHEN, differs=BETTER_REFUSAL, ours=400) for name in ASKED_ZONES),
    *(on(f"sample on Mars, {name}", "POST", RUN_IT, WHEN, differs=UNASKED, ours=204) for name in ZONED if name not in ASKED_ZONES),
    *(on(f"sample on Mars, {name}", "POST", RUN_IT, {}, differs=UNASKED, ours=204) for name in ZONED),
    on("sample on Mars, cron partitions", "POST", RUN_IT, {"partition_key": "2026-02-03 00:00"}, revisions=("3.3",), differs=BETTER_REFUSAL, ours=400),
    on("sample", "POST", f"/dag-runs/sample/{'r' * 250}", {}),
    on("sample", "POST", f"/dag-runs/sample/{'r' * 251}", {}, differs=BETTER_REFUSAL, ours=422),
    on("sample", "POST", RUN_IT, {"partition_key": "k" * 250}, note="250 long"),
    on("sample", "POST", RUN_IT, {"partition_key": "k" * 251}, note="251 long", revisions=("3.2",), differs=BETTER_REFUSAL, ours=400),
    on("sample, days", "POST", RUN_IT, {"partition_key": "k" * 251}, note="251 long", revisions=("3.3",)),
    *(on(f"sample, {name}", "POST", RUN_IT, WHEN) for name in (*_modules("tasks.py"), *_modules("pods.py"), "other defaults")),
    on("sample, many fields of 3.3", "POST", RUN_IT, WHEN, **NEW),
    *(
        on(f"sample, {name}", "POST", RUN_IT, body, note="dated")
        for name in _modules("dates")
        for body in ({}, *({"logical_date": when} for when in ("2025-06-01T00:00:00Z", "2026-01-01T00:00:00Z", FEB, "2026-07-01T00:00:00Z")))
        if name != "dates by default" or "2025" not in str(body)
    ),
    on("sample, dates by default", "POST", RUN_IT, {"logical_date": "2025-06-01T00:00:00Z"}, revisions=("3.3",)),
    *(on(f"sample, {name}", "POST", RUN_IT, {"conf": conf}) for name, confs in CONFS.items() for conf in confs),
    *(on(f"sample, {name}", "POST", RUN_IT, {"conf": conf}, differs=BETTER_REFUSAL, ours=400) for name, confs in INVALID.items() for conf in confs),
    on("sample", "POST", "/dag-runs/none/r1", {}),
    on("stale_sample", "POST", RUN_IT, {}),
    on("sample_with_import_errors", "POST", RUN_IT, {}),
    on("scheduled_only_sample", "POST", RUN_IT, {}),
    on("sample_that_ran", "POST", RUN_IT, {}),
    on("sample_that_ran", "POST", "/dag-runs/sample/r2", {"logical_date": "2026-01-01T00:00:00Z"}, differs=SAME_DATE, ours=409),
    on("sample", "POST", RUN_IT, {"logical_date": "2024-01-01T00:00:00Z"}, note="too early", revisions=("3.3",)),
    on("sample", "POST", RUN_IT, {"logical_date": "2024-01-01T00:00:00Z"}, note="too early", revisions=("3.2",), differs=BETTER_REFUSAL, ours=400),
    on("sample", "POST", RUN_IT, {"conf": {"x": 2}}, differs=BETTER_REFUSAL, ours=400),
    on("sample", "POST", "/dag-runs/sample/a%20b", {}, revisions=("3.3",)),
    on("sample", "POST", "/dag-runs/sample/a%20b", {}, revisions=("3.2",), differs=BETTER_REFUSAL, ours=400),
    *(on("sample", "POST", f"/dag-runs/sample/{run_id}", {}) for run_id in ("a..b", "operator_triggered__x", "manual__2026-01-01T00:00:00+00:00", "a%0A", "%0A", "a%0Ab")),
    *(on("sample", "POST", f"/dag-runs/sample/{run_id}", {}, revisions=("3.3",)) for run_id in ODD),
    *(on("sample", "POST", f"/dag-runs/sample/{run_id}", {}, revisions=("3.2",), differs=BETTER_REFUSAL, ours=400) for run_id in ODD),
    on("sample", "POST", RUN_IT, {"partition_key": "k"}, revisions=("3.3",)),
    *(on(f"sample, {name}", "POST", RUN_IT, {"partition_key": key}, revisions=("3.3",)) for name, keys in KEYS.items() for key in keys),
    *(on("sample, weeks", "POST", RUN_IT, {"partition_key": key}, revisions=("3.3",), differs=WORDS, ours=400) for key in ("2026-02-02", "2026-99-99")),
    on("sample, quarters", "POST", RUN_IT, {"partition_key": "2026-Q5"}, revisions=("3.3",), differs=WORDS, ours=400),
    on("sample, cron partitions with offsets", "POST", RUN_IT, {"partition_key": "2026-02-03T00:00:00+0100"}, revisions=("3.3",), differs=WORDS, ours=400),
    *(on(name, "POST", RUN_IT, {"partition_key": "2026-02-03"}, revisions=("3.2",)) for name in ("sample", "sample, cron partitions", "sample, days")),
    *(on(f"sample, {name}", "POST", RUN_IT, WHEN, revisions=since(name)) for name in WITH_DEADLINES.values() if "custom" not in name),
    on("sample, deadline of a custom reference", "POST", RUN_IT, WHEN, revisions=("3.3",), differs=BETTER_REFUSAL, ours=400),
    *(on(name, "POST", RUN_IT, WHEN) for name in AVERAGED),
    on("sample, deadline after its logical date", "POST", RUN_IT, {"partition_key": None}),
    *(
        on("sample", "POST", RUN_IT, {"conf": {"x": 5, "airflow/task_span_detail_level": level}}, note="traced")
        for level in (1, 2, 0, "2", "x", None, 1.5, True, [])
    ),
    *(on("sample", "POST", RUN_IT, {"conf": {"x": 5, **wishes}}, note="traced") for wishes in TRACES),
    *(
        on("sample", "POST", RUN_IT, {"conf": {"x": 5, **wishes}}, note=f"traced {number}", revisions=("3.4",))
        for number, wishes in enumerate(PLACES_IN_TRACES, start=1)
    ),
    on("sample", "POST", RUN_IT, {"unknown": 1}),
    on("sample", "POST", RUN_IT, {"conf": 1}),
    on("sample", "POST", RUN_IT, {}, token="none"),
    # --- cleared runs
    *(on(name, "POST", f"{RUN_IT}/clear", **NEW) for name in SETUPS if name.startswith("to_clear,")),
    *(
        on(name, "POST", f"{RUN_IT}/clear", revisions=(revision,), **({"differs": CLEARED_DEADLINES, "ours": 204} if revision == "3.3" else {}))
        for name in SETUPS if name.startswith("to_clear_with_a_")
        for revision in ("3.3", "3.4")
    ),
    on("to_clear, success", "POST", f"{RUN_IT}/clear", revisions=("3.2",)),
    on("to_clear, of a bundle version without a version", "POST", f"{RUN_IT}/clear", revisions=("3.2",)),
    *(on(name, "POST", f"{RUN_IT}/clear") for name in ("sample", "stale_sample", "sample_with_import_errors", "sample_that_ran")),
    on("sample", "POST", "/dag-runs/none/r1/clear"),
    on("to_clear, success", "POST", f"{RUN_IT}/clear", token="none"),
]  # fmt: skip
