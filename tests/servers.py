"""Server processes under test: ours, and Airflow's own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import jwt

from app.commands.embedded import free_port

ROOT = Path(__file__).parent.parent
AIRFLOW = {"3.2": "3.2.1", "3.3": "3.3.2", "3.4": "3.4.0b2"}  # the release that serves each metadata revision in the tests
SECRET = "a secret that only the tests know, long enough for HS512: " + "0123456789" * 2
FERNET_KEY = "81HqDtbqAywKSOumSha3BhWNOdQ26slT6K0YaZeZyPs="
AUDIENCE = "urn:airflow.apache.org:task"
START_TIMEOUT = 90.0  # seconds; Airflow's own server takes 10 s on two idle cores
INSTALL = ("pip", "install", "--require-hashes", "--compile-bytecode")  # as from a package: no start compiles it anew
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "execution-api-tests"


def token(ti_id: object, *, valid_for: int = 600, age: int = 0, secret: str = SECRET, **claims: Any) -> str:
    """Return a task token, as Airflow's scheduler would sign it."""
    now = int(time.time()) - age
    times = {"iat": now, "nbf": now, "exp": now + valid_for}
    named = {"sub": str(ti_id), "aud": AUDIENCE, "jti": uuid.uuid4().hex, **times, **claims}
    return jwt.encode({k: v for k, v in named.items() if v is not None}, secret, algorithm="HS512")


def clean_environment() -> dict[str, str]:
    """Return this process's environment without anything that Airflow would read."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}


def airflow_settings(database_url: str, **overrides: str) -> dict[str, str]:
    """Return the settings that our server and Airflow share."""
    return {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database_url.replace("postgresql://", "postgresql+psycopg2://"),
        "AIRFLOW__API_AUTH__JWT_SECRET": SECRET,
        "AIRFLOW__CORE__FERNET_KEY": FERNET_KEY,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        **overrides,
    }


@dataclass
class Server:
    """A running server process.

    :param log: where its standard output and error go.
    """

    process: subprocess.Popen[bytes]
    base_url: str
    log: Path
    database_url: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def client(self, ti_id: object | None = None, **options: Any) -> httpx.AsyncClient:
        """Return a client that speaks for a task instance."""
        headers = {"Authorization": f"Bearer {token(ti_id)}"} if ti_id else {}
        options.setdefault("verify", False)  # plain HTTP: spare every test the loading of certificates
        return httpx.AsyncClient(base_url=self.base_url, headers={**headers, **options.pop("headers", {})}, **options)

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            os.killpg(self.process.pid, sig)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait(10)

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        with httpx.Client(timeout=2) as client:
            while True:
                try:
                    if client.get(f"{self.base_url}/health").status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise RuntimeError(f"the server did not start:\n{self.log.read_text(errors='replace')[-3000:]}")
                time.sleep(0.01)


@contextmanager
def running(command: list[str], *, port: int, environment: Mapping[str, str], log: Path) -> Iterator[Server]:
    """Run a server until the block ends."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=dict(environment), stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        )
    server = Server(process, f"http://127.0.0.1:{port}/execution", log)
    try:
        server.wait_until_healthy()
        yield server
    finally:
        server.stop()


@asynccontextmanager
async def beside_the_loop(server: AbstractContextManager[Server]) -> AsyncIterator[Server]:
    """Start and stop a server in a thread: the running loop may have to forward what it sends to its database meanwhile.

    In one thread, so that what is interrupted while it starts is stopped once it has.
    """
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as thread:
        try:
            yield await loop.run_in_executor(thread, server.__enter__)
        finally:
            await loop.run_in_executor(thread, server.__exit__, None, None, None)


@contextmanager
def our_server(
    database_url: str, folder: Path, *, workers: int = 1, port: int | None = None, **settings: str
) -> Iterator[Server]:
    """Run ``execution-api serve`` on a database.

    :param folder: for its log and as ``AIRFLOW_HOME``.
    :param port: a free one by default.
    :param settings: further ``AIRFLOW__...`` settings.
    """
    port = port or free_port()
    environment = {**clean_environment(), **airflow_settings(database_url), "AIRFLOW_HOME": str(folder)}
    environment["AIRFLOW__EXECUTION_API_SERVICE__PREVIEW_RELEASES"] = ",".join(AIRFLOW)
    environment |= {"AIRFLOW__EXECUTION_API_SERVICE__DRAIN_SECONDS": "0", **settings}  # nobody balances the tests' requests
    command = [sys.executable, "-W", "error", "-m", "app", "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", str(workers)]
    with running(command, port=port, environment=environment, log=folder / "ours.log") as server:
        server.database_url = database_url
        yield server


@contextmanager
def airflow_server(
    version: str, database_url: str, folder: Path, *, port: int | None = None, **settings: str
) -> Iterator[Server]:
    """Run Airflow's own execution API server on a database.

    :param port: a free one by default.
    """
    port = port or free_port()
    home = folder / f"airflow-{version}"
    home.mkdir(parents=True, exist_ok=True)
    environment = airflow_process_environment(version, database_url, home, **settings)
    command = [str(airflow_environment(version) / "bin" / "airflow"), "api-server", "--apps", "execution"]
    command += ["--port", str(port), "--host", "127.0.0.1"]
    with running(command, port=port, environment=environment, log=home / "api-server.log") as server:
        server.database_url = database_url
        yield server


def airflow_process_environment(version: str, database_url: str, home: Path, **settings: str) -> dict[str, str]:
    """Return the environment of an Airflow process."""
    environment = {**clean_environment(), **airflow_settings(database_url), "AIRFLOW_HOME": str(home), **settings}
    environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"] = database_url.replace("postgresql://", "postgresql+asyncpg://")
    environment["PATH"] = f"{airflow_environment(version) / 'bin'}:{environment['PATH']}"
    return environment


def airflow_environment(version: str) -> Path:
    """Return a virtual environment with this Airflow, pinned by hash and kept in the user's cache folder."""
    return pinned_environment(f"airflow-{version}")


def with_pods() -> dict[str, str]:
    """Return the settings with which an Airflow process finds what Dags with pods need, after its own libraries."""
    (libraries,) = pinned_environment("kubernetes", "--no-deps").glob("lib/*/site-packages")
    return {"PYTHONPATH": str(ROOT / "tests" / "last_on_path"), "LAST_ON_PATH": str(libraries)}


def pinned_environment(name: str, *options: str) -> Path:
    """Return the virtual environment of ``requirements/NAME.txt``, installed on first use, outside the checkout.

    :param options: further ones of ``pip install``.
    """
    requirements = ROOT / "requirements" / f"{name}.txt"
    how = (*INSTALL, *options)
    digest = sha256(requirements.read_bytes() + " ".join((*how, sys.version)).encode()).hexdigest()[:12]
    folder = CACHE / f"{name}-{digest}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        uv = [sys.executable, "-m", "uv", "--quiet"]
        subprocess.run([*uv, "venv", "--python", sys.executable, str(folder)], check=True)
        install = [*uv, *how, "--python", str(folder / "bin" / "python"), "-r", str(requirements)]
        subprocess.run(install, check=True)
        (folder / "complete").touch()
    return folder
