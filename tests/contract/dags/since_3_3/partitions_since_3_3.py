"""Schedules by partitions: the mappers, windows and timetables that 3.3 brought."""

from __future__ import annotations

from typing import Any

import pendulum
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import (
    DAG,
    Asset,
    DayWindow,
    FanOutMapper,
    FixedKeyMapper,
    HourWindow,
    IdentityMapper,
    MinimumCount,
    MonthWindow,
    PartitionedAssetTimetable,
    PartitionedAtRuntime,
    PartitionMapper,
    QuarterWindow,
    RollupMapper,
    SegmentWindow,
    StartOfDayMapper,
    StartOfHourMapper,
    StartOfMonthMapper,
    StartOfQuarterMapper,
    StartOfWeekMapper,
    StartOfYearMapper,
    WaitForAll,
    WeekWindow,
    Window,
    YearWindow,
)

FIRST = Asset("first", uri="s3://bucket/first")
OTHERS = Asset.ref(name="second") | Asset.ref(uri="s3://bucket/third")
BACKWARD = Window.Direction.BACKWARD


def scheduled(schedule: Any) -> DAG:
    with DAG("sample", schedule=schedule) as dag:
        EmptyOperator(task_id="job")
    return dag


def partitioned(mapper: PartitionMapper) -> DAG:
    return scheduled(PartitionedAssetTimetable(FIRST | OTHERS, partition_mapper_config={FIRST: mapper}))


def fan_out(mapper: PartitionMapper, window: Window, to: PartitionMapper | None = None, **options: Any) -> FanOutMapper:
    return FanOutMapper(upstream_mapper=mapper, window=window, downstream_mapper=to, **options)


WEEK, MONTH, QUARTER, YEAR = StartOfWeekMapper(), StartOfMonthMapper(), StartOfQuarterMapper(), StartOfYearMapper()
DAY, HOUR = StartOfDayMapper(), StartOfHourMapper()
PARIS: dict[str, Any] = {"timezone": "Europe/Paris"}
MAPPERS: dict[str, PartitionMapper] = {
    "hours in Paris": StartOfHourMapper(**PARIS),
    "hours in Paris with offsets": StartOfHourMapper(**PARIS, output_format="%Y-%m-%dT%H %z"),
    "hours in Paris of offsets": StartOfHourMapper(**PARIS, input_format="%Y-%m-%dT%H:%M%z"),
    "weeks in Paris": StartOfWeekMapper(**PARIS),
    "quarters in Paris": StartOfQuarterMapper(**PARIS),
    "days of an offset": StartOfDayMapper(timezone=pendulum.FixedTimezone(9 * 3600)),
    "a fixed key": FixedKeyMapper("all"),
    "a rollup": RollupMapper(upstream_mapper=DAY, window=DayWindow()),
    "a rollup of all": RollupMapper(upstream_mapper=MONTH, window=MonthWindow(), wait_policy=WaitForAll()),
    "a rollup of some": RollupMapper(upstream_mapper=WEEK, window=WeekWindow(), wait_policy=MinimumCount(3)),
    "a rollup of segments": RollupMapper(upstream_mapper=FixedKeyMapper("all"), window=SegmentWindow(["b", "a"])),
    "weeks to days": fan_out(WEEK, WeekWindow()),
    "weeks to days before": fan_out(WEEK, WeekWindow(direction=BACKWARD), DAY),
    "months to days": fan_out(MONTH, MonthWindow(), DAY),
    "months to days before": fan_out(MONTH, MonthWindow(direction=BACKWARD), DAY),
    "quarters to months": fan_out(QUARTER, QuarterWindow(), MONTH),
    "years to months before": fan_out(YEAR, YearWindow(direction=BACKWARD), MONTH),
    "days to hours": fan_out(DAY, DayWindow(), HOUR),
    "hours to minutes": fan_out(HOUR, HourWindow(), IdentityMapper()),
    "more than it may": fan_out(WEEK, WeekWindow(), DAY, max_downstream_keys=6),
}
DAGS = {name: partitioned(mapper) for name, mapper in MAPPERS.items()}
DAGS["at run time"] = scheduled(PartitionedAtRuntime())
DAGS["two assets of a mapper each"] = scheduled(
    PartitionedAssetTimetable(
        FIRST & Asset("other"), partition_mapper_config={FIRST: DAY, Asset("other"): MONTH}, default_partition_mapper=YEAR
    )
)
