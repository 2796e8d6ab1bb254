"""The longest turn of the event loop, in CPU time, beside large requests: for so long nobody else is served.

Other work on the machine does not lengthen CPU time, so this can be measured anywhere. The server runs in this process, a
client in another: ``python -m bench.turns``.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time

import asyncpg
import uvicorn

from app.main import create_app
from app.server import logs
from app.server.protocol import Protocol
from app.settings import DatabaseSettings, Settings, TokenSettings
from app.settings.database_url import async_url
from bench import cluster
from bench.bodies import REQUESTS
from bench.driver import Task
from tests.servers import FERNET_KEY, SECRET
from tests.world import World

CLIENT = """
import json, sys
from bench.bodies import REQUESTS, ask
from bench.driver import Task
base_url, name, *task = json.loads(sys.stdin.read())
print(ask(base_url, REQUESTS[name], Task(*task), REQUESTS[name].content()))
"""


def main() -> None:
    with cluster.temporary() as (postgres, _):
        postgres.create_metadata_database("airflow", "3.3")
        with asyncio.Runner(loop_factory=uvicorn.Config("", loop="uvloop").get_loop_factory()) as runner:
            runner.run(measure(postgres.url("airflow")))


async def measure(url: str) -> None:
    """Serve each large request and print the longest turn beside it."""
    logs.configure(form="json")
    connection = await asyncpg.connect(url)
    world = World(connection, "3.3")
    await world.dag("bench")
    await world.run("bench")
    task = Task.of(await world.running("bench"), "job", "manual__1")
    database = DatabaseSettings(url=async_url(url, setting="url"))
    settings = Settings(database=database, tokens=TokenSettings(secret=SECRET), fernet_keys=(FERNET_KEY,))
    config = uvicorn.Config(create_app(settings), http=Protocol, lifespan="on", access_log=False, log_config=None)
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))  # who connects before it serves waits
    serving = asyncio.create_task(server.serve([listening]))
    turns, base_url = Turns(), f"http://127.0.0.1:{listening.getsockname()[1]}/execution"
    await asked(next(iter(REQUESTS)), base_url, task)  # what the first request makes is made
    for name in REQUESTS:
        turns.longest = 0.0
        status = await asked(name, base_url, task)
        sys.stdout.write(f"| {name}: {status} | {turns.longest * 1000:.0f} ms |\n")
        sys.stdout.flush()
    server.should_exit = True
    await serving
    await connection.close()


async def asked(name: str, base_url: str, task: Task) -> str:
    """Ask in another process; return the status."""

    pipe = asyncio.subprocess.PIPE
    client = await asyncio.create_subprocess_exec(sys.executable, "-c", CLIENT, stdin=pipe, stdout=pipe)
    given = json.dumps([base_url, name, task.id, task.task_id, task.run_id, task.token])
    output, _ = await client.communicate(given.encode())
    return output.decode().strip()


class Turns:
    """Measures every turn of the running loop, which has no pause meanwhile."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._since = time.thread_time()
        self._next()

    def _next(self) -> None:
        now = time.thread_time()
        self.longest, self._since = max(self.longest, now - self._since), now
        asyncio.get_running_loop().call_soon(self._next)


if __name__ == "__main__":
    main()
