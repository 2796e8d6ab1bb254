"""The migration guide beside a real Airflow 3.3.2, every command as it is written: from a rehearsal to 100 %, and back."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.commands.embedded import EmbeddedPostgres, free_port
from tests import debian
from tests.end_to_end.installation import Airflow
from tests.proxies import NGINX
from tests.servers import ROOT, airflow_server, airflow_settings, clean_environment, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

VERSION = "3.3.2"
BLOCKS = re.findall(r"^```console\n(.*?)^```$", (ROOT / "docs" / "migration.md").read_text(), re.M | re.S)
POINTS = "export AIRFLOW__CORE__EXECUTION_API_SERVER_URL="
ENDED_WITHIN = 240.0  # seconds; two idle cores take ten
DAG = """
from datetime import UTC, datetime
from airflow.sdk import Asset, dag, task

def moved():
    @task
    def first():
        return 20

    @task(outlets=[Asset(name="moved", uri="s3://bucket/moved")])
    def second(given):
        return given + 1

    second(first())

for name in ("at_five", "at_all", "back"):
    dag(name, schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False)(moved)()
"""


class Reader:
    """Who follows the guide: names of machines, ports and folders are his own.

    :param own: what he writes instead of what the guide has.
    """

    def __init__(self, own: dict[str, str], folder: Path, database_url: str) -> None:
        self._own, self._folder = own, folder
        self.environment = {**clean_environment(), **airflow_settings(database_url), "AIRFLOW_HOME": str(folder)}
        self.environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment["AIRFLOW__EXECUTION_API_SERVICE__DRAIN_SECONDS"] = "0"
        nginx = f'nginx() {{ command nginx -c {folder}/main.conf -e {folder}/nginx.log "$@"; }}'
        self._head = ["set -euo pipefail", f"cd {folder}", nginx]
        shutil.copytree(ROOT / "deploy" / "canary", folder / "deploy" / "canary")
        file = folder / "deploy" / "canary" / "nginx.conf"
        file.write_text(self.reads(file.read_text()))
        (folder / "main.conf").write_text(NGINX.format(folder=folder, file=folder / "canary" / "nginx.con[f]"))

    def reads(self, text: str) -> str:
        for written, own in self._own.items():
            text = text.replace(written, own)
        return text

    def types(self, block: str) -> str:
        """Type a block of the guide, and return what it said."""
        script = "\n".join([*self._head, self.reads(block)])
        done = subprocess.run(["bash", "-c", script], env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture
def reader(postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[Reader]:
    debian.install("nginx", programs=("nginx",))
    postgres.create_database("migration")
    ports = {name: free_port() for name in ("airflow-api-server:8080", "execution-api:9091", "proxy:9090")}
    own = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    own |= {
        "--port 9091 --workers 4": f"--port {ports['execution-api:9091']} --workers 1",
        "/etc/nginx/canary": str(tmp_path / "canary"),
    }
    own["listen 9090"] = f"listen {ports['proxy:9090']}"
    reader = Reader(own, tmp_path, postgres.url("migration"))
    reader.environment["AIRFLOW__EXECUTION_API_SERVICE__PORT"] = str(ports["execution-api:9091"])
    nginx = subprocess.Popen(["nginx", "-c", f"{tmp_path}/main.conf", "-e", f"{tmp_path}/nginx.log"])
    yield reader
    nginx.terminate()
    nginx.wait(20)


async def test_from_a_rehearsal_to_all_and_back(postgres: EmbeddedPostgres, reader: Reader, tmp_path: Path) -> None:
    rehearse, serve, start, point, watch, all_of_it, back = BLOCKS
    url = postgres.url("migration")
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "moved.py").write_text(DAG)
    airflow = Airflow(VERSION, url, tmp_path / "airflow", AIRFLOW__CORE__DAGS_FOLDER=str(tmp_path / "dags"))
    await asyncio.to_thread(airflow.run, "db", "migrate")
    await asyncio.to_thread(airflow.run, "dags", "reserialize")
    connection = await asyncpg.connect(url)
    port = int(reader.reads("airflow-api-server:8080").rpartition(":")[2])
    with airflow_server(VERSION, url, tmp_path, port=port):
        told = await asyncio.to_thread(reader.types, rehearse)
        assert "FAIL" not in told
        assert told.endswith("each of your 3 Dags can be served\n")

        serves, asks = serve.splitlines()
        ours = int(reader.reads("execution-api:9091").rpartition(":")[2])
        with running(reader.reads(serves).split(), port=ours, environment=reader.environment, log=tmp_path / "ours.log"):
            await asyncio.to_thread(reader.types, asks)
            await asyncio.to_thread(reader.types, start)
            assert point.startswith(POINTS)
            through = reader.reads(point).strip().removeprefix(POINTS).rstrip("/")
            with airflow.component("scheduler", through):
                await _run(airflow, connection, "at_five")  # most likely by Airflow's own
                at_five = await _served(ours)
                await asyncio.to_thread(reader.types, all_of_it)
                await _run(airflow, connection, "at_all")
                at_all = await _served(ours)
                assert at_all - at_five > 6
                told = await asyncio.to_thread(reader.types, watch)
                assert "all is well" in told
                await asyncio.to_thread(reader.types, back)
                await _run(airflow, connection, "back")
                assert await _served(ours) == at_all
    assert await connection.fetchval("SELECT count(*) FROM asset_event") == 3
    await connection.close()


async def _run(airflow: Airflow, connection: asyncpg.Connection, dag_id: str) -> None:
    """Run a Dag to its end."""
    await asyncio.to_thread(airflow.trigger, [dag_id])
    deadline = time.monotonic() + ENDED_WITHIN
    state = "SELECT state FROM dag_run WHERE dag_id = $1"
    while (found := await connection.fetchval(state, dag_id)) not in ("success", "failed"):
        assert time.monotonic() < deadline, await connection.fetch("SELECT task_id, state FROM task_instance")
        await asyncio.sleep(0.3)
    assert found == "success"


async def _served(port: int) -> float:
    """Return how many requests of tasks ours has answered."""
    async with httpx.AsyncClient(verify=False) as client:
        text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    counted = (sample for sample in samples if sample.name == "http_requests_total")
    return sum(sample.value for sample in counted if "/task-instances/" in sample.labels["handler"])
