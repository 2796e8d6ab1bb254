"""The wheel, installed where another package is called ``app``, as a Dag image may have one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from app import __version__
from app.commands.embedded import free_port
from tests.servers import airflow_settings, clean_environment, pinned_environment, running
from tests.wheels import broken_requirements, build_wheel, environment_with

pytestmark = pytest.mark.slow

VALIDATES_IN_A_PROCESS = """
import asyncio, execution_api
from app.tasks.threads import invalid_param
param = {"default": "b", "schema": {"type": "string", "pattern": "^a$"}}
print(asyncio.run(invalid_param([("letter", param)], {})))
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel beside what the slim image holds, and return the folder of the programs."""
    folder = tmp_path_factory.mktemp("installed")
    return environment_with(build_wheel(folder), folder / "environment", pinned_environment("serve"))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """Work in a folder with another ``app``, which is on ``PYTHONPATH`` too."""
    (tmp_path / "app" / "main").mkdir(parents=True)
    (tmp_path / "app" / "__init__.py").write_text("raise SystemExit('this app is somebody else\\'s')")
    monkeypatch.chdir(tmp_path)
    return {**clean_environment(), "PYTHONPATH": str(tmp_path), "AIRFLOW_HOME": str(tmp_path)}


def _said(*command: str | Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_another_app_is_in_the_way(programs: Path, elsewhere: Mapping[str, str]) -> None:
    done = subprocess.run([programs / "python", "-c", "import app"], env=elsewhere, capture_output=True, check=False)
    assert b"somebody else's" in done.stderr


def test_what_it_requires_is_there(programs: Path) -> None:
    assert broken_requirements(programs) == ""


def test_the_wheel_has_no_package_of_that_name(programs: Path) -> None:
    names = {path.name for path in programs.parent.glob("lib/*/site-packages/*")}
    assert "execution_api" in names
    assert "app" not in names
    assert not {"tests", "bench", "scripts"} & names


@pytest.mark.parametrize("command", [["execution-api"], ["python", "-m", "execution_api"]], ids=" ".join)
def test_the_command_is_ours(command: list[str], programs: Path, elsewhere: Mapping[str, str]) -> None:
    assert _said(programs / command[0], *command[1:], "--version", environment=elsewhere) == f"{__version__}\n"


def test_a_process_that_validates_params_is_ours(programs: Path, elsewhere: Mapping[str, str]) -> None:
    said = _said(programs / "python", "-c", VALIDATES_IN_A_PROCESS, environment=elsewhere)
    assert said == "Invalid input for param letter: 'b' does not match '^a$'\n"


def test_it_checks_and_serves(
    programs: Path, elsewhere: Mapping[str, str], make_database: Callable[[str], str], tmp_path: Path
) -> None:
    environment = {**elsewhere, **airflow_settings(make_database("3.3"))}
    environment["AIRFLOW__EXECUTION_API_SERVICE__DRAIN_SECONDS"] = "0"
    assert "ok    database" in _said(programs / "execution-api", "check", environment=environment)
    port = free_port()
    command = [str(programs / "execution-api"), "serve", "--host", "127.0.0.1", "--port", str(port), "--workers", "2"]
    with running(command, port=port, environment=environment, log=tmp_path / "log") as server:
        assert server.stop() == 0
