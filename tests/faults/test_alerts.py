"""Each alert fires in the situation that it is for, and in no other: Prometheus scrapes a service to which it happens.

The rules are the delivered ones, with windows of seconds. A machine that is too busy is ``EventLoopLate``'s situation: that
one may fire at any time. It is brought about by what a container's CPU limit does: the processes stand still for a part of
each second.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from app.commands.embedded import free_port
from tests import debian
from tests.commands.test_workers import serving, workers_of
from tests.conditions import until
from tests.faults.test_held_rows import holding
from tests.relay import Relay, relay
from tests.servers import Server, beside_the_loop, our_server, token
from tests.unit.test_monitoring import ALERT, DASHBOARD, RULES
from tests.world import World

pytestmark = pytest.mark.slow

WORKERS = 4
WINDOWS = {"1m": "6s", "5m": "6s", "15m": "10s"}
FOR = "1s"
SCRAPED = 8  # samples after which the windows are full
SOON = {"within": 60.0, "pause": 0.2}  # seconds for what takes a few, on a busy machine
ANY_TIME = {"EventLoopLate"}
BEAT = {"hostname": "worker", "pid": 42}
CROWD = 120  # requests under way at once: six seconds of what four connections can do at FAR
BEATING = 20  # heartbeats beside them: more than are recorded one by one
FAR = 0.1  # seconds to the database, one way
CONFIGURATION = """
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: execution-api
    static_configs: [{targets: ["ADDRESS"]}]
"""


@dataclass
class Watched:
    """A service, what happens to it, and the Prometheus that watches.

    :param ti: a task that runs and sends heartbeats all the time.
    """

    server: Server
    between: Relay
    prometheus: httpx.AsyncClient
    ti: Any

    async def query(self, expression: str) -> list[dict[str, Any]]:
        answer = await self.prometheus.get("/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["data"]["result"])

    async def fired(self) -> set[str]:
        """Return the alerts that have ever fired, but those that may at any time."""
        found = await self.query('last_over_time(ALERTS{alertstate="firing"}[1h])')
        return {each["metric"]["alertname"] for each in found}

    async def firing(self) -> set[str]:
        return {each["metric"]["alertname"] for each in await self.query('ALERTS{alertstate="firing"}')}

    async def beat(self, client: httpx.AsyncClient) -> None:
        await client.put(f"/task-instances/{self.ti}/heartbeat", json=BEAT)

    def client(self, **options: Any) -> httpx.AsyncClient:
        return self.server.client(self.ti, timeout=30, **options)


def shortened(rules: str) -> str:
    """Return the rules with short windows and durations; the expressions are otherwise as they are."""
    text = re.sub(r"(\[|offset )(\d+m)\b", lambda found: found[1] + WINDOWS[found[2]], rules)
    return re.sub(r"\bfor: \w+", f"for: {FOR}", text)


@asynccontextmanager
async def prometheus(target: str, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Run Prometheus on a target until the block ends."""
    debian.install("prometheus", programs=("prometheus",))
    (folder / "rules.yaml").write_text(shortened(RULES.read_text()))
    (folder / "prometheus.yaml").write_text(CONFIGURATION.replace("ADDRESS", target))
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, f"--web.listen-address={address}", stdout=log, stderr=log)
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", verify=False) as client:

            async def is_ready() -> bool:
                assert process.returncode is None, (folder / "prometheus.log").read_text()
                with suppress(httpx.TransportError):
                    return (await client.get("/-/ready")).status_code == 200
                return False

            await until(is_ready, **SOON)
            yield client
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def again_and_again(*calls: Callable[[], Awaitable[object]], pause: float = 0.0) -> AsyncIterator[None]:
    """Make each of the calls again and again until the block ends."""
    done = asyncio.Event()

    async def repeat(call: Callable[[], Awaitable[object]]) -> None:
        while not done.is_set():
            with suppress(httpx.TransportError):  # its worker was killed; the next has a new connection
                await call()
            with suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), pause)

    running = [asyncio.create_task(repeat(call)) for call in calls]
    try:
        yield
    finally:
        done.set()
        await asyncio.gather(*running)


Situation = Callable[[Watched], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def the_processes_have_no_core_each(watched: Watched) -> AsyncIterator[None]:
    async def stand_still() -> None:
        for sign, seconds in ((signal.SIGSTOP, 0.5), (signal.SIGCONT, 0.2)):
            for pid in workers_of(watched.server):
                os.kill(pid, sign)
            await asyncio.sleep(seconds)

    async with again_and_again(stand_still):
        yield


@asynccontextmanager
async def more_is_asked_than_the_connections_can_serve(watched: Watched) -> AsyncIterator[None]:
    watched.between.latency = FAR
    async with watched.client(limits=httpx.Limits(max_connections=None)) as client:
        ask, beat = lambda: client.get("/variables/any"), lambda: watched.beat(client)
        async with again_and_again(*[ask] * CROWD, *[beat] * BEATING):
            yield
            watched.between.latency = 0.0


@asynccontextmanager
async def a_row_is_held(watched: Watched) -> AsyncIterator[None]:
    async with watched.client() as client:
        assert (await client.put("/variables/held", json={"value": "x"})).status_code == 201
        async with (
            again_and_again(lambda: client.put("/variables/held", json={"value": "y"})),
            holding(watched.server.database_url, "UPDATE variable SET description = 'x'"),
        ):
            yield


@asynccontextmanager
async def a_statement_is_wrong(watched: Watched) -> AsyncIterator[None]:
    """Somebody's own trigger has a mistake in it, once."""
    connection = await asyncpg.connect(watched.server.database_url)
    await connection.execute(
        "CREATE FUNCTION wrong() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'SELEC'; RETURN NEW; END $$;"
        "CREATE TRIGGER wrong BEFORE INSERT OR UPDATE ON variable FOR EACH ROW EXECUTE FUNCTION wrong()"
    )
    async with watched.client() as client:
        assert (await client.put("/variables/other", json={"value": "x"})).status_code == 500
    await connection.execute("DROP FUNCTION wrong CASCADE")
    await connection.close()
    yield


@asynccontextmanager
async def the_keys_differ(watched: Watched) -> AsyncIterator[None]:
    foreign = {"Authorization": f"Bearer {token(watched.ti, secret='another ' * 10)}"}
    async with watched.client(headers=foreign) as client, again_and_again(lambda: client.get("/variables/any"), pause=0.2):
        yield


@asynccontextmanager
async def the_database_is_away(watched: Watched) -> AsyncIterator[None]:
    async with watched.client() as client, again_and_again(*[lambda: watched.beat(client)] * BEATING):
        await watched.between.refuse()
        watched.between.cut()
        yield
        await watched.between.listen()


@asynccontextmanager
async def workers_are_killed(watched: Watched) -> AsyncIterator[None]:
    """All but one, at once, as by a kernel that is short of memory."""
    for pid in workers_of(watched.server)[1:]:
        os.kill(pid, signal.SIGKILL)
    yield


# By what happens: the alerts that are for it, and what else of ours may fire then, since it has that effect too.
SITUATIONS: tuple[tuple[Situation, set[str], set[str]], ...] = (
    (the_processes_have_no_core_each, {"EventLoopLate"}, set()),
    (the_keys_differ, {"TokensRefused"}, set()),
    (a_statement_is_wrong, {"Defects"}, set()),
    (a_row_is_held, {"LocksHeld"}, {"RequestsUnavailable"}),
    (more_is_asked_than_the_connections_can_serve, {"ConnectionsAwaited", "RequestsUnavailable"}, set()),
    (the_database_is_away, {"HeartbeatsFail"}, set()),
    (workers_are_killed, {"WorkersDie"}, set()),
)


@asynccontextmanager
async def watched(url: str, folder: Path) -> AsyncIterator[Watched]:
    """Run a service with a task that lives, and Prometheus beside it."""
    connection = await asyncpg.connect(url)
    ti = await World(connection).one_running("watched")
    await connection.close()
    async with relay(url) as between:
        one = our_server(between.url(url), folder, workers=WORKERS, AIRFLOW__EXECUTION_API_SERVICE__POOL_SIZE="1")
        async with beside_the_loop(one) as server:
            server.database_url = url
            await until(lambda: len(serving(server)) == WORKERS, **SOON)
            target = server.base_url.removeprefix("http://").removesuffix("/execution")
            async with prometheus(target, folder) as asked:
                service = Watched(server, between, asked, ti)
                async with (
                    service.client() as client,
                    again_and_again(lambda: service.beat(client), lambda: client.get("/variables/any"), pause=0.2),
                ):
                    yield service


async def test_each_alert_fires_in_its_situation_and_in_no_other(
    make_database: Callable[[str], str], tmp_path: Path
) -> None:
    """None fires before its own situation; afterwards each ends, and every panel of the dashboard has something to show."""
    async with watched(make_database("3.3"), tmp_path) as service:

        async def is_scraped() -> bool:
            return any(float(each["value"][1]) >= SCRAPED for each in await service.query("count_over_time(up[1h])"))

        await until(is_scraped, **SOON)
        may = set(ANY_TIME)
        for situation, alerts, effects in SITUATIONS:
            assert await service.fired() <= may

            async def have_fired(alerts: set[str] = alerts) -> bool:
                return alerts <= await service.fired()

            async with situation(service):
                with suppress(TimeoutError):
                    await until(have_fired, **SOON)
            assert alerts <= await service.fired(), situation.__name__
            may |= alerts | effects
            assert await service.fired() <= may, situation.__name__
        assert may == set(ALERT.findall(RULES.read_text()))

        async def is_quiet() -> bool:
            return await service.firing() == set()

        await until(is_quiet, **SOON)
        assert [title for title, each in panels() if not await shows(service, each)] == []


def panels() -> list[tuple[str, str]]:
    """Return the title and the expression of everything that the dashboard shows."""
    found = json.loads(DASHBOARD.read_text())["panels"]
    return [
        (panel["title"], target["expr"].replace("$job", "execution-api").replace("$__rate_interval", "10m"))
        for panel in found
        for target in panel.get("targets", ())
    ]


async def shows(service: Watched, expression: str) -> bool:
    """Say whether an expression tells a number."""
    return any(not math.isnan(float(each["value"][1])) for each in await service.query(expression))
