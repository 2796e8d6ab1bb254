"""API date 2026-04-06, with Airflow 3.2 and Task SDK 1.2."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from app.dags.base_serialization import Unknown, converted, wrapped
from app.routes.rendering import RawJson, any_json
from app.schemas.assets import AssetEventResponse, DagRunAssetReference
from app.schemas.dag_runs import DagRun
from app.schemas.task_instances import TIDeferredStatePayload, TIRunContext
from app.schemas.values import JsonbObject, UtcDateTime
from app.versions.changes import Change, Version, context_without, without

FAILS = "__fail__"  # the method of a task whose trigger failed


def _value(next_kwargs: Any) -> Any:
    """Return a deferred task's arguments.

    :param next_kwargs: JSON, or its text as a :class:`RawJson`.
    """
    return json.loads(next_kwargs.text) if isinstance(next_kwargs, RawJson) else next_kwargs


def _start_date_is_a_time(dag_run: dict[str, Any]) -> None:
    """A run that has not started yet tells the time after which it may."""
    if dag_run["start_date"] is None:
        dag_run["start_date"] = dag_run["run_after"]


def _next_kwargs_in_the_old_serialization(context: dict[str, Any]) -> None:
    if (next_kwargs := context.get("next_kwargs")) is not None:
        with suppress(Unknown, KeyError, TypeError, AttributeError):
            context["next_kwargs"] = any_json(converted(_value(next_kwargs)))


def _unreadable_next_kwargs_fail_the_task(context: dict[str, Any]) -> None:
    """A task whose arguments have no older form fails with the reason, as if its trigger had failed."""
    try:
        converted(_value(context.get("next_kwargs")))
    except Unknown as what:
        error = (
            f"The deferred task cannot be resumed: its next_kwargs hold {what}, "
            "which cannot be sent to this worker's Task SDK version. Upgrade the Task SDK on the worker."
        )
        context |= {"next_method": FAILS, "next_kwargs": any_json(wrapped({"error": error}))}
    except (KeyError, TypeError, AttributeError):
        pass


def _no_upstream_map_indexes(context: dict[str, Any]) -> None:
    context["upstream_map_indexes"] = None


def _events_without_partition_key(events: dict[str, Any]) -> None:
    for event in events["asset_events"]:
        event.pop("partition_key", None)


VERSION = Version(
    "2026-04-06",
    (
        Change(
            "Runs and asset events have partition keys",
            added_fields={
                DagRun: ("partition_key",),
                AssetEventResponse: ("partition_key",),
                DagRunAssetReference: ("partition_key",),
            },
            downgrades={
                "ti_run": context_without("partition_key"),
                "get_asset_event_by_asset_name_uri": _events_without_partition_key,
                "get_asset_event_by_asset_alias": _events_without_partition_key,
            },
        ),
        Change(
            "The previous run is found below /dag-runs/previous, and a run can be read",
            added_operations=frozenset({"get_dag_run"}),
            moved_operations={"get_previous_dagrun": ("/{dag_id}/previous", "get_previous_dagrun_compat")},
        ),
        Change(
            "A run that has not started has no start date",
            changed_fields={DagRun: {"start_date": UtcDateTime}},
            downgrades={"ti_run": lambda context: _start_date_is_a_time(context["dag_run"])},
        ),
        Change(
            "Arguments of deferred tasks that have no older form",
            downgrades={"ti_run": _unreadable_next_kwargs_fail_the_task},
            by_date_since="2026-10-30",  # the server of Airflow 3.4; older ones send them as they are
        ),
        Change(
            "The arguments of deferred tasks are JSON",
            downgrades={"ti_run": _next_kwargs_in_the_old_serialization},
        ),
        Change(
            "The documents say so of those that are reported",
            changed_fields={TIDeferredStatePayload: {"trigger_kwargs": dict[str, Any] | str, "next_kwargs": JsonbObject}},
            by_date_since="2026-10-30",  # the server of Airflow 3.4
        ),
        Change(
            "The Task SDK finds upstream map indexes itself",
            removed_fields={TIRunContext: {"upstream_map_indexes": dict[str, int | list[int] | None] | None}},
            downgrades={"ti_run": _no_upstream_map_indexes},
        ),
        Change(
            "Runs have notes",
            added_fields={DagRun: ("note",)},
            downgrades={"ti_run": context_without("note")},
        ),
        Change(
            "A task that resumes is told when it first started",
            added_fields={TIRunContext: ("start_date",)},
            downgrades={"ti_run": without("start_date")},
        ),
        Change("Dags can be read", added_operations=frozenset({"get_dag"})),
    ),
)
