"""Two instances behind a real proxy are restarted one after the other under load: no client sees an error.

The clients are the real Task SDK's. They would send again what a proxy answers with 502, or what is cut off: none of that
may happen, so what they asked and what they were told is counted below their attempts.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest

from app.commands.embedded import free_port
from tests import debian
from tests.history import queue
from tests.servers import our_server
from tests.task_sdk.living import sdk_clients

pytestmark = pytest.mark.slow

RESTARTS = 10
TASKS = 12
SETTINGS = {"AIRFLOW__EXECUTION_API_SERVICE__DRAIN_SECONDS": "2"}  # the proxy asks ten times meanwhile
CONFIGURATION = """
defaults
    mode http
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    timeout check 5s
    option redispatch 1
    default-server check inter 200ms fall 1 rise 1
frontend tasks
    bind 127.0.0.1:{port}
    default_backend instances
backend instances
    option httpchk GET /execution/health/ping
    balance roundrobin
    {servers}
frontend counts
    bind 127.0.0.1:{stats}
    stats enable
    stats uri /
"""


@contextmanager
def haproxy(folder: Path, *, port: int, stats: int, instances: list[int]) -> Iterator[None]:
    """Run Debian's HAProxy in front of instances, as an operator would configure it."""
    debian.install("haproxy", programs=("haproxy",))
    servers = "\n    ".join(f"server i{number} 127.0.0.1:{each}" for number, each in enumerate(instances))
    configuration = folder / "haproxy.cfg"
    configuration.write_text(CONFIGURATION.format(port=port, stats=stats, servers=servers))
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(["haproxy", "-db", "-f", str(configuration)], stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


async def until_up(stats: int, count: int) -> None:
    """Wait until the proxy has found as many instances ready."""
    async with httpx.AsyncClient(verify=False) as client, asyncio.timeout(60):
        while True:
            try:
                rows = (await client.get(f"http://127.0.0.1:{stats}/;csv")).text.splitlines()
            except httpx.TransportError:
                rows = []
            if sum(row.startswith("instances,i") and ",UP," in row for row in rows) == count:
                return
            await asyncio.sleep(0.05)


async def test_no_client_sees_an_error(make_database: Callable[[str], str], tmp_path: Path) -> None:
    url = make_database("3.3")
    tasks = await queue(url, TASKS)
    ports, stats = [free_port(), free_port(), free_port()], free_port()
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    with ExitStack() as stack:
        instances = [
            stack.enter_context(our_server(url, folder, workers=2, port=port, **SETTINGS))
            for folder, port in zip(folders, ports[1:], strict=True)
        ]
        stack.enter_context(haproxy(tmp_path, port=ports[0], stats=stats, instances=ports[1:]))
        await until_up(stats, 2)
        base_url = f"http://127.0.0.1:{ports[0]}/execution"
        async with sdk_clients(base_url, tasks, tmp_path, interval=0) as told:
            for number in range(RESTARTS):
                restarted, other = number % 2, (number + 1) % 2
                instances[restarted].process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(instances[restarted].process.wait, 60) == 0
                running = await asyncio.to_thread(
                    stack.enter_context,
                    our_server(url, folders[restarted], workers=2, port=ports[1 + restarted], **SETTINGS),
                )
                instances[restarted] = running
                await until_up(stats, 2)
                instances[other].process.send_signal(signal.SIGHUP)  # the same in place: new workers for old
        assert told.errors == {}
        assert set(told.heard) == {200, 201, 204, 404}, told
        assert sum(told.heard.values()) == told.asked > RESTARTS * TASKS * 5
    connection = await asyncpg.connect(url)
    assert await connection.fetchval("SELECT count(*) FROM task_instance WHERE state = 'success'") == TASKS
    await connection.close()
