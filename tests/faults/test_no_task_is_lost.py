"""No started task is lost, and nothing that a worker was told is wrong, whatever fails while it runs.

Twelve workers as the Task SDK has them (``tests/history.py``) live their tasks; each fault happens while all of them run.
The database is reached through a relay, so that its network can fail as well; see ``test_outages.py`` for longer outages.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from app.commands.embedded import EmbeddedPostgres
from tests.conftest import reachable
from tests.history import History, Worker, queue, violations
from tests.relay import Relay, relay
from tests.servers import Server, our_server

pytestmark = pytest.mark.slow

TASKS = 12
BESIDES = 2.0  # seconds that workers go on after a fault ended, so that what it left behind is met


@dataclass
class Stage:
    """What a fault happens to.

    :param servers: two, on one database; a worker that is not answered asks the other one.
    """

    cluster: EmbeddedPostgres
    relay: Relay
    servers: list[Server]

    async def execute(self, *statements: str) -> None:
        connection = await asyncpg.connect(self.cluster.url())
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


Fault = Callable[[Stage], Awaitable[None]]
Serve = Callable[[str, Path], AbstractContextManager[Server]]
FAULTS: dict[str, Fault] = {}


def fault(function: Fault) -> Fault:
    FAULTS[function.__name__] = function
    return function


@fault
async def nothing(_: Stage) -> None:
    await asyncio.sleep(1)


@fault
async def every_connection_is_reset(stage: Stage) -> None:
    for _ in range(3):
        stage.relay.cut()
        await asyncio.sleep(0.5)


@fault
async def the_database_cannot_be_reached_for_ten_seconds(stage: Stage) -> None:
    await stage.relay.refuse()
    stage.relay.cut()
    await asyncio.sleep(10)
    await stage.relay.listen()


@fault
async def the_database_answers_nothing_for_twenty_seconds(stage: Stage) -> None:
    """Those that are connected hear nothing, and neither does who connects: a host that is gone."""
    stage.relay.is_accepting_silently = True
    stage.relay.silence()
    await asyncio.sleep(20)
    stage.relay.is_accepting_silently = False


@fault
async def postgresql_crashes(stage: Stage) -> None:
    os.kill(int((stage.cluster.data / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
    await asyncio.to_thread(stage.cluster.stop)
    await asyncio.to_thread(stage.cluster.start)


@fault
async def every_backend_is_terminated_again_and_again(stage: Stage) -> None:
    for _ in range(5):
        await stage.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'execution-api'"
        )
        await asyncio.sleep(0.3)


@fault
async def every_row_is_held_for_four_seconds(stage: Stage) -> None:
    await stage.execute("BEGIN", "SELECT FROM task_instance FOR UPDATE", "SELECT pg_sleep(4)", "COMMIT")


@fault
async def the_scheduler_writes_all_rows_again_and_again(stage: Stage) -> None:
    """As it does when a Dag has changed: the run is held, and its task instances are updated in no order."""
    bulk = "UPDATE task_instance SET updated_at = now() WHERE dag_id = 'd' AND state IN ('running', 'queued')"
    for _ in range(40):
        await stage.execute("BEGIN", "SELECT FROM dag_run FOR NO KEY UPDATE", bulk, "SELECT pg_sleep(0.05)", "COMMIT")


@fault
async def the_database_is_read_only_for_five_seconds(stage: Stage) -> None:
    """As a standby is that a failover left behind the same address."""
    await stage.execute(
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "SELECT pg_reload_conf()",
    )
    await asyncio.sleep(5)
    await stage.execute(
        "SET default_transaction_read_only = off",
        "ALTER SYSTEM RESET default_transaction_read_only",
        "SELECT pg_reload_conf()",
    )


@fault
async def the_disk_is_full_for_three_seconds(stage: Stage) -> None:
    raising = "BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END"
    await stage.execute(
        f"CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ {raising} $$",
        "CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON task_instance EXECUTE FUNCTION full_disk()",
        "CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON xcom EXECUTE FUNCTION full_disk()",
    )
    await asyncio.sleep(3)
    await stage.execute("DROP FUNCTION full_disk CASCADE")


@fault
async def a_server_is_killed(stage: Stage) -> None:
    stage.servers[0].stop(signal.SIGKILL)
    await asyncio.sleep(1)


@fault
async def a_server_ends_as_it_is_told(stage: Stage) -> None:
    await asyncio.to_thread(stage.servers[0].stop)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """Run a PostgreSQL of its own, which keeps what it acknowledged (``synchronous_commit`` is on)."""
    with EmbeddedPostgres(reachable(tmp_path_factory.mktemp("lost"))) as server:
        server.create_metadata_database("airflow", "3.3")
        yield server


async def lived(
    cluster: EmbeddedPostgres, folder: Path, happens: Fault, *, serve: Serve = our_server, revision: str = "3.3"
) -> History:
    """Let tasks run on two servers while a fault happens, and return what their workers heard.

    :param serve: runs a server on a database; Airflow's own can stand here too (``python -m bench.faults``).
    """
    queued = await queue(cluster.url(), TASKS, revision=revision)
    history, started, over = History(), asyncio.Barrier(TASKS + 1), asyncio.Event()
    async with relay(cluster.url()) as network:
        with ExitStack() as stack:
            folders = [folder / name for name in ("first", "second")]
            for each in folders:
                each.mkdir(parents=True)
            url = network.url(cluster.url())
            servers = [await asyncio.to_thread(stack.enter_context, serve(url, each)) for each in folders]
            urls = [server.base_url for server in servers]
            async with asyncio.TaskGroup() as lives:
                for name, ti in queued.items():
                    lives.create_task(Worker(history, urls, ti, name).live(started=started, over=over))
                await started.wait()
                await happens(Stage(cluster, network, servers))
                await asyncio.sleep(BESIDES)
                over.set()
    return history


@pytest.mark.parametrize("happens", FAULTS.values(), ids=FAULTS)
async def test_no_task_is_lost(cluster: EmbeddedPostgres, tmp_path: Path, happens: Fault) -> None:
    history = await lived(cluster, tmp_path, happens)
    assert await violations(history, cluster.url()) == []
    assert history.lost == {}
    assert set(history.ends.values()) == {("done", "")}
