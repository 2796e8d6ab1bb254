"""Airflow's own configuration parser, asked for every row of the table in one process."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.contract.conftest import AIRFLOW
from tests.servers import airflow_environment, clean_environment
from tests.unit.configurations import CONFIGURATIONS

pytestmark = pytest.mark.slow
READ = """
import json, os, sys, warnings
from airflow.configuration import AirflowConfigParser, create_default_config_parser, retrieve_configuration_description
warnings.simplefilter("ignore")
before, found = dict(os.environ), {}
for row in json.load(sys.stdin):
    os.environ.clear(); os.environ.update(before, HOME="/home/me", **row["environment"])
    try:
        parser = AirflowConfigParser()
        parser.read_string(row["file"])
        found[row["name"]] = parser.get(*row["option"])
    except Exception as error:
        found[row["name"]] = None
json.dump(found, sys.stdout)
"""


@pytest.mark.parametrize("version", AIRFLOW.values())
def test_what_airflow_reads(version: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [airflow_environment(version) / "bin" / "python", "-c", READ],
        input=json.dumps([asdict(row) for row in CONFIGURATIONS]),
        env={**clean_environment(), "AIRFLOW_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == {row.name: row.value for row in CONFIGURATIONS}
