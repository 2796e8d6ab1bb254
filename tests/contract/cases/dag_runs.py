"""Dags and runs."""

from __future__ import annotations

from tests.contract.cases.case import Case, get

CASES: list[Case] = [
    get("dag", "/dags/d", "several_runs"),
    get("dag unknown", "/dags/nope"),
    get("dag run", "/dag-runs/d/run2", "several_runs"),
    get("dag run unknown", "/dag-runs/d/nope"),
    get("dag run under the older date", "/dag-runs/d/run2", "several_runs", headers={"Airflow-API-Version": "2026-04-06"}),
    get("dag run state", "/dag-runs/d/run1/state", "several_runs"),
    get("dag run state unknown", "/dag-runs/d/nope/state"),
    get("dag run count", "/dag-runs/count?dag_id=d", "several_runs"),
    get("dag run count by all", "/dag-runs/count?dag_id=d&states=success&run_ids=run0&run_ids=run1&logical_dates=2026-01-01T00:00:00Z", "several_runs"),
    get("previous run", "/dag-runs/previous?dag_id=d&logical_date=2026-01-04T00:00:00Z", "several_runs"),
    get("previous run in a state", "/dag-runs/previous?dag_id=d&logical_date=2026-01-04T00:00:00Z&state=failed", "several_runs"),
    get("previous run of none", "/dag-runs/previous?dag_id=d&logical_date=2020-01-01T00:00:00Z", "several_runs"),
    get("previous run without a date", "/dag-runs/previous?dag_id=d", "several_runs"),
    get("previous run bad state", "/dag-runs/previous?dag_id=d&logical_date=2026-01-04T00:00:00Z&state=x", "several_runs"),
]  # fmt: skip
