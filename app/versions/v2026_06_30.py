"""API date 2026-06-30, with Airflow 3.3 and Task SDK 1.3."""

from __future__ import annotations

from typing import Any

from app.schemas.dag_runs import AssetEventDagRunReference, DagRun
from app.schemas.task_instances import TIAwaitingInputStatePayload, TIRetryStatePayload
from app.versions.changes import Change, Version

DAG_RUN_ROUTES = ("get_dag_run", "get_previous_dagrun")


def _without(*names: str) -> Any:
    def downgrade(dag_run: dict[str, Any]) -> None:
        for name in names:
            dag_run.pop(name, None)

    return downgrade


def _context_without(*names: str) -> Any:
    def downgrade(context: dict[str, Any]) -> None:
        _without(*names)(context["dag_run"])

    return downgrade


def _events_without_partition_key(context: dict[str, Any]) -> None:
    for event in context["dag_run"]["consumed_asset_events"]:
        event.pop("partition_key", None)


VERSION = Version(
    "2026-06-30",
    (
        Change(
            "Task instances may wait for a person's input, without a trigger",
            added_fields={
                TIAwaitingInputStatePayload: ("state", "timeout", "next_method", "next_kwargs", "rendered_map_index")
            },
        ),
        Change(
            "A retry may carry the delay and the reason that a retry policy chose",
            added_fields={TIRetryStatePayload: ("retry_delay_seconds", "retry_reason")},
        ),
        Change(
            "Dag runs tell their team",
            added_fields={DagRun: ("team_name",)},
            downgrades={"ti_run": _context_without("team_name"), **dict.fromkeys(DAG_RUN_ROUTES, _without("team_name"))},
        ),
        Change(
            "Dag runs tell the date of their partition",
            added_fields={DagRun: ("partition_date",)},
            downgrades={
                "ti_run": _context_without("partition_date"),
                **dict.fromkeys(DAG_RUN_ROUTES, _without("partition_date")),
            },
        ),
        Change(
            "Consumed asset events tell their partition key",
            added_fields={AssetEventDagRunReference: ("partition_key",)},
            downgrades={"ti_run": _events_without_partition_key},
        ),
    ),
)
