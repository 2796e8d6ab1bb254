"""Airflow 3.2.0 to 3.2.2."""

from __future__ import annotations

from app.releases.revision import Revision

AIRFLOW_3_2 = Revision(
    name="3.2",
    alembic_version="1d6611b6ab7c",
    newest_api_date="2026-04-06",
    missing_columns={
        "task_instance": frozenset({"retry_delay_override", "retry_reason"}),
        "task_instance_history": frozenset({"retry_delay_override", "retry_reason"}),
        "trigger": frozenset({"team_name"}),
        "xcom": frozenset({"dag_result"}),
        "asset_partition_dag_run": frozenset({"partition_date", "rollup_fingerprint"}),
        "task_outlet_asset_reference": frozenset({"allow_consumer_teams", "allow_global_consumers"}),
        "dag_schedule_asset_reference": frozenset({"allow_producer_teams", "allow_global_producers"}),
    },
    workload_tokens=False,
    archived_rtif_is_gone=False,
    retry_keeps_end_date=False,
    resume_tells_start=False,
    xcoms_belong_to_teams=False,
    event_per_emission=False,
    triggered_run_type="manual",
    triggered_runs_inherit_user=False,
    clearing_may_move_versions=False,
    partitions_have_dates=False,
    run_ids_without_double_dots=False,
    conf_tells_span_detail=False,
    assets_know_teams=False,
    average_of_successes=False,
    callbacks_have_bundles=False,
    sampled_flag="01",
    state_stores=False,
    variables_keep_their_team=False,
    pod_yaml_is_json_null=False,
)
