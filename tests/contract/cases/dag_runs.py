"""Dags and runs."""

from __future__ import annotations

from typing import Any

from tests.contract.cases.case import Case, get
from tests.contract.cases.setups import setup
from tests.world import EPOCH, World


@setup
async def several_runs(world: World) -> Any:
    await world.dag("d", next_dagrun=EPOCH)
    for name in ("blue", "amber"):
        await world.insert("dag_tag", name=name, dag_id="d")
    ti = None
    for number, state in enumerate(("success", "failed", "success", "running")):
        date = EPOCH.replace(day=1 + number)
        await world.run(
            "d",
            f"run{number}",
            logical_date=date,
            run_after=date,
            state=state,
            conf={"n": number},
            end_date=None if state == "running" else date.replace(hour=1),
            note="noted" if number == 2 else None,
        )
        ti = await world.running("d", "job", f"run{number}", state="success" if number < 3 else "running", duration=1.5)
        await world.ti("d", "other", f"run{number}", state=("failed", None, "skipped", "queued")[number])
        await world.ti("d", "mapped", f"run{number}", map_index=0, state="success")
        await world.ti("d", "mapped", f"run{number}", map_index=1, state="upstream_failed")
    return ti


@setup
async def wide(world: World) -> Any:
    ti = await world.one_running("d")
    await world.dag("wide")
    await world.serialized("wide", [{"__var": {"task_id": f"t{number}"}, "__type": "operator"} for number in range(50)])
    return ti


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
