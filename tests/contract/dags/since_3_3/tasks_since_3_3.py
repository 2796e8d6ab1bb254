"""What tasks, groups and assets can say of themselves since 3.3."""

from __future__ import annotations

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, AssetAccessControl, ExceptionRetryPolicy, RetryAction, RetryRule, TaskGroup

POLICY = ExceptionRetryPolicy(rules=[RetryRule(exception=ValueError, action=RetryAction.FAIL)])
GUARDED = Asset("guarded", access_control=AssetAccessControl(producer_teams=["a"], consumer_teams=["b"], allow_global=False))


def of_many_fields() -> DAG:
    with DAG("sample", schedule=[GUARDED], default_args={"retry_policy": POLICY}) as dag:
        EmptyOperator(task_id="job", outlets=[GUARDED])
        BashOperator.partial(task_id="mapped", retry_policy=POLICY).expand(bash_command=["1"])
        with TaskGroup("g", doc_md="*told*"):
            EmptyOperator(task_id="inside", render_template_as_native_obj=True)
    return dag


DAGS = {"many fields of 3.3": of_many_fields()}
