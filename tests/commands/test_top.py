"""``execution-api top`` as a person and a program run it: a real database, a real service, a real terminal."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import asyncpg
import pytest

from app import settings
from app.commands.embedded import free_port
from app.commands.readings import HELD_SINCE, metrics_url
from app.commands.screen import ENTER, LEAVE
from app.commands.top import run
from tests.commands.test_commands import COMMAND
from tests.relay import Relay
from tests.servers import Server, airflow_settings, clean_environment, our_server
from tests.world import World

PLANTED = "xyzzy-secret"
ONCE_IT_IS_LONG = "SELECT pg_sleep_until(xact_start + make_interval(secs => $2)) FROM pg_stat_activity WHERE pid = $1"
WITHIN = 60.0  # seconds in which what is waited for is on the screen, on a busy machine


@pytest.fixture(scope="module")
def url(make_database: Callable[[str], str]) -> str:
    return make_database("3.3")


@pytest.fixture(scope="module")
def served(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with our_server(url, tmp_path_factory.mktemp("served"), workers=2) as server:
        yield server


@pytest.fixture(scope="module")
async def held(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Hold the row of a running task, with a secret in the statement; yield who holds it."""
    connection, holder = await asyncpg.connect(url), await asyncpg.connect(url, server_settings={"application_name": "cron"})
    await World(connection, "3.3").one_running("sales")
    await connection.execute("UPDATE task_instance SET last_heartbeat_at = now() - interval '4 minutes'")
    await holder.execute("BEGIN")
    await holder.execute(f"SELECT '{PLANTED}' FROM task_instance WHERE task_id = 'job' FOR UPDATE")
    await connection.fetchval(ONCE_IT_IS_LONG, holder.get_server_pid(), HELD_SINCE)
    yield holder
    holder.terminate()
    await connection.close()


async def top(
    url: str, capsys: pytest.CaptureFixture[str], *, as_json: bool = False, metrics: str | None = None, **more: str
) -> tuple[bool, str]:
    """Run it in this process, once; return whether the database was read, and what was printed."""
    loaded = settings.load({"AIRFLOW_HOME": "/nonexistent", **airflow_settings(url), **more})
    is_read = await asyncio.to_thread(run, loaded, once=True, as_json=as_json, every=1.0, metrics=metrics)
    return is_read, capsys.readouterr().out


async def test_once(url: str, served: Server, held: asyncpg.Connection) -> None:
    """As a command: without a terminal it is once too, and nothing but lines of text."""
    done = await asyncio.to_thread(
        subprocess.run,
        [*COMMAND, "top", "--metrics", served.base_url.replace("/execution", "/metrics")],
        env={**clean_environment(), **airflow_settings(url), "AIRFLOW_HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert f"{urlsplit(url).port}/" in lines[0]
    assert lines[2].startswith("tasks     1 running  0 queued  1 heartbeat late (after 2 min 30 s; ended after 5 min 0 s)")
    assert lines[3].startswith("service ")
    assert any(line.endswith("GET /execution/health") for line in lines)
    holder = next(number for number, line in enumerate(lines) if line.startswith("unknown  holds 1  transaction of "))
    assert f"pid {held.get_server_pid()}  postgres@127.0.0.1  cron  idle in transaction for " in lines[holder]
    assert lines[holder + 1] == "  SELECT ? FROM task_instance WHERE task_id = ? FOR UPDATE"
    assert lines[holder + 2].startswith("    task_instance  sales / job  run_id manual__1  state running  id ")
    assert PLANTED not in done.stdout + done.stderr
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout


async def test_as_json(url: str, served: Server, held: asyncpg.Connection, capsys: pytest.CaptureFixture[str]) -> None:
    is_read, printed = await top(url, capsys, as_json=True, metrics=served.base_url.replace("/execution", "/metrics"))
    read = json.loads(printed)
    assert is_read
    assert read["tasks"].items() >= {"running": 1, "queued": 0, "late": 1, "heartbeat_timeout": 300.0}.items()
    assert read["service"]["requests"]["GET /execution/health"] >= 1
    (row,) = read["held"]
    assert row["row"].items() >= {"dag_id": "sales", "run_id": "manual__1", "task_id": "job", "state": "running"}.items()
    (holder,) = row["holders"]
    assert (holder["pid"], holder["component"]["name"]) == (held.get_server_pid(), "unknown")
    assert read["troubles"] == []
    assert PLANTED not in printed


async def test_without_a_service(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The database is told of all the same; what was asked for metrics is named."""
    is_read, printed = await top(url, capsys, AIRFLOW__API__PORT=(port := str(free_port())))
    assert is_read
    assert f"! no metrics at http://127.0.0.1:{port}/metrics (ConnectError): --metrics names another URL" in printed
    assert "tasks " in printed


async def test_without_a_database() -> None:
    """As a command: its exit code tells it too."""
    url = f"postgresql://user:s3cret@127.0.0.1:{free_port()}/airflow"
    done = await asyncio.to_thread(
        subprocess.run,
        [*COMMAND, "top", "--once"],
        env={**clean_environment(), **airflow_settings(url), "AIRFLOW_HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "! the database cannot be read: the database cannot be reached" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


async def test_while_a_table_is_locked(make_database: Callable[[str], str], capsys: pytest.CaptureFixture[str]) -> None:
    """As by a migration: who holds it is what one wants to know then."""
    url = make_database("3.3")
    migration = await asyncpg.connect(url)
    await migration.execute("BEGIN")
    await migration.execute("ALTER TABLE task_instance ADD COLUMN x int")
    await migration.fetchval("SELECT pg_sleep_until(now() + make_interval(secs => $1))", HELD_SINCE)
    await migration.execute("ALTER TABLE task_instance ADD COLUMN y int")
    is_read, printed = await top(url, capsys)
    migration.terminate()
    assert not is_read
    assert "! the tasks cannot be counted: a table is locked" in printed
    assert "migration  holds 1  transaction of " in printed
    assert "    table task_instance\n" in printed


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, "http://127.0.0.1:9091/metrics"),
        ({"AIRFLOW__API__HOST": "::", "AIRFLOW__EXECUTION_API_SERVICE__METRICS_PORT": "99"}, "http://[::1]:99/metrics"),
        ({"AIRFLOW__API__HOST": "10.0.0.7", "AIRFLOW__API__PORT": "80"}, "http://10.0.0.7:80/metrics"),
        ({"AIRFLOW__API__SSL_CERT": __file__, "AIRFLOW__API__SSL_KEY": __file__}, "https://127.0.0.1:9091/metrics"),
    ],
)
def test_where_the_service_of_the_settings_tells_its_metrics(more: dict[str, str], expected: str) -> None:
    environment = {"AIRFLOW_HOME": "/nonexistent", **airflow_settings("postgresql://db/airflow"), **more}
    assert metrics_url(settings.load(environment)) == expected


class Terminal:
    """A terminal of some size with ``top`` in it."""

    def __init__(self, process: subprocess.Popen[bytes], end: int) -> None:
        self.process, self.end, self.seen = process, end, ""

    async def shows(self, text: str) -> str:
        """Wait until it shows a text, and return the frame that has it."""
        async with asyncio.timeout(WITHIN):
            while text not in self.seen:
                await self._read()
        return self.seen

    async def _read(self) -> None:
        self.seen = (self.seen + (await asyncio.to_thread(os.read, self.end, 65_536)).decode(errors="replace"))[-20_000:]

    async def ended(self) -> int:
        """Return the exit code, once it has ended."""
        try:
            while True:
                await self._read()
        except OSError:  # nobody writes to the terminal any more
            return await asyncio.to_thread(self.process.wait, WITHIN)

    def resize(self, width: int, height: int) -> None:
        self.seen = ""
        fcntl.ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.process.send_signal(signal.SIGWINCH)


@contextmanager
def terminal(url: str, *arguments: str, width: int = 100, height: int = 30) -> Iterator[Terminal]:
    end, program = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    environment = {**clean_environment(), **airflow_settings(url), "AIRFLOW_HOME": "/nonexistent", "TERM": "xterm"}
    process = subprocess.Popen(
        [*COMMAND, "top", *arguments], env=environment, stdin=program, stdout=program, stderr=program, start_new_session=True
    )
    os.close(program)
    try:
        yield Terminal(process, end)
    finally:
        process.kill()
        process.wait()
        os.close(end)


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
async def test_live(url: str, served: Server, held: asyncpg.Connection, by: signal.Signals) -> None:
    """It looks again and again, fits the terminal whenever that changes, and gives the screen back in the end."""
    with terminal(url, "--every", "1", "--metrics", served.base_url.replace("/execution", "/metrics")) as screen:
        assert ENTER in await screen.shows("task_instance WHERE task_id = ?")
        await screen.shows("requests/s")
        screen.resize(30, 10)
        await screen.shows("holds 1")
        screen.process.send_signal(by)
        assert await screen.ended() == 0
        assert screen.seen.endswith(LEAVE)
        assert "Traceback" not in screen.seen


@pytest.mark.slow
async def test_live_while_the_database_is_away(url: str, held: asyncpg.Connection) -> None:
    relay = Relay("127.0.0.1", int(urlsplit(url).port or 0))
    await relay.listen()
    with terminal(relay.url(url), "--every", "1") as screen:
        await screen.shows("holds 1")
        await relay.refuse()
        relay.cut()
        await screen.shows("the database cannot be read")
        await relay.listen()
        screen.seen = ""
        await screen.shows("holds 1")
        screen.process.send_signal(signal.SIGINT)
        assert await screen.ended() == 0
    await relay.close()
