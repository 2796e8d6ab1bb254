"""What Airflow makes of its database settings beside the URL: the driver's arguments, and a schema of one's own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from app import releases
from app.commands.embedded import EmbeddedPostgres
from app.db.session import Database
from app.settings import DatabaseSettings, load
from app.settings.database_url import async_url, driver_arguments
from tests.contract.conftest import AIRFLOW
from tests.servers import airflow_environment, airflow_process_environment

pytestmark = pytest.mark.slow
ASK = """
import json, sys
from airflow import settings
settings.initialize()
json.dump([settings._get_connect_args("sync"), settings._get_connect_args("async")], sys.stdout)
"""
MODULE = """
sync = {"sslmode": "disable", "keepalives_idle": 30, "options": "-c geqo=off"}
other = {"server_settings": {"geqo": "off"}}
"""


@pytest.mark.parametrize("version", AIRFLOW.values())
def test_arguments_of_the_driver(version: str, make_database: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "operator_settings.py").write_text(MODULE)
    arguments = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONNECT_ARGS": "operator_settings.sync",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONNECT_ARGS_ASYNC": "operator_settings.other",
    }
    environment = airflow_process_environment(version, make_database(version[:3]), tmp_path, **arguments)
    done = subprocess.run(
        [airflow_environment(version) / "bin" / "python", "-c", ASK],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    sync, other = json.loads(done.stdout.splitlines()[-1])
    assert (sync["options"], other["server_settings"]) == ("-c geqo=off", {"geqo": "off"})
    by_async_url = load(environment).database
    del environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"]
    by_url = load(environment).database
    for database in (by_async_url, by_url):
        assert driver_arguments(database.url)["server_settings"] == {"options": "-c geqo=off"}
    assert by_url.url.query["keepalives_idle"] == "30"
    assert "keepalives_idle" not in by_async_url.url.query


async def test_a_schema_of_ones_own(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    """Airflow's migration leaves ``alembic_version`` where the role's tables are: both are found."""
    postgres.create_database("of_a_schema")
    postgres.run("psql", "-qc", 'CREATE SCHEMA "Air flow"', "of_a_schema")
    url = postgres.url("of_a_schema")
    environment = airflow_process_environment(
        AIRFLOW["3.3"], url, tmp_path, AIRFLOW__DATABASE__SQL_ALCHEMY_SCHEMA="Air flow"
    )
    migrate = [airflow_environment(AIRFLOW["3.3"]) / "bin" / "airflow", "db", "migrate"]
    subprocess.run(migrate, env=environment, capture_output=True, check=True)  # noqa: ASYNC221
    tables = postgres.run(
        "psql", "-Atqc", "SELECT schemaname FROM pg_tables WHERE tablename = 'task_instance'", "of_a_schema"
    )
    assert tables.split("\n") == ["Air flow", ""]
    database = Database(DatabaseSettings(url=async_url(url, setting="url"), schema="Air flow"))
    assert (await releases.of(database)).name == "3.3"
    await database.close()
