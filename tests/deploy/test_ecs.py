"""The task definition of ECS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.commands.embedded import free_port
from tests.deploy.dockerfiles import of_the_image
from tests.deploy.documents import document
from tests.deploy.pods import run
from tests.servers import FERNET_KEY, ROOT, SECRET, airflow_settings, clean_environment, pinned_environment, running

pytestmark = pytest.mark.slow

DEFINITION: dict[str, Any] = json.loads((ROOT / "deploy" / "ecs" / "task-definition.json").read_text())
(CONTAINER,) = DEFINITION["containerDefinitions"]


def _problems(definition: dict[str, Any]) -> str:
    program = [pinned_environment("deploy") / "bin" / "python", Path(__file__).with_name("ecs.py")]
    done = subprocess.run(program, input=json.dumps(definition), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_aws_takes_it() -> None:
    assert _problems(DEFINITION) == ""
    assert "stopTimeuot" in _problems({**DEFINITION, "containerDefinitions": [{**CONTAINER, "stopTimeuot": 5}]})


def test_what_the_container_is_given_can_serve(make_database: Callable[[str], str], tmp_path: Path) -> None:
    values = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": make_database("3.3"),
        "AIRFLOW__API_AUTH__JWT_SECRET": SECRET,
        "AIRFLOW__CORE__FERNET_KEY": FERNET_KEY,
    }
    given = {each["name"]: each["value"] for each in CONTAINER["environment"]}
    given |= {each["name"]: values[each["name"]] for each in CONTAINER["secrets"]}
    checked = run(["check"], {**clean_environment(), **given, "AIRFLOW_HOME": str(tmp_path)})
    assert checked.returncode == 0, checked.stdout
    ports = {each["name"]: str(each["containerPort"]) for each in CONTAINER["portMappings"]}
    for name, setting in (("http", "PORT"), ("metrics", "METRICS_PORT")):
        assert given[f"AIRFLOW__EXECUTION_API_SERVICE__{setting}"] == ports[name]
    assert CONTAINER["stopTimeout"] >= int(given["AIRFLOW__EXECUTION_API_SERVICE__DRAIN_SECONDS"]) + 20


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a root file system read only")
def test_it_serves_where_nothing_can_be_written(make_database: Callable[[str], str], tmp_path: Path) -> None:
    """But to ``/dev/shm``: the composition says the same."""
    assert CONTAINER["readonlyRootFilesystem"]
    assert document(ROOT / "deploy" / "compose" / "compose.yaml")["services"]["execution-api"]["read_only"]
    port = free_port()
    environment = {**clean_environment(), **airflow_settings(make_database("3.3")), "AIRFLOW_HOME": str(tmp_path / "none")}
    environment["AIRFLOW__EXECUTION_API_SERVICE__PORT"] = str(port)
    only_read = 'mount --options remount,bind,ro / && ! touch "$0" && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", only_read, str(Path(sys.prefix) / "written")]
    command += [sys.executable, "-m", "execution_api", *CONTAINER["command"]]
    with running(command, port=port, environment=environment, log=tmp_path / "log") as server:
        assert httpx.get(f"{server.base_url}/health/ping", verify=False).status_code == 200


def test_it_is_asked_as_the_image_is() -> None:
    image = of_the_image(ROOT / "Dockerfile")
    assert CONTAINER["command"] == image["CMD"]
    assert CONTAINER["healthCheck"]["command"] == ["CMD", *image["HEALTHCHECK"]]
