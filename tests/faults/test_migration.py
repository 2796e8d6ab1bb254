"""The metadata database is migrated while we serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app import main
from app.main import ExecutionApi, create_app
from app.releases import AIRFLOW_3_2, AIRFLOW_3_3, AIRFLOW_3_4, Revision
from app.server import patience
from app.settings import DatabaseSettings, Settings, TokenSettings
from app.settings.database_url import async_url
from app.tasks.service import Service
from app.versions.building import ApiVersions
from tests.contract.cases import upgraded
from tests.contract.cases.setups import SETUPS
from tests.faults.conftest import InProcess
from tests.history import History, Worker, queue, violations
from tests.servers import AIRFLOW, FERNET_KEY, SECRET, Server, airflow_environment, airflow_process_environment, our_server
from tests.world import EPOCH, World, ti_id

NEWER = {"Airflow-API-Version": "2026-06-30"}
WAITED = ["deferred", "retrying", "rescheduled", "queued again"]
STORE = "/store/ti/{ti}/k"  # since 3.3


async def test_what_is_served_follows_the_revision(
    make_database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables are 3.3's all the time; what is said of them changes. A look that fails is not the last one."""
    monkeypatch.setattr(main, "LOOK_EVERY", 0.01)
    open_ = ExecutionApi.open
    failures: list[str] = []

    async def fail_to_make_ready(versions: ApiVersions) -> None:
        failures.append("make_ready")
        raise RuntimeError

    def fail_to_open(api: ExecutionApi, service: Service) -> None:
        if api.service is not None and "open" not in failures:
            failures.append("open")
            raise RuntimeError
        open_(api, service)

    monkeypatch.setattr(ApiVersions, "make_ready", fail_to_make_ready)
    monkeypatch.setattr(ExecutionApi, "open", fail_to_open)
    url = make_database("3.3")
    admin = await asyncpg.connect(url)
    say = "UPDATE alembic_version SET version_num = $1"
    await admin.execute(say, AIRFLOW_3_2.alembic_version)
    settings = Settings(
        database=DatabaseSettings(url=async_url(url, setting="url")),
        tokens=TokenSettings(secret=SECRET),
        fernet_keys=(FERNET_KEY,),
    )
    application = create_app(settings)
    async with application.router.lifespan_context(application):
        service: Service = application.routes[1].app.service  # type: ignore[attr-defined]
        ours = InProcess(application, service, World(admin))
        ti = await SETUPS["running"](ours.world)
        async with ours.client(ti) as client:
            beat = {"hostname": "worker", "pid": 42}
            path = f"/task-instances/{ti}/heartbeat"
            assert (await client.put(path, json=beat)).status_code == 204
            assert (await client.get(STORE.format(ti=ti))).status_code == 404, "3.2 has no such operation"

            await admin.execute(say, "in between")
            while (answer := await client.get("/health/ping")).status_code == 200:
                pass
            assert "at revision 'in between': expected that of Airflow 3.2" in answer.json()["failing"]["database"]
            assert (await client.get("/health")).status_code == 200
            await asyncio.sleep(0.2)  # it is looked at by now
            with monkeypatch.context() as short:
                short.setattr(patience, "CONNECTION", 0.05)
                refused = await client.put(path, json=beat)
            assert (refused.status_code, refused.json()["detail"]["reason"]) == (503, "unknown_revision")

            held = asyncio.create_task(client.put(path, json=beat))
            await asyncio.sleep(0.1)
            assert not held.done()
            await admin.execute(say, AIRFLOW_3_3.alembic_version)
            assert (await held).status_code == 204
            assert (await client.put(path, json=beat, headers=NEWER)).headers["airflow-api-version"] == "2026-06-30"
            answer = await client.get("/openapi.json")
            assert answer.json()["info"]["version"] == "2026-06-30"
        assert application.routes[1].app.service.revision is AIRFLOW_3_3  # type: ignore[attr-defined]
        assert failures == ["make_ready", "open", "make_ready"]
    await admin.close()


async def _queue_among_others(url: str, count: int, revision: str) -> dict[str, Any]:
    """Queue tasks for workers in a run of which others are deferred, retried, ended; return their ids by name."""
    connection = await asyncpg.connect(url)
    world = World(connection, revision)
    await world.insert("trigger", classpath="my.Trigger", kwargs="{}", created_date=EPOCH)
    await upgraded.write(world, "d")
    queued = {f"t{n}": await world.ti("d", f"t{n}") for n in range(count)}
    await connection.close()
    return queued


async def _heard(server: Server, ti: Any, over: asyncio.Event) -> set[int]:
    """Return what the process of a try that has ended hears of its heartbeats."""
    heard = set[int]()
    async with server.client(ti, timeout=10) as client:
        while not over.is_set() or 410 not in heard:
            beat = {"hostname": "worker", "pid": 42}
            heard.add((await client.put(f"/task-instances/{ti}/heartbeat", json=beat)).status_code)
            await asyncio.sleep(0.1)
    return heard


async def _waited(url: str) -> dict[str, Any]:
    """Queue what waited, as the newer scheduler does; return the last tries' ids by name."""
    connection = await asyncpg.connect(url)
    which = "WHERE dag_id = 'd' AND run_id = 'manual__1' AND working_set AND task_id = ANY($1)"
    queued = f"UPDATE task_instance SET state = 'queued', trigger_id = NULL {which} RETURNING task_id, id"
    found = {row["task_id"]: row["id"] for row in await connection.fetch(queued, WAITED)}
    await connection.close()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("3.2", AIRFLOW_3_3), ("3.3", AIRFLOW_3_4)])
async def test_airflow_migrates_while_tasks_run(
    before: str, after: Revision, make_database: Callable[[str], str], tmp_path: Path
) -> None:
    """No task is lost, nothing that was told is wrong, and afterwards we serve as the newer release does.

    Where tries move into a table of their own kind: what waited goes on, and what had ended stays so all the time.
    """
    url = make_database(before)
    queued = await queue(url, 6, revision=before) if before == "3.2" else await _queue_among_others(url, 6, before)
    history, over = History(), asyncio.Event()
    with our_server(url, tmp_path) as server:
        lives = [
            asyncio.create_task(Worker(history, [server.base_url], ti, name).live(over=over)) for name, ti in queued.items()
        ]
        ended = asyncio.create_task(_heard(server, ti_id("d/manual__1/retrying/-1"), over)) if before == "3.3" else None
        environment = airflow_process_environment(AIRFLOW[after.name], url, tmp_path)
        airflow = str(airflow_environment(AIRFLOW[after.name]) / "bin" / "airflow")
        migrating = await asyncio.create_subprocess_exec(airflow, "db", "migrate", env=environment)
        assert await migrating.wait() == 0
        async with server.client() as client:
            for _ in range(100):
                if (await client.get("/openapi.json")).json()["info"]["version"] == after.newest_api_date:
                    break
                await asyncio.sleep(0.1)
            else:
                raise AssertionError(f"it does not serve as {after.name}")
        over.set()
        await asyncio.gather(*lives)
        if ended is not None:
            assert await ended <= {409, 410, 503}, "409 for the second in which its row is taken for one that 3.3 has"
            waited = await _waited(url)
            assert waited.keys() == set(WAITED)
            await asyncio.gather(*(Worker(history, [server.base_url], ti, name).live() for name, ti in waited.items()))
        assert "Traceback" not in server.log.read_text()
    assert {end for end, _ in history.ends.values()} == {"done"}
    assert await violations(history, url) == []
