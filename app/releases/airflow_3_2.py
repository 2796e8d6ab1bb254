"""Airflow 3.2.0 to 3.2.2."""

from __future__ import annotations

from app.db.rendered_fields import RenderedFieldsOfRuns
from app.db.schema import Schema
from app.db.storage import Storage
from app.db.tries import HistoryTries
from app.db.xcoms import XComsOfRuns
from app.releases.revision import Assets, Deadlines, Revision, Runs, Tasks, Teams, XComs

_SCHEMA = Schema(
    missing={
        "task_instance": {"retry_delay_override", "retry_reason"},
        "task_instance_history": {"retry_delay_override", "retry_reason"},
        "trigger": {"team_name"},
        "xcom": {"dag_result"},
        "asset_partition_dag_run": {"partition_date", "rollup_fingerprint"},
    }
)
_TRIES = HistoryTries(_SCHEMA, keep_end_dates=False)

AIRFLOW_3_2 = Revision(
    name="3.2",
    alembic_version="1d6611b6ab7c",
    newest_api_date="2026-04-06",
    storage=Storage(_SCHEMA, _TRIES, XComsOfRuns(_SCHEMA), RenderedFieldsOfRuns(_SCHEMA, _TRIES, pod_yaml=None)),
    tasks=Tasks(
        start_with_workload_tokens=False,
        archived_rtif_is_gone=False,
        resume_tells_start=False,
        state_stores=False,
        cleared_end_first=False,
        starts_tell_wait=False,
        bare_ids_skip_all=False,
        reschedules_by_time=False,
    ),
    runs=Runs(
        triggered_type="manual",
        inherit_user=False,
        ids_without_double_dots=False,
        conf_tells_span_detail=False,
        conf_tells_trace=False,
        sampled_flag="01",
        clearing_may_move_versions=False,
        moving_verifies=False,
        empty_maps_are_skipped=False,
        conf_is_plain=False,
        intervals_have_length=False,
    ),
    xcoms=XComs(of_tries=False),
    deadlines=Deadlines(
        average_of_successes=False,
        callbacks_have_bundles=False,
        callbacks_stay_encoded=False,
        bad_ones_are_left_out=False,
    ),
    assets=Assets(event_per_emission=False, partitions_have_dates=False),
    teams=Teams(own_xcoms=False, own_assets=False, keep_variables=False),
)
