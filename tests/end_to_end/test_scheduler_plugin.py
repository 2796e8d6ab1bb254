"""The scheduler plugin in a real scheduler: a Dag changes while the tasks of its run complete."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from app.commands.embedded import EmbeddedPostgres
from tests.end_to_end.installation import Airflow
from tests.servers import AIRFLOW, ROOT, our_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DAG = """
import time
from datetime import UTC, datetime
from airflow.sdk import dag, task

@dag(schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, max_active_tasks=3)
def changes():
    @task
    def sleep(n):
        time.sleep(8)

    @task
    def last():
        return None

    @task
    def added():
        return None

    sleep.expand(n=list(range(18))) >> last(){more}

changes()
"""
NOTICED = timedelta(seconds=10)  # until the scheduler has looked at the new version; it does every second or two
BULK_UPDATE = re.compile(r"UPDATE task_instance SET (updated_at='[^']*', )?dag_version_id=.* WHERE task_instance.dag_id = ")
BATCH_LOCK = re.compile(
    r"SELECT task_instance.id .*ORDER BY task_instance.id\s+LIMIT 5 FOR UPDATE OF task_instance SKIP LOCKED", re.S
)


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """Build the plugin into a folder that Airflow's Python path names: as installed, and gone after the test."""
    target = tmp_path / "plugin"
    install = [sys.executable, "-m", "uv", "--quiet", "pip", "install", "--no-deps", "--no-build-isolation"]
    into = ["--python", sys.executable, "--target", str(target), str(ROOT / "scheduler_plugin")]
    subprocess.run([*install, *into], check=True)
    return target


async def _until(connection: asyncpg.Connection, question: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not await connection.fetchval(question):
        assert time.monotonic() < deadline, f"still waiting for {question}"
        await asyncio.sleep(0.2)


@pytest.mark.drawn(1)
@pytest.mark.parametrize("version", AIRFLOW.values())
async def test_a_dag_changes_while_its_run_goes_on(
    version: str, plugin: Path, postgres: EmbeddedPostgres, make_migrated: Callable[[str, str], str], tmp_path: Path
) -> None:
    database = f"plugin_{version}"
    url = await asyncio.to_thread(make_migrated, version, database)
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "changes.py").write_text(DAG.format(more=""))
    airflow = Airflow(
        version,
        url,
        tmp_path / "airflow",
        PYTHONPATH=str(plugin),
        AIRFLOW__CORE__DAGS_FOLDER=str(dags),
        AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL="2",
        AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL="1",
        AIRFLOW__EXECUTION_API__JWT_EXPIRATION_TIME="600",
        AIRFLOW__EXECUTION_API_SERVICE__SCHEDULER_BATCH_SIZE="5",
    )
    await asyncio.to_thread(airflow.run, "dags", "reserialize")
    connection = await asyncpg.connect(url)
    await connection.execute(f"ALTER DATABASE \"{database}\" SET log_statement = 'all'")
    start = postgres.log.stat().st_size
    with our_server(url, tmp_path) as server, airflow.components(server.base_url):
        await asyncio.to_thread(airflow.trigger, ["changes"])
        await _until(connection, "SELECT count(*) >= 2 FROM task_instance WHERE state = 'success'", 120)
        (dags / "changes.py").write_text(DAG.format(more=" >> added()"))
        await _until(connection, "SELECT count(*) >= 2 FROM dag_version", 90)
        await _until(connection, "SELECT state = 'success' FROM dag_run", 180)
    newest = await connection.fetchrow("SELECT id, created_at FROM dag_version ORDER BY version_number DESC LIMIT 1")
    tasks = await connection.fetch("SELECT task_id, dag_version_id, end_date FROM task_instance ORDER BY end_date")
    await connection.close()
    with postgres.log.open() as log:
        log.seek(start)
        statements = log.read()
    assert "scheduler lock discipline is applied" in (tmp_path / "airflow" / "scheduler.log").read_text()
    assert BATCH_LOCK.search(statements), "the batches are in PostgreSQL's log"
    assert not BULK_UPDATE.search(statements), "and no bulk update is"
    unfinished = [row for row in tasks if row["end_date"] > newest["created_at"] + NOTICED]
    assert {row["task_id"] for row in unfinished} == {"sleep", "last", "added"}
    assert {row["dag_version_id"] for row in unfinished} == {newest["id"]}, "none that was unfinished keeps the old version"
