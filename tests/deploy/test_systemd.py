"""The unit, judged by systemd, and what the service tells it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from app.commands.embedded import free_port
from tests import debian
from tests.servers import ROOT, Server, airflow_settings, clean_environment

pytestmark = pytest.mark.slow

UNIT = ROOT / "deploy" / "systemd" / "execution-api.service"
PROGRAM = "/opt/execution-api/bin/execution-api"
SOON = 60.0  # seconds


def _said(name: str) -> list[str]:
    return [line.partition("=")[2] for line in UNIT.read_text().splitlines() if line.startswith(f"{name}=")]


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    debian.install("systemd", programs=("systemd-analyze",))
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(PROGRAM, str(Path(sys.executable).with_name("execution-api"))))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert ours == []


@pytest.mark.parametrize("is_abstract", [False, True])
def test_it_is_told_when_the_service_is_ready_and_when_it_ends(
    is_abstract: bool, make_database: Callable[[str], str], tmp_path: Path
) -> None:
    assert _said("Type") == ["notify"]
    command = _said("ExecStart")[0].removeprefix(PROGRAM).split()
    port = free_port()
    environment = {**clean_environment(), **airflow_settings(make_database("3.3")), "AIRFLOW_HOME": str(tmp_path)}
    environment |= {"AIRFLOW__EXECUTION_API_SERVICE__PORT": str(port), "AIRFLOW__EXECUTION_API_SERVICE__DRAIN_SECONDS": "1"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, (tmp_path / "log").open("wb") as log:
        systemd.bind(f"\0{tmp_path}" if is_abstract else str(tmp_path / "notify"))
        systemd.settimeout(SOON)
        environment["NOTIFY_SOCKET"] = f"@{tmp_path}" if is_abstract else str(tmp_path / "notify")
        process = subprocess.Popen(
            [sys.executable, "-m", "app", *command], env=environment, stderr=log, start_new_session=True
        )
        server = Server(process, f"http://127.0.0.1:{port}/execution", tmp_path / "log")
        try:
            assert systemd.recv(100) == b"READY=1"
            assert httpx.get(f"{server.base_url}/health/ping", timeout=SOON).status_code == 200
            process.send_signal(signal.SIGTERM)  # the parent's alone: KillMode=mixed
            assert systemd.recv(100) == b"STOPPING=1"
            assert process.wait(SOON) == 0
        finally:
            server.stop(signal.SIGKILL)


def test_it_is_killed_no_sooner_than_it_has_drained() -> None:
    (stop,) = _said("TimeoutStopSec")
    assert int(stop) >= 10 + 20  # drain_seconds, and what the help of operations adds
    assert _said("KillMode") == ["mixed"]
    assert set(_said("RestartPreventExitStatus")[0].split()) == {"2", "64"}
