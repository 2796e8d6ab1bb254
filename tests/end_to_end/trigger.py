"""Trigger a run of each Dag given on the command line, ``DAG=KEY`` for a partition; run by Airflow's own Python."""

import sys
from datetime import UTC, datetime

from airflow.api.common.trigger_dag import trigger_dag
from airflow.utils.types import DagRunTriggeredByType

if __name__ == "__main__":
    dated = {"run_id": "manual__e2e", "logical_date": datetime(2026, 2, 1, tzinfo=UTC)}
    for given in sys.argv[1:]:
        dag_id, _, key = given.partition("=")
        run = {"run_id": f"manual__{key.replace('|', '~')}", "partition_key": key} if key else dated
        trigger_dag(dag_id=dag_id, triggered_by=DagRunTriggeredByType.CLI, triggering_user_name="tests", conf={}, **run)
