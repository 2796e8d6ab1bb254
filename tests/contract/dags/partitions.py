"""Schedules by partitions: every mapper that both minors have, of one asset; others by name and URI have none."""

from __future__ import annotations

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import (
    DAG,
    AllowedKeyMapper,
    Asset,
    ChainMapper,
    IdentityMapper,
    PartitionedAssetTimetable,
    PartitionMapper,
    ProductMapper,
    StartOfDayMapper,
    StartOfHourMapper,
    StartOfMonthMapper,
    StartOfQuarterMapper,
    StartOfWeekMapper,
    StartOfYearMapper,
)

FIRST = Asset("first", uri="s3://bucket/first")
OTHERS = Asset.ref(name="second") | Asset.ref(uri="s3://bucket/third")


def partitioned(mapper: PartitionMapper) -> DAG:
    with DAG("sample", schedule=PartitionedAssetTimetable(FIRST | OTHERS, partition_mapper_config={FIRST: mapper})) as dag:
        EmptyOperator(task_id="job")
    return dag


MAPPERS: dict[str, PartitionMapper] = {
    "identity": IdentityMapper(),
    "an allowed key": AllowedKeyMapper(["p0", "p1"]),
    "no allowed key": AllowedKeyMapper(["p0"]),
    "hours": StartOfHourMapper(),
    "hours of offsets": StartOfHourMapper(input_format="%Y-%m-%dT%H:%M%z", output_format="%Y-%m-%dT%H %z"),
    "days": StartOfDayMapper(),
    "weeks": StartOfWeekMapper(),
    "months": StartOfMonthMapper(),
    "quarters": StartOfQuarterMapper(),
    "years": StartOfYearMapper(),
    "a product": ProductMapper(IdentityMapper(), StartOfDayMapper()),
    "a product by colons": ProductMapper(IdentityMapper(), StartOfMonthMapper(), StartOfYearMapper(), delimiter=":"),
    "a chain": ChainMapper(StartOfDayMapper(), StartOfMonthMapper(input_format="%Y-%m-%d")),
}
DAGS = {name: partitioned(mapper) for name, mapper in MAPPERS.items()}
