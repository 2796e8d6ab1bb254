"""A Dag whose schedule waits for assets."""

from __future__ import annotations

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, AssetAndTimeSchedule, CronDataIntervalTimetable

with DAG(
    "sample",
    schedule=AssetAndTimeSchedule(
        timetable=CronDataIntervalTimetable("0 3 * * *", timezone="Europe/Paris"),
        assets=[Asset("first", uri="s3://bucket/first")],
    ),
) as dag:
    EmptyOperator(task_id="job")

DAGS = {"assets and time": dag}
