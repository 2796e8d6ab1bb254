"""The composition: its services started as processes, in the order and with the settings that it says, and a Dag runs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.commands.embedded import EmbeddedPostgres, free_port
from tests.deploy.dockerfiles import of_the_image
from tests.deploy.documents import document
from tests.servers import FERNET_KEY, ROOT, SECRET, airflow_environment, clean_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FOLDER = ROOT / "deploy" / "compose"
OF_THE_READER = {"JWT_SECRET": SECRET, "FERNET_KEY": FERNET_KEY}
VARIABLE = re.compile(r"\$\{(\w+)(?::\?[^}]*)?\}")
SOON = 300.0  # seconds; two idle cores take about 40


class Composition:
    """Processes in the place of containers.

    :param hosts: where each ``service:port`` is here.
    :param folder: for logs and as ``AIRFLOW_HOME``.
    """

    def __init__(self, hosts: dict[str, str], folder: Path) -> None:
        self._services: dict[str, Any] = document(FOLDER / "compose.yaml")["services"]
        self._hosts = hosts
        self._folder = folder
        self.started: dict[str, subprocess.Popen[bytes]] = {}

    def start_all(self) -> None:
        for name in self._services:
            self._start(name)

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def _start(self, name: str) -> None:
        if name in self.started or name == "postgres":  # which runs for all tests
            return
        for needed, how in self._services[name]["depends_on"].items():
            self._start(needed)
            self._wait(needed, how["condition"])
        with (self._folder / f"{name}.log").open("wb") as log:
            self.started[name] = subprocess.Popen(
                self._command(name), env=self._environment(name), stdout=log, stderr=log, start_new_session=True
            )

    def _wait(self, name: str, condition: str) -> None:
        process = self.started.get(name)
        if process is None:
            return
        if condition == "service_completed_successfully":
            assert process.wait(SOON) == 0, self.log(name)
            return
        assert condition == "service_healthy"
        asking = [sys.executable, "-m", *of_the_image(ROOT / "Dockerfile")["HEALTHCHECK"]]
        asking[2] = asking[2].replace("-", "_")
        while subprocess.run(asking, env=self._environment(name), capture_output=True, check=False).returncode:
            assert process.poll() is None, self.log(name)

    def _command(self, name: str) -> list[str]:
        service = self._services[name]
        if "build" in service:
            assert (FOLDER / service["build"]).resolve() == ROOT
            return [sys.executable, "-m", "execution_api", *of_the_image(ROOT / "Dockerfile")["CMD"]]
        image, _, version = service["image"].partition(":")
        assert image == "apache/airflow"
        return [str(airflow_environment(version) / "bin" / "airflow"), *service["command"].split()]

    def _environment(self, name: str) -> dict[str, str]:
        said = {
            key: VARIABLE.sub(lambda m: OF_THE_READER[m[1]], v) for key, v in self._services[name]["environment"].items()
        }
        for host, here in self._hosts.items():
            said = {key: value.replace(host, here) for key, value in said.items()}
        ports = {"AIRFLOW__EXECUTION_API_SERVICE__PORT": self._hosts["execution-api:9091"].rpartition(":")[2]}
        ports |= {"AIRFLOW__API__PORT": self._hosts["api-server:8080"].rpartition(":")[2]}
        return {**clean_environment(), **said, **ports, "AIRFLOW_HOME": str(self._folder)}

    def end_all(self) -> None:
        """Tell the first process of each, as an engine does; what is left then ends with its container."""
        for process in self.started.values():
            process.terminate()
        for process in self.started.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


@pytest.fixture
def composition(postgres: EmbeddedPostgres, tmp_path: Path) -> Iterator[Composition]:
    postgres.run("psql", "-qc", "CREATE ROLE airflow LOGIN PASSWORD 'airflow'", "postgres")
    postgres.run("psql", "-qc", "CREATE DATABASE airflow OWNER airflow", "postgres")
    (tmp_path / "dags").symlink_to(FOLDER / "dags")
    hosts = {"postgres:5432": f"127.0.0.1:{postgres.port}"}
    hosts |= {name: f"127.0.0.1:{free_port()}" for name in ("execution-api:9091", "api-server:8080")}
    started = Composition(hosts, tmp_path)
    yield started
    started.end_all()
    postgres.run("psql", "-qc", "DROP DATABASE airflow WITH (FORCE)", "postgres")
    postgres.run("psql", "-qc", "DROP ROLE airflow", "postgres")


async def test_a_dag_runs(composition: Composition, postgres: EmbeddedPostgres) -> None:
    composition.start_all()
    connection = await asyncpg.connect(postgres.url("airflow"))
    deadline = time.monotonic() + SOON
    try:
        while await connection.fetchval("SELECT state FROM dag_run WHERE dag_id = 'hello'") not in ("success", "failed"):
            assert time.monotonic() < deadline, composition.log("scheduler")[-3000:]
            time.sleep(0.5)  # noqa: ASYNC251  nothing else is to run here
        states = await connection.fetch("SELECT state FROM task_instance WHERE dag_id = 'hello'")
    finally:
        await connection.close()
    assert [row["state"] for row in states] == ["success", "success"]
    answers = [json.loads(line) for line in composition.log("execution-api").splitlines()]
    asked = {line["path"].rpartition("/")[2] for line in answers if line.get("status", 500) < 300 and "path" in line}
    assert {"run", "state"} <= asked
    assert "/execution/" not in composition.log("api-server")
    ours = composition.started["execution-api"]
    ours.terminate()
    assert ours.wait(40) == 0


def test_what_the_reader_fills_in_is_what_is_asked_for() -> None:
    example = (FOLDER / "environment.example").read_text()
    assert re.findall(r"^(\w+)=$", example, re.M) == [*OF_THE_READER]
    assert set(VARIABLE.findall((FOLDER / "compose.yaml").read_text())) == {*OF_THE_READER}
