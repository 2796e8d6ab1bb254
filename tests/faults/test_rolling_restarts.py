"""Two instances behind a real proxy are restarted one after the other under load: no client sees an error.

Clients are stricter than the Task SDK's: they repeat nothing.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx
import pytest

from app.commands.embedded import free_port
from tests import debian
from tests.servers import Server, our_server
from tests.world import World

pytestmark = pytest.mark.slow

RESTARTS = 10
TASKS = 12
BEAT = {"hostname": "worker", "pid": 42}
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


async def live(base_url: str, server: Server, ti: UUID, number: int, ended: asyncio.Event, told: Counter[int]) -> None:
    """Ask as a task does, again and again; any error ends the test."""
    async with server.client(ti, timeout=10) as client:
        client.base_url = httpx.URL(base_url)
        xcom = f"/xcoms/rolled/manual__1/job{number}/key"
        while not ended.is_set():
            for answer in (
                await client.put(f"/task-instances/{ti}/heartbeat", json=BEAT),
                await client.post(xcom, json={"n": 1}),
                await client.get(xcom),
                await client.patch(f"/task-instances/{ti}/rendered-map-index", json="label"),
                await client.get("/variables/none"),
            ):
                told[answer.status_code] += 1


async def test_no_client_sees_an_error(make_database: Callable[[str], str], tmp_path: Path) -> None:
    url = make_database("3.3")
    connection = await asyncpg.connect(url)
    world = World(connection)
    await world.dag("rolled")
    await world.run("rolled")
    tasks = [
        await world.ti("rolled", f"job{n}", state="running", hostname=BEAT["hostname"], pid=BEAT["pid"])
        for n in range(TASKS)
    ]
    await connection.close()
    ports, stats = [free_port(), free_port(), free_port()], free_port()
    told: Counter[int] = Counter()
    ended = asyncio.Event()
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
        lives = [
            asyncio.create_task(live(base_url, instances[0], ti, number, ended, told)) for number, ti in enumerate(tasks)
        ]
        for number in range(RESTARTS):
            restarted, other = number % 2, (number + 1) % 2
            instances[restarted].process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(instances[restarted].process.wait, 60) == 0
            running = await asyncio.to_thread(
                stack.enter_context, our_server(url, folders[restarted], workers=2, port=ports[1 + restarted], **SETTINGS)
            )
            instances[restarted] = running
            await until_up(stats, 2)
            instances[other].process.send_signal(signal.SIGHUP)  # the same in place: new workers for old
        ended.set()
        await asyncio.gather(*lives)
        assert set(told) == {200, 201, 204, 404}, told
        assert told.total() > RESTARTS * TASKS * 5
