"""The Dag ``d`` with tasks in another language: what its stubs are called with, of every kind that Airflow takes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from airflow.sdk import DAG, task

with DAG("d", schedule=None) as dag:

    @task
    def numbers():
        return [1, 2]

    @task.stub(queue="go")
    def extract(day: str, limits: dict[str, int], until: datetime | None, anything: Any, count: int = 3, rate=0.5): ...

    @task.stub(queue="go")
    def load(rows: list[int], extracted, text="é"): ...

    @task.stub(queue="go")
    def alone(count: int = 3): ...

    @task.stub(queue="go")
    def each(number: int, factor: int): ...

    load(numbers(), extracted=extract("2026-01-01", {"rows": 10}, None, [{"a": None}]), text="")
    alone()
    each.partial(factor=2).expand(number=[1, 2])

DAGS = {"served, with stubs": dag}
