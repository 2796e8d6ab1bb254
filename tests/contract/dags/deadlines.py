"""Deadlines: every reference that both minors have, and both kinds of callback."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, AsyncCallback, DeadlineAlert, DeadlineReference, SyncCallback

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
CALLED = AsyncCallback("my.called", kwargs={"a": 1, "when": WHEN})
CALLED_HERE = SyncCallback("my.called", kwargs={"a": [1, "x"]})
OLD = DeadlineReference.FIXED_DATETIME(datetime(2000, 1, 1, tzinfo=UTC))


def after(*references: Any, callback: Any = CALLED, length: timedelta = timedelta(seconds=90.5)) -> DAG:
    alerts = [DeadlineAlert(reference=reference, interval=length, callback=callback) for reference in references]
    with DAG("sample", schedule=None, deadline=alerts if len(alerts) > 1 else alerts[0]) as dag:
        EmptyOperator(task_id="job")
    return dag


DAGS = {
    "deadline at a fixed time": after(OLD),
    "deadline after its logical date": after(DeadlineReference.DAGRUN_LOGICAL_DATE, callback=CALLED_HERE),
    "deadline after it was queued": after(DeadlineReference.DAGRUN_QUEUED_AT),
    "deadline after an average": after(DeadlineReference.AVERAGE_RUNTIME(max_runs=2, min_runs=1)),
    "deadline after an average of two": after(DeadlineReference.AVERAGE_RUNTIME(max_runs=2)),
    "deadline of whole days": after(OLD, length=timedelta(days=2)),
    "several deadlines": after(OLD, DeadlineReference.DAGRUN_QUEUED_AT),
    "deadline that names its executor": after(OLD, callback=SyncCallback("my.called", executor="LocalExecutor")),
}
