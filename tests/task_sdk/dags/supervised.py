"""Tasks that every Task SDK since 1.0 can run, each of which uses much of what the execution API offers."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, Asset, BaseOperator, BaseSensorOperator, Connection, Variable, task

SINCE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Deferring(BaseOperator):
    """Defers once, with arguments that are not plain JSON, and returns what it is resumed with."""

    def execute(self, context):
        trigger = TimeDeltaTrigger(timedelta(seconds=1))
        self.defer(trigger=trigger, method_name="resume", kwargs={"since": SINCE, "wait": timedelta(minutes=5)})

    def resume(self, context, event, since, wait):
        return {"event": event, "since": since.isoformat(), "wait": wait.total_seconds()}


class Never(BaseSensorOperator):
    """Is never content."""

    def poke(self, context):
        return False


with DAG("supervised", schedule=None):

    @task(outlets=[Asset(name="report", uri="s3://bucket/report")])
    def works(outlet_events, ti, dag_run):
        Variable.set("written", "by a task")
        ti.xcom_push(key="pushed", value={"n": 2**60, "text": "é"})
        outlet_events[Asset(name="report", uri="s3://bucket/report")].extra = {"rows": 3}
        time.sleep(2.5)  # two heartbeats
        return {
            "variable": Variable.get("written"),
            "default": Variable.get("missing", default="none"),
            "password": Connection.get("stored").password,
            "pulled": ti.xcom_pull(task_ids="works", key="pushed"),
            "absent": ti.xcom_pull(task_ids="works", key="absent"),
            "run": dag_run.run_id,
            "conf": dag_run.conf,
        }

    @task(retries=1, retry_delay=timedelta(seconds=1))
    def breaks():
        raise RuntimeError("on purpose")

    @task
    def skips():
        from airflow.exceptions import AirflowSkipException  # where every SDK has it

        raise AirflowSkipException("nothing to do")

    @task
    def endures():
        time.sleep(120)  # unless it is ended

    works()
    breaks()
    skips()
    endures()
    Deferring(task_id="defers")
    Never(task_id="waits", mode="reschedule", poke_interval=60, timeout=600)
