"""Runs that tasks trigger and clear."""

from __future__ import annotations

from tests.contract.cases.case import (
    BETTER_REFUSAL,
    CLEARED_DEADLINES,
    MAR,
    NEW,
    OCT,
    RUN_IT,
    SAME_DATE,
    WHEN,
    WORDS,
    Case,
    on,
)
from tests.contract.cases.setups import KEYS, SETUPS, TIMETABLES, WITH_DEADLINES, WITH_DEADLINES_SINCE_3_3

CASES: list[Case] = [
    # --- triggered runs
    on("sample", "POST", RUN_IT, {}),
    on("sample", "POST", RUN_IT, {**WHEN, "conf": {"x": 4, "other": [1]}, "note": "noted"}, note="with a note"),
    on("sample", "POST", RUN_IT, {**WHEN, "logical_date": "2027-06-01T00:00:00Z"}, note="after every start"),
    *(
        on(f"sample, {name}", "POST", RUN_IT, {"logical_date": when, "run_after": when}, note=when)
        for name in TIMETABLES
        for when in ("2026-02-03T04:05:06Z", MAR, OCT)
    ),
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
    on("sample", "POST", "/dag-runs/sample/a..b", {}, revisions=("3.3",)),
    on("sample", "POST", "/dag-runs/sample/a%20b", {}, revisions=("3.2",), differs=BETTER_REFUSAL, ours=400),
    on("sample", "POST", RUN_IT, {"partition_key": "k"}, revisions=("3.3",)),
    *(on(name, "POST", RUN_IT, {"partition_key": key}, revisions=("3.3",)) for name, (_, keys) in KEYS.items() for key in keys),
    *(on("sample by partitions, weeks", "POST", RUN_IT, {"partition_key": key}, revisions=("3.3",), differs=WORDS, ours=400) for key in ("2026-02-02", "2026-99-99")),
    on("sample by partitions, quarters", "POST", RUN_IT, {"partition_key": "2026-Q5"}, revisions=("3.3",), differs=WORDS, ours=400),
    *(on(name, "POST", RUN_IT, {"partition_key": "2026-02-03"}, revisions=("3.2",)) for name in ("sample", "sample by cron partitions", "sample by partitions, days")),
    *(on(f"sample, deadline {name}", "POST", RUN_IT, WHEN) for name in WITH_DEADLINES),
    *(on(f"sample, deadline {name}", "POST", RUN_IT, WHEN, revisions=("3.3",)) for name in WITH_DEADLINES_SINCE_3_3),
    on("sample, deadline after its logical date", "POST", RUN_IT, {"partition_key": None}),
    on("sample", "POST", RUN_IT, {"unknown": 1}),
    on("sample", "POST", RUN_IT, {"conf": 1}),
    on("sample", "POST", RUN_IT, {}, token="none"),
    # --- cleared runs
    *(on(name, "POST", f"{RUN_IT}/clear", **NEW) for name in SETUPS if name.startswith("to_clear,")),
    on("to_clear_with_a_serialized_deadline", "POST", f"{RUN_IT}/clear", **NEW, differs=CLEARED_DEADLINES, ours=204),
    on("to_clear, success", "POST", f"{RUN_IT}/clear", revisions=("3.2",)),
    *(on(name, "POST", f"{RUN_IT}/clear") for name in ("sample", "stale_sample", "sample_with_import_errors", "sample_that_ran")),
    on("sample", "POST", "/dag-runs/none/r1/clear"),
    on("to_clear, success", "POST", f"{RUN_IT}/clear", token="none"),
]  # fmt: skip
