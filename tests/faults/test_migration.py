"""The metadata database is migrated while we serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

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
from tests.contract.cases.setups import SETUPS
from tests.faults.conftest import InProcess
from tests.history import History, Worker, queue, violations
from tests.servers import AIRFLOW, FERNET_KEY, SECRET, airflow_environment, airflow_process_environment, our_server
from tests.world import World

NEWER = {"Airflow-API-Version": "2026-06-30"}
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


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("3.2", AIRFLOW_3_3), ("3.3", AIRFLOW_3_4)])
async def test_airflow_migrates_while_tasks_run(
    before: str, after: Revision, make_database: Callable[[str], str], tmp_path: Path
) -> None:
    """No task is lost, nothing that was told is wrong, and afterwards we serve as the newer release does."""
    url = make_database(before)
    queued = await queue(url, 6, revision=before)
    history, over = History(), asyncio.Event()
    with our_server(url, tmp_path) as server:
        lives = [
            asyncio.create_task(Worker(history, [server.base_url], ti, name).live(over=over)) for name, ti in queued.items()
        ]
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
        assert "Traceback" not in server.log.read_text()
    assert {end for end, _ in history.ends.values()} == {"done"}
    assert await violations(history, url) == []
