"""What a database has otherwise than the releases that are known."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from app import releases
from app.commands import explain
from app.db.session import Database
from app.releases import AIRFLOW_3_2, AIRFLOW_3_3, AIRFLOW_3_4, REVISIONS
from app.settings import DatabaseSettings
from app.settings.database_url import async_url
from tests.servers import airflow_settings, clean_environment

REFERENCES = "REFERENCES task_instance(dag_id, task_id, run_id, map_index) ON DELETE CASCADE"


EVERY = pytest.mark.parametrize("revision", [each.name for each in REVISIONS], indirect=True)


@pytest.fixture
async def database(revision: str, make_database: Callable[[str], str]) -> AsyncIterator[Database]:
    database = Database(DatabaseSettings(url=async_url(make_database(revision), setting="url")))
    yield database
    await database.close()


@EVERY
async def test_a_known_release_is_as_it_is_known(database: Database, revision: str) -> None:
    (heading,) = await explain.differences(database)
    assert f"compared with Airflow {revision}: 0 differences" in heading


@EVERY
def test_every_table_and_column_that_statements_name_is_there(revision: str) -> None:
    """A statement for a release names no column that it does not have."""
    told = next(each for each in REVISIONS if each.name == revision)
    made = explain.known(told)
    schema = told.storage.schema.metadata.tables
    later = {"task_state_store", "asset_state_store", "connection_test_request"}  # no request gets there without a store
    assert schema.keys() - made.keys() == (set() if told.tasks.state_stores else later)
    named = {(name, column.name) for name in schema.keys() & made.keys() for column in schema[name].columns}
    assert named - {(name, column) for name, table in made.items() for column in table.columns} == set()


@pytest.mark.parametrize("revision", ["3.3"], indirect=True)
async def test_a_changed_database(database: Database) -> None:
    connection = await asyncpg.connect(str(database.settings.url.set(drivername="postgresql").render_as_string(False)))
    await connection.execute(
        "ALTER TABLE xcom RENAME COLUMN map_index TO place; ALTER TABLE xcom ADD UNIQUE (key);"
        "ALTER TABLE task_map DROP CONSTRAINT task_map_pkey; DROP TABLE hitl_detail_history"
    )
    await connection.close()
    assert (await explain.differences(database))[1:] == [
        "hitl_detail_history: there is no such table",
        "task_map: lacks PRIMARY KEY (dag_id, task_id, run_id, map_index)",
        "xcom: lacks column map_index",
        f"xcom: lacks FOREIGN KEY (dag_id, task_id, run_id, map_index) {REFERENCES}",
        "xcom: lacks PRIMARY KEY (dag_run_id, task_id, map_index, key)",
        "xcom: has beyond column place",
        f"xcom: has beyond FOREIGN KEY (dag_id, task_id, run_id, place) {REFERENCES}",
        "xcom: has beyond PRIMARY KEY (dag_run_id, task_id, place, key)",
        "xcom: has beyond UNIQUE (key)",
    ]


@pytest.mark.parametrize("revision", ["3.4"], indirect=True)
async def test_of_a_release_that_nobody_knows(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "REVISIONS", [AIRFLOW_3_2, AIRFLOW_3_3])
    heading, *lines = await explain.differences(database)
    assert heading.startswith(f"metadata revision {AIRFLOW_3_4.alembic_version}, compared with Airflow 3.3: ")
    assert {"task_instance: lacks column map_index", "task_instance: has beyond column region_index"} <= set(lines)
    assert {f"{table}: there is no such table" for table in ("xcom", "task_map", "task_instance_history")} <= set(lines)


@pytest.mark.parametrize("revision", ["3.3"], indirect=True)
async def test_the_command(database: Database) -> None:
    url = database.settings.url.set(drivername="postgresql").render_as_string(False)
    command = [sys.executable, "-W", "error", "-m", "app", "check", "--explain"]
    environment = {**clean_environment(), **airflow_settings(url), "AIRFLOW_HOME": "/nowhere"}
    done = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("compared with Airflow 3.3: 0 differences in the tables that we use\n")
