"""Start and end dates: on the Dag, among its default arguments, on tasks, on mapped tasks."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pendulum
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

EARLY, LATE = pendulum.datetime(2026, 1, 1), pendulum.datetime(2026, 6, 1, tz="Europe/Paris")


def dated(**dates: Any) -> DAG:
    """Return a Dag with a task that says nothing, tasks that say their own, and mapped ones of both kinds."""
    with DAG("sample", schedule=None, **dates) as dag:
        EmptyOperator(task_id="inherits")
        EmptyOperator(task_id="earlier", start_date=pendulum.datetime(2020, 1, 1))
        EmptyOperator(task_id="later", end_date=pendulum.datetime(2030, 1, 1))
        EmptyOperator(task_id="short", start_date=EARLY, end_date=pendulum.datetime(2026, 2, 1))
        BashOperator.partial(task_id="mapped").expand(bash_command=["1", "2"])
        BashOperator.partial(task_id="mapped_short", start_date=EARLY, end_date=pendulum.datetime(2026, 2, 1)).expand(
            bash_command=["1", "2"]
        )
        BashOperator.partial(task_id="mapped_wide", start_date=pendulum.datetime(2020, 1, 1)).expand(bash_command=["1"])
    return dag


DAGS = {
    "dates of the Dag": dated(start_date=EARLY, end_date=LATE),
    "a start of the Dag": dated(start_date=EARLY),
    "an end of the Dag": dated(end_date=LATE),
    "dates by default": dated(default_args={"start_date": EARLY, "end_date": LATE}),
    "no dates": dated(),
    "a naive start": dated(start_date=datetime(2026, 1, 1)),
}
