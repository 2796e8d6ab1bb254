"""A real Airflow: scheduler with LocalExecutor, triggerer and Dag processor, pointed at an execution API."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from app.commands.embedded import free_port
from tests import debian
from tests.servers import airflow_environment, airflow_process_environment

DAGS = Path(__file__).parent / "dags"
SETTINGS = {
    "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
    "AIRFLOW__CORE__PARALLELISM": "6",
    "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
    "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
    # The first token lasts 35 s, so that its first heartbeat is inside the 30 s in which a token is renewed.
    "AIRFLOW__EXECUTION_API__JWT_EXPIRATION_TIME": "35",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
}
CELERY_WORKER = "celery worker --concurrency 6 --without-gossip --without-mingle --skip-serve-logs"


@contextmanager
def celery_settings(database_url: str) -> Iterator[dict[str, str]]:
    """Run a redis server until the block ends; yield the settings with which tasks go to Celery workers through it."""
    debian.install("redis-server", programs=("redis-server",))
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        yield {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CELERY__BROKER_URL": f"redis://127.0.0.1:{port}/0",
            "AIRFLOW__CELERY__RESULT_BACKEND": database_url.replace("postgresql://", "db+postgresql://"),
        }
    finally:
        process.terminate()
        process.wait(10)


class Airflow:
    """One Airflow installation on one database.

    :param version: such as ``3.2.1``.
    :param database_url: an empty database, or one that this Airflow migrated.
    :param home: its ``AIRFLOW_HOME``.
    :param settings: further environment variables.
    """

    def __init__(self, version: str, database_url: str, home: Path, **settings: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.binaries = airflow_environment(version) / "bin"
        self.environment = airflow_process_environment(version, database_url, home, **{**SETTINGS, **settings})

    def run(self, *arguments: str) -> None:
        """Run an Airflow command to its end."""
        self._run([str(self.binaries / "airflow"), *arguments])

    def trigger(self, dag_ids: Sequence[str]) -> None:
        """Trigger one run of each Dag; of a partition by ``DAG=KEY``."""
        self._run([str(self.binaries / "python"), str(Path(__file__).parent / "trigger.py"), *dag_ids])

    @contextmanager
    def components(self, execution_api_url: str, *others: str) -> Iterator[None]:
        """Run scheduler, triggerer and Dag processor, and other commands of Airflow, until the block ends."""
        with ExitStack() as stack:
            for component in ("scheduler", "triggerer", "dag-processor", *others):
                stack.enter_context(self.component(component, execution_api_url))
            yield

    @contextmanager
    def component(self, name: str, execution_api_url: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run one command of Airflow until the block ends; PostgreSQL knows its sessions by its name."""
        environment = {**self.environment, "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{execution_api_url}/"}
        environment["PGAPPNAME"] = name.partition(" ")[0]
        with (self.home / f"{name.partition(' ')[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(self.binaries / "airflow"), *name.split()],
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            _end(process)

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a component and everything that it started."""
    for sig, patience in ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, sig)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + patience
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
