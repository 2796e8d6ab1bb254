"""A real scheduler holds a row, in the middle of its work or stopped there, and is named by what it sends and locks."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from app.db.components import CRITICAL_SECTION
from app.db.holders import Held, Picture, look
from app.db.session import Database
from app.settings import DatabaseSettings
from app.settings.database_url import async_url
from tests.end_to_end.installation import Airflow
from tests.servers import AIRFLOW

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WITHIN = 120.0  # seconds for a scheduler to start and come to the barrier, on a busy machine
BARRIER = 77
# The scheduler waits for the barrier inside of the statement that queues a task, its rows locked since the one before.
GATE = f"""
    CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_advisory_xact_lock({BARRIER}); RETURN NEW; END $$;
    CREATE TRIGGER gate BEFORE UPDATE ON task_instance FOR EACH ROW WHEN (NEW.state = 'queued') EXECUTE FUNCTION gate();
"""
AT_THE_BARRIER = f"SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = {BARRIER} AND NOT granted"


async def _become(connection: asyncpg.Connection, query: str, *arguments: object) -> object:
    """Return what a query finds, once it finds anything."""
    async with asyncio.timeout(WITHIN):
        while not (found := await connection.fetchval(query, *arguments)):  # noqa: ASYNC110  nothing tells when
            await asyncio.sleep(0.1)
    return found


def _task(picture: Picture) -> Held:
    (held,) = (each for each in picture.held if each.table == "task_instance")
    return held


@pytest.mark.parametrize("version", AIRFLOW.values())
async def test_a_scheduler_in_its_critical_section(
    make_migrated: Callable[[str, str], str], tmp_path: Path, version: str
) -> None:
    url = await asyncio.to_thread(make_migrated, version, f"held_by_{version}")
    airflow = Airflow(version, url, tmp_path / "airflow")
    await asyncio.to_thread(airflow.run, "dags", "reserialize")
    await asyncio.to_thread(airflow.trigger, ["long_runner"])
    database = Database(DatabaseSettings(async_url(url, setting="the tests")))
    barrier, waiter = await asyncpg.connect(url), await asyncpg.connect(url)
    await barrier.execute(GATE)
    await barrier.execute(f"SELECT pg_advisory_lock({BARRIER})")
    with airflow.component("scheduler", "http://127.0.0.1:1") as scheduler:
        pid = await _become(barrier, AT_THE_BARRIER)
        waiting = asyncio.create_task(waiter.execute("SELECT FROM task_instance WHERE dag_id = 'long_runner' FOR UPDATE"))
        await _become(barrier, "SELECT true FROM pg_locks WHERE pid = $1 AND NOT granted", waiter.get_server_pid())
        picture = await look(database, since=0.0)
        held = _task(picture)
        (holder,) = held.holders
        assert held.row["dag_id"] == "long_runner"
        assert [each.pid for each in held.waiting] == [waiter.get_server_pid()]
        assert (holder.pid, holder.component, holder.state) == (pid, CRITICAL_SECTION, "active")
        assert holder.statement.startswith("UPDATE task_instance SET state=?, queued_dttm=?, queued_by_job_id=?")
        (gate,) = (each for each in picture.held if each.kind == "advisory")
        assert [each.component for each in gate.waiting] == [CRITICAL_SECTION], (
            "it is told whom the scheduler waits for, too"
        )
        assert [each.pid for each in gate.holders] == [barrier.get_server_pid()]

        os.killpg(scheduler.pid, signal.SIGSTOP)  # as a machine that is paused, or out of memory and swapping
        await barrier.execute(f"SELECT pg_advisory_unlock({BARRIER})")
        idle = "SELECT true FROM pg_stat_activity WHERE pid = $1 AND state = 'idle in transaction'"
        await _become(barrier, idle, pid)
        (holder,) = _task(await look(database, since=0.0)).holders
        assert (holder.pid, holder.component, holder.state) == (pid, CRITICAL_SECTION, "idle in transaction")
        assert holder.idle is not None

        os.killpg(scheduler.pid, signal.SIGCONT)
        async with asyncio.timeout(WITHIN):
            await waiting
    await database.close()
    await barrier.close()
    await waiter.close()
