"""Deadlines of a length that a variable tells, and of a reference of our own."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, AsyncCallback, DeadlineAlert, DeadlineReference
from airflow.sdk.definitions.deadline import BaseDeadlineReference, VariableInterval

OLD = DeadlineReference.FIXED_DATETIME(datetime(2000, 1, 1, tzinfo=UTC))


def with_length(variable: str) -> DAG:
    alert = DeadlineAlert(reference=OLD, interval=VariableInterval(variable), callback=AsyncCallback("my.called"))
    with DAG("sample", schedule=None, deadline=alert) as dag:
        EmptyOperator(task_id="job")
    return dag


class DagRunQueuedAtDeadline(BaseDeadlineReference):
    """A reference of our own, with the name of one of Airflow's."""


OWN = DeadlineAlert(
    reference=DagRunQueuedAtDeadline(), interval=VariableInterval("length"), callback=AsyncCallback("my.called")
)
with DAG("sample", schedule=None, deadline=OWN) as of_our_own:
    EmptyOperator(task_id="job")

DAGS = {
    "deadline of a custom reference": of_our_own,
    "deadline after a variable length": with_length("length"),
    "deadline after a variable that is missing": with_length("none"),
    "deadline after a variable that is no number": with_length("word"),
}
