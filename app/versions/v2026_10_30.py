"""API date 2026-10-30, with Airflow 3.4 and Task SDK 1.4.

What its server does at every date is here too: a document of an older date differs by the server that serves it.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from fastapi import Depends, Query

from app.db.xcoms import XComKey
from app.routes import ROUTERS
from app.routes.xcoms import MAPPED_LENGTH, countable_key
from app.schemas.assets import DagRunAssetReference
from app.schemas.documented import BundleInfo, TaskInstance
from app.schemas.task_instances import (
    PreviousTIResponse,
    TerminalStateNonSuccess,
    TIRunContext,
    TISuccessStatePayload,
    TITerminalStatePayload,
)
from app.schemas.values import Integer
from app.schemas.xcoms import GetXcomFilterParams, GetXComSliceFilterParams
from app.tasks.attempts import require_live
from app.versions.changes import NEVER, Change, Version, without

EVENTS = ("get_asset_event_by_asset_name_uri", "get_asset_event_by_asset_alias")
XCOMS = ("head_xcom", "get_xcom", "set_xcom", "delete_xcom", "get_mapped_xcom_by_index", "get_mapped_xcom_by_slice")
REGION = ("region_id", "region_index")
# These find the task instance by its id anyway, or have none.
LOOK_THEMSELVES = {
    "ti_run",
    "ti_heartbeat",
    "ti_update_state",
    "ti_put_rtif",
    "ti_patch_rendered_map_index",
    "update_dag_run_note",
    "patch_connection_test",
    "run_callback",
}
WRITES = [
    operation.name
    for _, _, router in ROUTERS
    for operation in router.declared
    if not {"GET", "HEAD"}.issuperset(operation.methods) and operation.name not in LOOK_THEMSELVES
]
EndsBefore = StrEnum(  # type: ignore[misc]  # its members are not written out
    TerminalStateNonSuccess.__name__,
    {end.name: end.value for end in TerminalStateNonSuccess if end != TerminalStateNonSuccess.SERVER_TERMINATED},
)


VERSION = Version(
    "2026-10-30",
    (
        Change(
            "A task is told of the loop that it is in",
            added_fields={TIRunContext: ("loop",)},
            downgrades={"ti_run": without("loop")},
        ),
        Change(
            "A task in another language is told its arguments",
            added_fields={TIRunContext: ("arg_bindings",)},
            downgrades={"ti_run": without("arg_bindings")},
        ),
        Change(
            "Workers are told whether teams are kept apart",
            added_fields={TIRunContext: ("multi_team",)},
            downgrades={"ti_run": without("multi_team")},
        ),
        Change(
            "A sensor is told when it was first rescheduled",
            added_fields={TIRunContext: ("first_task_reschedule_start_date",)},
            downgrades={"ti_run": without("first_task_reschedule_start_date")},
        ),
        Change(
            "Task instances have a region and a place in it",
            added_fields={PreviousTIResponse: REGION, TaskInstance: REGION},
            downgrades={"get_previous_task_instance": without(*REGION)},
        ),
        Change(
            "The gate of a loop tells what it decided",
            added_fields={TISuccessStatePayload: ("loop_decision",), TITerminalStatePayload: ("loop_decision",)},
        ),
        Change(
            "A failure may carry the reason why it is not tried again",
            added_fields={TITerminalStatePayload: ("retry_reason",)},
            idle_fields={TITerminalStatePayload: ("retry_reason",)},
        ),
        Change(
            "A worker tells that a process which the server ended is dead",
            added_fields={TITerminalStatePayload: ("hostname", "pid")},
            idle_fields={TITerminalStatePayload: ("hostname", "pid")},
            changed_fields={TITerminalStatePayload: {"state": EndsBefore}},
        ),
        Change("A try that was archived changes nothing any more", guards=dict.fromkeys(WRITES, require_live)),
        Change("Callbacks are started with a token of their own", added_operations=frozenset({"run_callback"})),
        Change("A task may write the note of its run", added_operations=frozenset({"update_dag_run_note"})),
        Change(
            "The run that an asset event made may not have started",
            changed_fields={DagRunAssetReference: {"start_date": datetime}},
            by_date_since=NEVER,
        ),
        Change("Bundles tell more of their version", added_fields={BundleInfo: ("version_data",)}, by_date_since=NEVER),
        Change(
            "Asset events are found by what they say and by their partition",
            added_parameters=dict.fromkeys(EVENTS, ("extra", "partition_key", "partition_key_regexp_pattern")),
            by_date_since=NEVER,
        ),
        Change(
            "In a loop, the XCom of the pass before can be read",
            added_fields=dict.fromkeys((GetXcomFilterParams, GetXComSliceFilterParams), ("previous_iteration",)),
            added_parameters=dict.fromkeys(("head_xcom", "get_mapped_xcom_by_index"), ("previous_iteration",)),
            by_date_since=NEVER,
        ),
        Change(
            "XComs have keys, and lengths that are none below zero",
            changed_parameters={
                "head_xcom": {"key": Annotated[XComKey, Depends(countable_key)]},
                "set_xcom": {"mapped_length": Annotated[Integer | None, Query(description=MAPPED_LENGTH)]},
            },
            by_date_since=NEVER,
        ),
        Change(
            "The ids of connections may have slashes",
            moved_operations={"get_connection": ("/{connection_id}", "get_connection")},
            by_date_since=NEVER,
        ),
        Change(
            "The documents tell more of what may be refused",
            added_refusals={
                **dict.fromkeys(XCOMS, (400, 409)),
                "ti_skip_downstream": (400, 409),
                "get_task_instance_count": (404, 409),
                "get_task_instance_states": (404, 409),
                "get_previous_task_instance": (409,),
                "ti_update_state": (410,),
                "ti_run": (500,),
                "get_asset_event_by_asset_name_uri": (400,),
                "get_hitl_detail": (404,),
                "update_hitl_detail": (404, 409),
            },
            by_date_since=NEVER,
        ),
    ),
)
