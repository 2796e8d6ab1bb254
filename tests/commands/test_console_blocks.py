"""Every console block of the README and of docs/operations.md runs as it stands, in a copy, from an empty home."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.commands.embedded import free_port
from tests import debian
from tests.conftest import reachable
from tests.servers import FERNET_KEY, ROOT, SECRET
from tests.wheels import copy_sources

BLOCK = re.compile(r"^```console\n(.*?)^```$", re.M | re.S)
README, OPERATIONS = (BLOCK.findall((ROOT / name).read_text()) for name in ("README.md", "docs/operations.md"))
NEEDS = {  # what a block begins with that cannot run here
    "docker ": "a container engine; tests/deploy follows the steps of the images",
    "cd deploy/compose": "a container engine; tests/deploy starts the services as processes",
    "cp deploy/systemd": "systemd as the first process; tests/deploy has it verify the unit",
    "aws ": "an account; tests/deploy asks AWS's model",
    "helm ": "a cluster; tests/deploy renders the chart",
}
NOT_RUN = {
    "make test\n": "it is what runs this",
    **{block: needed for block in OPERATIONS for begins, needed in NEEDS.items() if block.startswith(begins)},
}
SOURCES = ("app", "execution_api", "docs", "deploy", "requirements", "Makefile", "README.md", "LICENSE", "pyproject.toml")
SERVES = "execution-api serve "
CTRL_C = b"\x03"
TIMEOUT = 600.0  # seconds; pip takes most of them, one minute where nobody else works


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what is installed and run, and nothing that was made from it."""
    return copy_sources(SOURCES, reachable(tmp_path_factory.mktemp("checkout")))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment with an empty home, and nothing else but what tells pip where packages are."""
    home = reachable(tmp_path) / "home"
    home.mkdir()
    python = Path(os.path.realpath(sys.executable)).parent
    about_packages = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    return {"HOME": str(home), "PATH": f"{python}:/usr/bin:/bin", **about_packages}


def test_what_is_not_run_is_there() -> None:
    assert [block for block in NOT_RUN if block not in README + OPERATIONS] == []
    assert set(NEEDS.values()) <= set(NOT_RUN.values())
    assert len(OPERATIONS) > 6


@pytest.fixture
def in_a_terminal(sources: Path, environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[[str], Terminal]]:
    started: list[Terminal] = []

    def start(command: str) -> Terminal:
        arguments = f"--port {free_port()} --data {tmp_path / 'data'}"
        started.append(Terminal(command, sources, {**environment, "ARGS": arguments}, tmp_path / "screen"))
        return started[-1]

    yield start
    for terminal in started:
        terminal.close()


class Terminal:
    """A command in a terminal, in which keys can be pressed."""

    def __init__(self, command: str, folder: Path, environment: dict[str, str], screen: Path) -> None:
        self._screen = screen
        with screen.open("wb") as output:
            self.process = subprocess.Popen(
                ["script", "--quiet", "--return", "--flush", "--command", command, "/dev/null"],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                start_new_session=True,
            )

    @property
    def shown(self) -> str:
        return self._screen.read_text(errors="replace")

    def until(self, said: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while said not in self.shown:
            assert self.process.poll() is None, self.shown
            assert time.monotonic() < deadline, self.shown
            time.sleep(0.1)

    def press(self, key: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(key)
        self.process.stdin.flush()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()  # what runs in it hears that its terminal is gone
            self.process.wait(30)
        assert self.process.stdin
        self.process.stdin.close()


@pytest.mark.slow
@pytest.mark.timeout(2 * TIMEOUT)
def test_the_readme(in_a_terminal: Callable[[str], Terminal]) -> None:
    (block,) = (block for block in README if block not in NOT_RUN)
    terminal = in_a_terminal(block.strip())
    terminal.until("Ctrl-C stops the server and the database; the data stays.")
    for said in ("Installing into .venv", "Starting PostgreSQL", "Making the tables of Airflow 3.3", "execution-api --help"):
        assert said in terminal.shown
    terminal.until("newest_api_date")  # it serves
    terminal.press(CTRL_C)
    terminal.process.wait(30)
    assert "Stopping." in terminal.shown
    assert "Error" not in terminal.shown


@pytest.mark.slow
@pytest.mark.timeout(2 * TIMEOUT)
def test_the_operations(
    sources: Path, environment: dict[str, str], make_database: Callable[[str], str], tmp_path: Path
) -> None:
    debian.install("prometheus", programs=("promtool",))
    for name, secret in (("jwt_secret", SECRET), ("fernet_key", FERNET_KEY)):
        (tmp_path / name).write_text(secret)
    port = str(free_port())
    of_the_reader = {
        "postgresql://airflow:secret@db.example.com/airflow": make_database("3.3"),
        "/etc/airflow/": f"{tmp_path}/",
        "9091": port,
    }
    script = ["set -euxo pipefail", f"cd {sources}", "export AIRFLOW__EXECUTION_API_SERVICE__DRAIN_SECONDS=0"]
    script += ["served=", "trap 'kill $served || :' EXIT"]
    for block in OPERATIONS:
        if block in NOT_RUN:
            continue
        for text, own in of_the_reader.items():
            block = block.replace(text, own)
        for line in block.splitlines():
            if line.startswith(SERVES):
                script += [f"{line} & served=$!"]
                script += [
                    f"until curl --silent http://127.0.0.1:{port}/execution/health; do kill -0 $served; sleep 0.1; done"
                ]
            else:
                script += [line]
    script += ["kill $served", "wait $served", "served="]  # with its exit code
    (tmp_path / "script").write_text("\n".join(script))
    done = subprocess.run(
        ["bash", str(tmp_path / "script")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert '{"ok":["database"],"failing":{}}' in done.stdout
    assert "http_requests_total" in done.stdout
