"""What a supported revision of Airflow's metadata database says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Revision:
    """One supported revision of Airflow's metadata database.

    :param name: the Airflow minor release that made it.
    :param alembic_version: ``alembic_version.version_num`` of a database at this revision.
    :param newest_api_date: the newest API date that Airflow's own server of this revision serves.
    :param missing_columns: columns of our tables (see ``app.db.tables``) that this revision does not have yet.
    :param workload_tokens: whether ``/run`` takes a token of scope ``workload`` and swaps it.
    :param archived_rtif_is_gone: whether rendered fields for an archived try are refused with 410 instead of 404.
    :param retry_keeps_end_date: whether a failed try ends when the worker says, and not when the server hears of it.
    :param resume_tells_start: whether a task that resumes from a deferral is told when it first started.
    :param xcoms_belong_to_teams: whether XComs are kept apart by team in multi-team mode.
    :param event_per_emission: whether a task may emit several events, each with its own partition key, for one asset.
    :param triggered_run_type: the type of the runs that tasks trigger.
    :param triggered_runs_inherit_user: whether they are told to be triggered by whoever triggered the run of the task.
    :param clearing_may_move_versions: whether a run that is cleared may move to its Dag's newest version.
    :param partitions_have_dates: whether a triggered run is told which day its partition stands for.
    :param average_of_successes: whether deadlines by average runtime look at successful runs only.
    :param callbacks_have_bundles: whether the callbacks of deadlines name their Dag's bundle.
    :param run_ids_without_double_dots: whether the id of a run that is made must not hold ``..``.
    :param conf_tells_span_detail: whether a run's conf may ask for more spans of its tasks.
    :param assets_know_teams: whether, in multi-team mode, producers and consumers of an asset say for which teams they are.
    :param sampled_flag: the W3C trace flags of runs that are made, without an opinion of a tracer.
    :param state_stores: whether tasks and assets have state stores.
    :param variables_keep_their_team: whether a variable that is set again stays its team's, whoever sets it.
    :param pod_yaml_is_json_null: whether rendered fields without a pod store JSON's null instead of SQL's.
    """

    name: str
    alembic_version: str
    newest_api_date: str
    missing_columns: Mapping[str, frozenset[str]] = field(default_factory=dict)
    workload_tokens: bool = True
    archived_rtif_is_gone: bool = True
    retry_keeps_end_date: bool = True
    resume_tells_start: bool = True
    xcoms_belong_to_teams: bool = True
    event_per_emission: bool = True
    triggered_run_type: str = "operator_triggered"
    triggered_runs_inherit_user: bool = True
    clearing_may_move_versions: bool = True
    partitions_have_dates: bool = True
    average_of_successes: bool = True
    callbacks_have_bundles: bool = True
    run_ids_without_double_dots: bool = True
    conf_tells_span_detail: bool = True
    assets_know_teams: bool = True
    sampled_flag: str = "00"
    state_stores: bool = True
    variables_keep_their_team: bool = True
    pod_yaml_is_json_null: bool = True

    def has_column(self, table: str, column: str) -> bool:
        return column not in self.missing_columns.get(table, ())

    def known(self, table: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``values`` without the columns that ``table`` lacks at this revision."""
        missing = self.missing_columns.get(table)
        return {name: value for name, value in values.items() if not missing or name not in missing}
