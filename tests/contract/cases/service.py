"""The service itself, and API dates."""

from __future__ import annotations

from tests.contract.cases.case import (
    AE,
    DEFER,
    ENTER,
    NEW,
    OLD_DATES,
    OLD_EVENTS,
    OLD_TIMES,
    OUT,
    PING,
    RUN_IT,
    TI,
    Case,
    X,
    get,
    on,
    run,
)
from tests.contract.cases.setups import SETUPS

CASES: list[Case] = [
    # --- a path with a newline, which is no path
    *(
        on("variables", method, path, *body)
        for method, path, *body in (
            ("GET", "/variables/clear%0A"),
            ("GET", "/variables/%0Aclear"),
            ("PUT", "/variables/a%0Ab", {"value": "v"}),
            ("POST", "/xcoms/d/manual__1/job/k%0A", 1),
            ("GET", "/dag-runs/d/manual__1/state%0A"),
            ("GET", "/health%0A"),
            ("GET", "%0A/health"),
        )
    ),
    on("variables", "GET", "/variables/clear%0A", headers={"Airflow-API-Version": "2025-04-28"}, note="2025-04-28"),
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
    *(on("sample", "POST", RUN_IT, {"note": "noted"}, headers={"Airflow-API-Version": d}, note=d, **NEW) for d in OLD_DATES),
    *(
        on("asset_events", "GET", f"{AE}?name=a&uri=", headers={"Airflow-API-Version": date}, note=date,
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
            ("queued", "PATCH", f"{TI}/run", ENTER),
            ("queued_early", "PATCH", f"{TI}/run", ENTER),
            ("queued_with_a_null_conf", "PATCH", f"{TI}/run", ENTER),
            ("resuming", "PATCH", f"{TI}/run", ENTER),
            ("resuming_with_types", "PATCH", f"{TI}/run", ENTER),
            ("resuming_with_a_class", "PATCH", f"{TI}/run", ENTER),
            ("resuming_from_before", "PATCH", f"{TI}/run", ENTER),
            ("triggered_by_assets", "PATCH", f"{TI}/run", ENTER),
            ("several_runs", "GET", "/dag-runs/d/run1"),
            ("several_runs", "GET", "/dag-runs/d/run1/state"),
            ("several_runs", "GET", "/dags/d"),
            ("with_xcoms", "GET", f"{X}/job/early_only?include_prior_dates=true"),
            ("running", "PATCH", f"{TI}/state", {**OUT, "rendered_map_index": "label"}),
            ("running", "PATCH", f"{TI}/state", DEFER),
            ("many_variables", "GET", "/variables/keys"),
            ("sample", "POST", RUN_IT, {"note": "noted"}),
            ("sample", "POST", RUN_IT, {"run_after": "2026-02-03T04:05:06Z"}),
        )
    ),
    run("resuming with more types, before", "resuming_with_more_types", headers={"Airflow-API-Version": "2025-11-05"}),
    *(
        run(f"{name}, before", name, headers={"Airflow-API-Version": "2025-11-05"}, revisions=("3.4",))
        for name in SETUPS
        if name.startswith(("resuming_with_a_", "resuming_from_before,"))
    ),
    get("correlation id", "/health", headers={"correlation-id": "abc"}),
]  # fmt: skip
