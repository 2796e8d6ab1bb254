"""Deadlines of a length that a variable tells, and of a reference of our own."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, AsyncCallback, DeadlineAlert, DeadlineReference
from airflow.sdk.definitions.deadline import VariableInterval

OLD = DeadlineReference.FIXED_DATETIME(datetime(2000, 1, 1, tzinfo=UTC))


def with_length(variable: str) -> DAG:
    alert = DeadlineAlert(reference=OLD, interval=VariableInterval(variable), callback=AsyncCallback("my.called"))
    with DAG("sample", schedule=None, deadline=alert) as dag:
        EmptyOperator(task_id="job")
    return dag


DAGS = {
    "deadline after a variable length": with_length("length"),
    "deadline after a variable that is missing": with_length("none"),
    "deadline after a variable that is no number": with_length("word"),
}
