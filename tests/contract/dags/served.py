"""The Dag ``d``, whose task instances ask: its groups, assets and teardown are read while they run."""

from __future__ import annotations

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, TaskGroup


def failing_fast() -> DAG:
    with DAG("d", schedule=None, fail_fast=True) as dag:
        for name in ("job", "busy", "waiting", "planned", "done", "broken"):
            EmptyOperator(task_id=name)
        EmptyOperator(task_id="clean").as_teardown()
    return dag


def grouped() -> DAG:
    active, gone = Asset("a", uri="s3://bucket/a"), Asset("gone", uri="s3://bucket/gone")
    with DAG("d", schedule=None) as dag:
        EmptyOperator(task_id="job", inlets=[active], outlets=[active, gone])
        BashOperator.partial(task_id="mapped", inlets=[active], outlets=[active, gone]).expand(bash_command=["1"])
        with TaskGroup("g"):
            EmptyOperator(task_id="one")
            with TaskGroup("inner"):
                EmptyOperator(task_id="two")
    return dag


DAGS = {"served, failing fast": failing_fast(), "served, with groups and assets": grouped()}
