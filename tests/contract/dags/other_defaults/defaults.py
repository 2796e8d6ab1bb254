"""Tasks that say nothing, where the configuration says what tasks have by default: it is serialized once for all of them."""

from __future__ import annotations

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

with DAG("sample", schedule=None) as dag:
    EmptyOperator(task_id="silent") >> EmptyOperator(task_id="own", retries=1, queue="own", weight_rule="downstream")
    EmptyOperator(task_id="of_airflow", retries=0, queue="default")
    BashOperator.partial(task_id="mapped").expand(bash_command=["1", "2"])
    BashOperator.partial(task_id="mapped_own", retries=1, queue="own").expand(bash_command=["1", "2"])

DAGS = {"other defaults": dag}
