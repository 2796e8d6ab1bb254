"""API date 2026-06-30, with Airflow 3.3 and Task SDK 1.3."""

from __future__ import annotations

from typing import Any

from app.schemas.dag_runs import AssetEventDagRunReference, DagRun, TriggerDAGRunPayload
from app.schemas.documented import TaskInstance
from app.schemas.task_instances import TIAwaitingInputStatePayload, TIRetryStatePayload
from app.versions.changes import NEVER, Change, Version, context_without, without

DAG_RUN_ROUTES = ("get_dag_run", "get_previous_dagrun")


def _events_without_partition_key(context: dict[str, Any]) -> None:
    for event in context["dag_run"]["consumed_asset_events"]:
        event.pop("partition_key", None)


VERSION = Version(
    "2026-06-30",
    (
        Change("The keys of variables can be listed", added_operations=frozenset({"get_variable_keys"})),
        Change("The assets of an alias can be read", added_operations=frozenset({"get_assets_by_alias"})),
        Change(
            "Workers test connections",
            added_operations=frozenset({"get_connection_test_connection", "patch_connection_test"}),
        ),
        Change(
            "Tasks and assets keep values between tries",
            added_operations=frozenset(
                f"{verb}_{kind}_state_store{by}"
                for verb in ("get", "set", "delete", "clear")
                for kind, ways in (("task", ("",)), ("asset", ("_by_name", "_by_uri")))
                for by in ways
            ),
        ),
        Change(
            "Dag runs tell their team",
            added_fields={DagRun: ("team_name",)},
            downgrades={"ti_run": context_without("team_name"), **dict.fromkeys(DAG_RUN_ROUTES, without("team_name"))},
        ),
        Change(
            "Dag runs tell the date of their partition",
            added_fields={DagRun: ("partition_date",)},
            downgrades={
                "ti_run": context_without("partition_date"),
                **dict.fromkeys(DAG_RUN_ROUTES, without("partition_date")),
            },
        ),
        Change(
            "Consumed asset events tell their partition key",
            added_fields={AssetEventDagRunReference: ("partition_key",)},
            downgrades={"ti_run": _events_without_partition_key},
        ),
        Change(
            "A triggered run may have to wait",
            added_fields={TriggerDAGRunPayload: ("run_after",)},
            by_date_since=NEVER,
        ),
        Change(
            "Task instances may wait for a person's input, without a trigger",
            added_fields={
                TIAwaitingInputStatePayload: ("state", "timeout", "next_method", "next_kwargs", "rendered_map_index")
            },
            by_date_since="2026-10-30",  # the server of Airflow 3.4
        ),
        Change(
            "A retry may carry the delay and the reason that a retry policy chose",
            added_fields={TIRetryStatePayload: ("retry_delay_seconds", "retry_reason")},
            by_date_since="2026-10-30",
        ),
        Change("Executors tell workers the queue", added_fields={TaskInstance: ("queue",)}, by_date_since="2026-10-30"),
    ),
)
