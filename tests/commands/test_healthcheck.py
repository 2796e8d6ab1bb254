"""``execution-api healthcheck``, which a container engine asks: liveness, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from app.commands.embedded import free_port
from tests.certificates import write_certificate
from tests.servers import Server, airflow_settings, clean_environment, our_server

pytestmark = pytest.mark.slow

PORT, DRAIN = "AIRFLOW__EXECUTION_API_SERVICE__PORT", "AIRFLOW__EXECUTION_API_SERVICE__DRAIN_SECONDS"


def _asked(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app", "healthcheck", *arguments]
    return subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)


@contextmanager
def _serving(environment: Mapping[str, str], *arguments: str) -> Iterator[None]:
    """Serve until the block ends, which begins when the same command with ``healthcheck`` says that it answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "serve", *arguments],
        env=dict(environment),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while (answer := _asked(environment, *arguments)).returncode:
            assert process.poll() is None, answer.stderr
        yield
    finally:
        assert Server(process, "", Path(os.devnull)).stop() == 0


@pytest.fixture
def database_url(make_database: Callable[[str], str]) -> str:
    return make_database("3.3")


@pytest.fixture
def environment(database_url: str, tmp_path: Path) -> dict[str, str]:
    return {**clean_environment(), **airflow_settings(database_url), "AIRFLOW_HOME": str(tmp_path), DRAIN: "0"}


async def test_it_asks_for_liveness_alone(database_url: str, tmp_path: Path) -> None:
    with our_server(database_url, tmp_path) as server:
        port = str(httpx.URL(server.base_url).port)
        asking = {**clean_environment(), PORT: port}  # no database, no keys
        assert _asked(asking).returncode == 0
        base, _, name = database_url.rpartition("/")
        connection = await asyncpg.connect(f"{base}/postgres")
        await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        await connection.close()
        async with server.client(timeout=10) as client:
            assert (await client.get("/health/ping")).status_code == 500
        assert _asked(clean_environment(), "--port", port).returncode == 0
        os.killpg(server.process.pid, signal.SIGSTOP)
        try:
            silent = _asked(asking)
        finally:
            os.killpg(server.process.pid, signal.SIGCONT)
        assert (silent.returncode, silent.stderr) == (1, f"execution-api: no answer from 127.0.0.1 port {port}: timed out\n")
    gone = _asked(asking)
    assert gone.returncode == 1
    assert "refused" in gone.stderr


def test_it_knows_tls_path_and_address(environment: dict[str, str], tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_certificate(certificate, key)
    environment |= {"AIRFLOW__API__SSL_CERT": str(certificate), "AIRFLOW__API__SSL_KEY": str(key), PORT: str(free_port())}
    environment |= {"AIRFLOW__API__BASE_URL": "https://airflow.example.com/prod", "AIRFLOW__API__HOST": "::1"}
    with _serving(environment):
        assert _asked({name: value for name, value in environment.items() if "SSL" not in name}).returncode == 1


def test_it_knows_a_socket(environment: dict[str, str], tmp_path: Path) -> None:
    with _serving(environment, "--uds", str(tmp_path / "http.sock")):
        assert _asked(environment).returncode == 1


def test_it_is_light() -> None:
    """An engine asks again and again, and gives a slow answer for none, also where processors are short."""
    program = """
import sys
from contextlib import suppress
from app.commands.cli import main
with suppress(SystemExit):
    main(["healthcheck"])
print(sorted({"asyncpg", "fastapi", "pydantic", "sqlalchemy", "uvicorn"} & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean_environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
