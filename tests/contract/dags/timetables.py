"""Every timetable that both minors have, on the smallest of Dags."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import (
    DAG,
    Asset,
    AssetOrTimeSchedule,
    CronDataIntervalTimetable,
    CronPartitionTimetable,
    CronTriggerTimetable,
    DeltaDataIntervalTimetable,
    DeltaTriggerTimetable,
    MultipleCronTriggerTimetable,
)
from airflow.timetables.events import EventsTimetable  # what the Task SDK's own writes, no release can read
from dateutil.relativedelta import FR, relativedelta

PARIS = "Europe/Paris"
SECOND_FRIDAY, A_FRIDAY = relativedelta(weekday=FR(2)), relativedelta(days=1, weekday=FR)


def scheduled(schedule: Any) -> DAG:
    with DAG("sample", schedule=schedule, max_active_runs=1) as dag:
        EmptyOperator(task_id="job")
    return dag


def on_events(**options: Any) -> EventsTimetable:
    return EventsTimetable([pendulum.datetime(2026, 1, 1), pendulum.datetime(2026, 3, 1, tz=PARIS)], **options)


SCHEDULES: dict[str, Any] = {
    "none": None,
    "once": "@once",
    "continuous": "@continuous",
    "daily preset": "@daily",
    "cron trigger": CronTriggerTimetable("0 3 * * *", timezone=PARIS),
    "cron trigger, an hour before": CronTriggerTimetable(
        "0 3 * * *", timezone=PARIS, interval=timedelta(hours=1), run_immediately=timedelta(minutes=5)
    ),
    "cron trigger, a month before": CronTriggerTimetable("0 3 * * *", timezone=PARIS, interval=relativedelta(months=1)),
    "cron trigger, the second Friday": CronTriggerTimetable("0 3 * * *", timezone=PARIS, interval=SECOND_FRIDAY),
    "several crons": MultipleCronTriggerTimetable(
        "0 1 * * *", "0 5 * * *", timezone=PARIS, interval=timedelta(hours=2), run_immediately=True
    ),
    "delta trigger": DeltaTriggerTimetable(timedelta(hours=1), interval=timedelta(minutes=1)),
    "delta trigger, relative": DeltaTriggerTimetable(relativedelta(days=1), interval=relativedelta(months=1)),
    "daily interval": CronDataIntervalTimetable("0 3 * * *", timezone=PARIS),
    "daily interval at two": CronDataIntervalTimetable("0 2 * * *", timezone=PARIS),
    "every other hour": CronDataIntervalTimetable("0 */2 * * *", timezone=PARIS),
    "hourly interval": CronDataIntervalTimetable("30 * * * *", timezone=PARIS),
    "hours of one day a month": CronDataIntervalTimetable("30 * 1 * *", timezone=PARIS),
    "utc offset": CronDataIntervalTimetable("0 3 * * 1", timezone=pendulum.FixedTimezone(7200)),
    "in New York": CronDataIntervalTimetable("0 1 * * *", timezone="America/New_York"),
    "on Lord Howe": CronDataIntervalTimetable("45 1 * * *", timezone="Australia/Lord_Howe"),
    "a cron that never comes": CronDataIntervalTimetable("0 3 31 2 *", timezone="UTC"),
    "delta interval": DeltaDataIntervalTimetable(timedelta(minutes=90)),
    "delta interval, relative": DeltaDataIntervalTimetable(relativedelta(months=1)),
    "delta interval, Fridays": DeltaDataIntervalTimetable(A_FRIDAY),
    "events": on_events(restrict_to_events=True, description="told"),
    "events and others": on_events(),
    "an asset": [Asset("first", uri="s3://bucket/first")],
    "assets or time": AssetOrTimeSchedule(
        timetable=CronDataIntervalTimetable("0 3 * * *", timezone=PARIS), assets=[Asset("first", uri="s3://bucket/first")]
    ),
    "cron partitions": CronPartitionTimetable("0 0 * * *", timezone=PARIS, key_format="%Y-%m-%d %H:%M"),
    "cron partitions with offsets": CronPartitionTimetable("0 0 * * *", timezone=PARIS, key_format="%Y-%m-%dT%H:%M:%S%z"),
}
DAGS = {name: scheduled(schedule) for name, schedule in SCHEDULES.items()}
