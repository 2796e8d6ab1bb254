"""The deadlocks that Airflow's own servers take part in, forced; and the same against ours.

PostgreSQL ends the transaction that notices the cycle. The servers' databases have a short ``deadlock_timeout`` and the
other writer a long one, so that it is always the server's.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from app.commands.embedded import EmbeddedPostgres
from tests.conftest import empty
from tests.contract.cases.setups import SETUPS
from tests.servers import Server, airflow_environment, airflow_server, clean_environment, our_server, token
from tests.world import World

pytestmark = pytest.mark.slow

END = {"end_date": "2026-01-01T00:05:00Z"}
SUCCESS = {"state": "success", **END}
OUTLET = {"name": "first", "uri": "s3://bucket/first", "type": "Asset"}
# The scheduler's statement in _verify_integrity_if_dag_changed, Airflow 3.2.1 and 3.3.2.
BULK_UPDATE = (
    "UPDATE task_instance SET updated_at = now() WHERE dag_id = 'd' AND run_id = 'manual__1'"
    " AND (state IS NULL OR state IN ('queued', 'scheduled', 'running', 'restarting', 'deferred', 'up_for_retry'))"
)


class Duel:
    """A server, and another writer on its database."""

    def __init__(
        self, server: Server, writer: asyncpg.Connection, observer: asyncpg.Connection, log: Path, ours: bool
    ) -> None:
        self.server, self.writer, self.observer, self.log, self.ours = server, writer, observer, log, ours

    def deadlocks(self) -> int:
        """Return how many deadlocks PostgreSQL has logged; its statistics come a second later."""
        return self.log.read_text().count("ERROR:  deadlock detected")

    async def until_counted(self, before: int) -> None:
        """Wait until ``pg_stat_database`` has counted one more deadlock."""
        for _ in range(200):  # twenty seconds; a session reports within one of its end
            if await self.counted() > before:
                return
            await asyncio.sleep(0.1)
        raise TimeoutError("pg_stat_database counted no deadlock")

    async def counted(self) -> int:
        query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        return int(await self.observer.fetchval(query))

    async def until_waiting(self, *, besides: asyncio.Task[Any]) -> bool:
        """Return once the server waits for a lock, or its request has ended: whether it waits."""
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            " AND pid <> $1"
        )
        while not await self.observer.fetchval(query, self.writer.get_server_pid()):
            if besides.done():
                return False
            await asyncio.sleep(0.005)
        return True

    async def state(self) -> str:
        return str(await self.observer.fetchval("SELECT state FROM task_instance WHERE task_id = 'job'"))


@pytest.fixture(scope="module", params=["ours", "airflow"])
def target(
    request: pytest.FixtureRequest,
    revision: str,
    make_database: Callable[[str], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Server]]:
    folder, url = tmp_path_factory.mktemp(f"deadlock-{request.param}-{revision}"), make_database(revision)
    asyncio.run(_notice_deadlocks_quickly(url))
    version = {"3.2": "3.2.1", "3.3": "3.3.2"}[revision]
    run = our_server(url, folder) if request.param == "ours" else airflow_server(version, url, folder)
    with run as server:
        yield request.param, server


async def _notice_deadlocks_quickly(url: str) -> None:
    connection = await asyncpg.connect(url)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE \"{name}\" SET deadlock_timeout = '50ms'")
    await connection.close()


@pytest.fixture
async def duel(target: tuple[str, Server], postgres: EmbeddedPostgres) -> AsyncIterator[Duel]:
    kind, server = target
    writer, observer = [await asyncpg.connect(server.database_url) for _ in range(2)]
    await writer.execute("SET deadlock_timeout = '30s'")
    await empty(observer)
    yield Duel(server, writer, observer, postgres.log, kind == "ours")
    await writer.close()
    await observer.close()


async def test_a_report_against_the_schedulers_bulk_update(duel: Duel, revision: str) -> None:
    """The scheduler holds the dag_run and updates the run's task instances, while one of them reports success."""
    ti = await SETUPS["running"](World(duel.observer, revision))
    before, counted = duel.deadlocks(), await duel.counted()
    async with duel.writer.transaction():
        await duel.writer.execute("SELECT 1 FROM dag_run WHERE dag_id = 'd' FOR UPDATE")
        request = asyncio.create_task(_ask(duel, ti, SUCCESS))
        waited = await duel.until_waiting(besides=request)
        await duel.writer.execute(BULK_UPDATE)
    answer = await request
    deadlocks = duel.deadlocks() - before
    if duel.ours or revision == "3.3":
        assert (waited, answer.status_code, deadlocks, await duel.state()) == (False, 204, 0, "success")
    else:
        assert (waited, answer.status_code, deadlocks, await duel.state()) == (True, 500, 1, "running")
        await duel.until_counted(counted)


async def _ask(duel: Duel, ti: Any, body: dict[str, Any]) -> httpx.Response:
    async with duel.server.client(ti, timeout=20) as client:
        return await client.patch(f"/task-instances/{ti}/state", json=body)


async def test_a_success_whose_asset_rows_deadlock(duel: Duel, revision: str) -> None:
    """Another writer has queued one of two Dags and then wants the other, which the success has queued.

    Ours lets go of everything when it meets a lock there, and comes back: nobody deadlocks, and the success is recorded.
    """
    ti = await SETUPS["outlets"](World(duel.observer, revision))
    await duel.observer.execute("UPDATE dag SET is_paused = true WHERE dag_id NOT IN ('c1', 'c2')")
    queue = "INSERT INTO asset_dag_run_queue (asset_id, target_dag_id, created_at) VALUES (1, $1, now())"
    body = {**SUCCESS, "task_outlets": [OUTLET]}
    before = duel.deadlocks()
    for first, second in (("c2", "c1"), ("c1", "c2")) * 20:  # Airflow's order is that of a set: another every time
        transaction = duel.writer.transaction()
        await transaction.start()
        await duel.writer.execute(queue, first)
        request = asyncio.create_task(_ask(duel, ti, body))
        assert duel.ours or await duel.until_waiting(besides=request)
        await duel.writer.execute(queue, second)
        await transaction.rollback()
        answer = await request
        if duel.ours or duel.deadlocks() > before:
            break
        await duel.observer.execute("UPDATE task_instance SET state = 'running'")
        await duel.observer.execute("DELETE FROM asset_dag_run_queue")
    assert duel.deadlocks() == before + (not duel.ours)
    if duel.ours:
        assert await duel.observer.fetchval("SELECT count(*) FROM asset_dag_run_queue") == 2
        assert (answer.status_code, await duel.state()) == (204, "success")
    elif revision == "3.2":
        assert (answer.status_code, await duel.state()) == (500, "running")
    else:
        assert (answer.status_code, await duel.state()) == (204, "failed"), "3.3.2 records a successful task as failed"


DEADLOCK_ONCE = """
CREATE SEQUENCE raised;
CREATE FUNCTION raise_deadlock() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('raised') = 1 THEN  -- which is not rolled back
        RAISE EXCEPTION 'as if' USING ERRCODE = 'deadlock_detected';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER deadlock BEFORE INSERT ON log FOR EACH ROW EXECUTE FUNCTION raise_deadlock();
"""


@pytest.mark.parametrize("kind", ["deadlock", "lock_timeout"])
async def test_the_task_sdk_left_to_itself_succeeds_on_its_retry(
    duel: Duel, revision: str, tmp_path: Path, kind: str
) -> None:
    """The real client, knowing nothing of it, reports again and succeeds.

    Ours is the victim of no real deadlock any more: it waits for no lock for as long as PostgreSQL takes to look for one.
    So the database says it is, once. Or a table is locked for longer than we come back to it.
    """
    if not duel.ours:
        pytest.skip("about our answer")
    ti = await SETUPS["running"](World(duel.observer, revision))
    version = {"3.2": "3.2.1", "3.3": "3.3.2"}[revision]
    before, asked = duel.deadlocks(), len(_answers(duel, ti))
    transaction = duel.writer.transaction()
    if kind == "deadlock":
        await duel.observer.execute(DEADLOCK_ONCE)
    else:
        await transaction.start()
        await duel.writer.execute("LOCK TABLE log IN EXCLUSIVE MODE")  # our audit row's, written with the task instance held
    report = asyncio.create_task(asyncio.to_thread(_reschedule_with_the_sdk, version, duel.server.base_url, ti, tmp_path))
    while 503 not in _answers(duel, ti)[asked:]:
        assert not report.done()
        await asyncio.sleep(0.005)
    if kind == "lock_timeout":
        await duel.writer.execute("SELECT 1 FROM task_instance WHERE id = $1 FOR UPDATE NOWAIT", ti)  # nobody holds it
        assert await duel.state() == "running"
        await transaction.commit()
    await report
    await duel.observer.execute("DROP FUNCTION IF EXISTS raise_deadlock CASCADE; DROP SEQUENCE IF EXISTS raised")
    assert await duel.state() == "up_for_reschedule"
    assert await duel.observer.fetchval("SELECT count(*) FROM log WHERE event = 'up_for_reschedule'") == 1
    assert set(_answers(duel, ti)[asked:-1]) == {503}
    assert _answers(duel, ti)[-1] == 204
    assert f'"reason":"{kind}"' in duel.server.log.read_text()
    assert duel.deadlocks() == before


def _answers(duel: Duel, ti: Any) -> list[int]:
    lines = duel.server.log.read_text().splitlines()
    answers = [json.loads(line) for line in lines if '"event":"request"' in line]
    return [answer["status"] for answer in answers if str(ti) in answer["path"] and answer["path"].endswith("/state")]


def _reschedule_with_the_sdk(version: str, base_url: str, ti: Any, home: Path) -> None:
    script = (
        "import sys, uuid; from datetime import datetime, UTC; from airflow.sdk.api.client import Client\n"
        "client = Client(base_url=sys.argv[1], token=sys.argv[3])\n"
        "from airflow.sdk.execution_time.comms import RescheduleTask\n"
        "now = datetime.now(UTC)\n"
        "client.task_instances.reschedule(uuid.UUID(sys.argv[2]), RescheduleTask(end_date=now, reschedule_date=now))\n"
    )
    python = str(airflow_environment(version) / "bin" / "python")
    subprocess.run(
        [python, "-c", script, f"{base_url}/", str(ti), token(ti)],
        env={**clean_environment(), "AIRFLOW_HOME": str(home)},
        check=True,
        capture_output=True,
    )


async def test_two_successes_with_equal_outlets_never_deadlock(duel: Duel, revision: str) -> None:
    """Many tasks that queue the same Dags, at once: each answer is a 204."""
    if not duel.ours:
        pytest.skip("about our order")
    world = World(duel.observer, revision)
    await SETUPS["outlets"](world)
    outlets = [OUTLET, {"name": "second", "uri": "s3://bucket/second", "type": "Asset"}]
    tasks = [await world.running("d", f"t{n}") for n in range(16)]
    before = duel.deadlocks()
    asked = (_ask(duel, ti, {**SUCCESS, "task_outlets": outlets[:: 1 - 2 * (n % 2)]}) for n, ti in enumerate(tasks))
    answers = await asyncio.gather(*asked)
    assert {answer.status_code for answer in answers} == {204}
    assert duel.deadlocks() == before


async def test_a_run_under_the_schedulers_bulk_updates(duel: Duel, revision: str) -> None:
    """Forty tasks live their lives while the scheduler's statement updates their run again and again.

    3.2.1 deadlocks with it and answers 500. Ours: every answer is a 2xx that the database holds, or a 503 that left no
    trace and is asked again, as the Task SDK would.
    """
    if not duel.ours and revision == "3.3":
        pytest.skip("3.3.2 locks the task instance alone, and does not deadlock here")
    world = World(duel.observer, revision)
    await world.dag("d")
    await world.run("d")
    tasks = [await world.ti("d", f"t{n}") for n in range(40)]
    before, finished = duel.deadlocks(), asyncio.Event()

    async def schedule() -> int:
        rounds = 0
        await duel.writer.execute("SET deadlock_timeout = '1s'")  # the scheduler's own: it is the victim now and then
        while not finished.is_set():
            with suppress(*[] if duel.ours else [asyncpg.DeadlockDetectedError]):
                async with duel.writer.transaction():
                    await duel.writer.execute("SELECT 1 FROM dag_run WHERE dag_id = 'd' FOR UPDATE")
                    await duel.writer.execute(BULK_UPDATE)
                    rounds += 1
        return rounds

    scheduler = asyncio.create_task(schedule())
    statuses = [status for life in await asyncio.gather(*(_live(duel, ti) for ti in tasks)) for status in life]
    finished.set()
    assert await scheduler
    if not duel.ours:
        assert duel.deadlocks() > before
        assert 500 in statuses
        return
    assert set(statuses) <= {200, 204, 503}
    assert duel.deadlocks() == before
    states = await duel.observer.fetch("SELECT state, count(*) FROM task_instance GROUP BY state")
    assert {row["state"]: row["count"] for row in states} == {"success": 40}
    events = await duel.observer.fetch("SELECT event, count(*) FROM log GROUP BY event")
    assert {row["event"]: row["count"] for row in events} == {"running": 40, "success": 40}


async def _live(duel: Duel, ti: Any) -> list[int]:
    """Run a task instance from start to success, each request until it is answered; return every status."""
    beat = ("PUT", "heartbeat", {"hostname": "worker", "pid": 42})
    start = {"state": "running", "hostname": "worker", "unixname": "u", "pid": 42, "start_date": "2026-01-01T00:00:00Z"}
    statuses = []
    async with duel.server.client(ti, timeout=20) as client:
        for method, path, body in (("PATCH", "run", start), beat, beat, beat, ("PATCH", "state", SUCCESS)):
            for _ in range(20):
                try:
                    answer = await client.request(method, f"/task-instances/{ti}/{path}", json=body)
                except httpx.TransportError:  # 3.2.1's own server cuts connections too
                    assert not duel.ours
                    continue
                statuses.append(answer.status_code)
                if answer.status_code < 500:
                    break
    return statuses
