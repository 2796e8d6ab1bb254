"""Something to see: it runs once, by itself."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import dag, task


@dag(schedule="@once", start_date=datetime(2026, 1, 1, tzinfo=UTC))
def hello() -> None:
    """Hand a value from one task to the next."""

    @task
    def greet() -> str:
        return "hello"

    @task
    def hear(said: str) -> None:
        assert said == "hello"

    hear(greet())


hello()
