"""The Dag ``d`` with a loop, and one that tasks trigger: what it repeats, and who reads of it outside."""

from __future__ import annotations

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task, task_group


def enough(*, loop):
    return loop.index == 1


def looping(dag_id: str, **loop) -> DAG:
    with DAG(dag_id, schedule=None) as dag:

        @task_group
        def again():
            @task
            def numbers():
                return [1, 2]

            @task
            def double(number):
                return 2 * number

            BashOperator.partial(task_id="literal").expand(bash_command=["1", "2"]) >> double.expand(number=numbers())

        before = EmptyOperator(task_id="job", retries=2)
        group = again.loop(max_iterations=3, **loop)
        before >> group >> EmptyOperator(task_id="after")
        BashOperator.partial(task_id="mapped").expand(bash_command=["1", "2"])
    return dag


DAGS = {
    "served, with a loop": looping("d", until=enough),
    "served, with a loop that is counted": looping("d"),
    "with a loop": looping("sample", until=enough),
}
