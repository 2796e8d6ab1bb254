"""Trigger a run of each Dag given on the command line; run by Airflow's own Python."""

import sys
from datetime import UTC, datetime

from airflow.api.common.trigger_dag import trigger_dag
from airflow.utils.types import DagRunTriggeredByType

if __name__ == "__main__":
    logical_date = datetime(2026, 2, 1, tzinfo=UTC)
    for dag_id in sys.argv[1:]:
        trigger_dag(
            dag_id=dag_id,
            triggered_by=DagRunTriggeredByType.CLI,
            triggering_user_name="tests",
            run_id="manual__e2e",
            logical_date=logical_date,
            conf={},
        )
