"""Tasks on Celery workers, with redis between: what the scheduler hears from Celery and what we record must agree."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end import records
from tests.end_to_end.installation import CELERY_WORKER, Airflow, celery_settings
from tests.servers import AIRFLOW, our_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DAG = """
from datetime import UTC, datetime, timedelta
from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.sdk import Asset, dag, get_current_context, task

@dag(schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False)
def on_celery():
    @task(outlets=[Asset(name="on_celery", uri="s3://bucket/on_celery")])
    def square(n):
        return n * n

    @task(retries=1, retry_delay=timedelta(seconds=1))
    def second_time():
        if get_current_context()["ti"].try_number == 1:
            raise RuntimeError("on purpose")

    @task
    def add(numbers):
        return sum(numbers)

    later = DateTimeSensorAsync(task_id="later", target_time="{{ macros.datetime.now(macros.dateutil.tz.tzutc()) }}")
    add(square.expand(n=list(range(24)))) >> later
    second_time()

on_celery()
"""
FINISHED_TIMEOUT = 300.0  # seconds; two cores take about 40


@pytest.mark.drawn(1)
@pytest.mark.parametrize("version", AIRFLOW.values())
async def test_a_run_on_celery(make_migrated: Callable[[str, str], str], tmp_path: Path, version: str) -> None:
    url = await asyncio.to_thread(make_migrated, version, f"celery_{version}")
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "on_celery.py").write_text(DAG)
    with celery_settings(url) as settings:
        airflow = Airflow(version, url, tmp_path / "airflow", AIRFLOW__CORE__DAGS_FOLDER=str(tmp_path / "dags"), **settings)
        await asyncio.to_thread(airflow.run, "dags", "reserialize")
        with our_server(url, tmp_path) as server, airflow.components(server.base_url, CELERY_WORKER):
            connection = await records.connected(url, version)
            try:
                await asyncio.to_thread(airflow.trigger, ["on_celery"])
                deadline = time.monotonic() + FINISHED_TIMEOUT
                while await connection.fetchval("SELECT state FROM dag_run") not in ("success", "failed"):
                    assert time.monotonic() < deadline, await connection.fetch("SELECT task_id, state FROM task_instance")
                    await asyncio.sleep(0.5)
                tasks = await connection.fetch("SELECT task_id, state, try_number FROM task_instance")
                total = await connection.fetchval("SELECT value FROM xcom WHERE task_id = 'add' AND key = 'return_value'")
                events = await connection.fetchval("SELECT count(*) FROM asset_event")
                audit = await connection.fetch("SELECT event, count(*) FROM log WHERE task_id IS NOT NULL GROUP BY event")
            finally:
                await connection.close()
    assert {row["state"] for row in tasks} == {"success"}
    assert {row["task_id"]: row["try_number"] for row in tasks if row["try_number"] != 1} == {"second_time": 2}
    assert json.loads(total) == sum(n * n for n in range(24))
    assert events == 24
    counted = {row["event"]: row["count"] for row in audit}
    assert (counted["success"], counted["up_for_retry"], counted["deferred"]) == (27, 1, 1)
    answers = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    assert [line for line in answers if line.get("status", 0) >= 500] == []
