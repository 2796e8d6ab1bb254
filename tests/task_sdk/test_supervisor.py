"""The supervisors of every Task SDK that can meet these servers run tasks through ours, with their own API date.

A workload is run as the Kubernetes executor runs it: one command, one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import uuid
from pathlib import Path

import pytest

from tests.servers import Server, airflow_environment, clean_environment, token
from tests.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DAGS = Path(__file__).parent / "dags"
TASKS = ("works", "breaks", "skips", "defers", "waits")
LAST = "SELECT * FROM task_instance ORDER BY try_number"  # of a task with several rows the last try's counts
# Airflow's release, and the API date of the Task SDK that it brings: 1.0.6, 1.1.8, 1.2.2, 1.3.2, 1.4.0b2
RELEASES = {
    "3.0.6": "2025-08-10",
    "3.1.8": "2025-11-05",
    "3.2.2": "2026-04-06",
    "3.3.2": "2026-06-30",
    "3.4.0b2": "2026-10-30",
}
# What the triggerers of 3.2 and 3.3 store for the arguments of ``defers``, with the event.
RESUMED_WITH = {
    "event": "now",
    "since": {
        "__classname__": "datetime.datetime",
        "__version__": 2,
        "__data__": {
            "timestamp": 1767323045.0,
            "tz": {"__classname__": "builtins.tuple", "__version__": 1, "__data__": ["UTC", "zoneinfo.ZoneInfo", 1, "UTC"]},
        },
    },
    "wait": {"__classname__": "datetime.timedelta", "__version__": 2, "__data__": 300.0},
}


class Supervisor:
    """Runs workloads of one Airflow release."""

    def __init__(self, release: str, server: Server, home: Path) -> None:
        self.python = airflow_environment(release) / "bin" / "python"
        self.environment = {
            **clean_environment(),
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{server.base_url}/",
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        }

    def run(self, task_id: str, ti: uuid.UUID) -> str:
        """Run a task to its end and return what the supervisor logged."""
        workload = {
            "type": "ExecuteTask",
            "token": token(ti),
            "ti": {
                "id": str(ti),
                "dag_version_id": str(uuid.uuid5(uuid.NAMESPACE_URL, "supervised/version")),
                "task_id": task_id,
                "dag_id": "supervised",
                "run_id": "manual__1",
                "try_number": 1,
                "map_index": -1,
                "pool_slots": 1,
                "queue": "default",
                "priority_weight": 1,
            },
            "dag_rel_path": "supervised.py",
            "bundle_info": {"name": "dags-folder", "version": None},
            "log_path": None,
        }
        command = [str(self.python), "-m", "airflow.sdk.execution_time.execute_workload", "--json-string"]
        done = subprocess.run(
            [*command, json.dumps(workload)], env=self.environment, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    async def run_all(self, tasks: dict[str, uuid.UUID]) -> dict[str, str]:
        """Run tasks side by side and return their logs."""
        logs = await asyncio.gather(*(asyncio.to_thread(self.run, *task) for task in tasks.items()))
        return dict(zip(tasks, logs, strict=True))


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    """Run the test with each release; workers may be newer than the database."""
    return str(request.param)


async def test_which_date_it_asks_for(release: str) -> None:
    generated = next(airflow_environment(release).glob("lib/python*/site-packages/airflow/sdk/api/datamodels/_generated.py"))
    assert f'API_VERSION: Final[str] = "{RELEASES[release]}"' in generated.read_text()


async def test_tasks_run_to_their_ends(server: Server, world: World, release: str, tmp_path: Path) -> None:
    await _store(world)
    tasks = {name: await world.ti("supervised", name, max_tries=name == "breaks") for name in TASKS}
    supervisor = Supervisor(release, server, tmp_path)

    logs = await supervisor.run_all(tasks)
    states = {row["task_id"]: row["state"] for row in await world.connection.fetch(LAST)}
    ends = {"breaks": "up_for_retry", "skips": "skipped", "defers": "deferred", "waits": "up_for_reschedule"}
    assert states == {"works": "success", **ends}, logs
    assert json.loads(await _value(world, "return_value")) == {
        "variable": "by a task",
        "default": "none",
        "password": "s3cret",
        "pulled": {"n": 2**60, "text": "é"},
        "absent": None,
        "run": "manual__1",
        "conf": {"rows": 5},
    }
    event = await world.connection.fetchrow(
        "SELECT asset_event.extra, uri FROM asset_event JOIN asset ON asset.id = asset_id"
    )
    assert (event["uri"], json.loads(event["extra"])) == ("s3://bucket/report", {"rows": 3})
    works = await world.connection.fetchrow("SELECT * FROM task_instance WHERE task_id = 'works'")
    assert works["last_heartbeat_at"] > works["start_date"]
    assert await world.connection.fetchval(f"SELECT count(*) FROM {world.table('rendered_task_instance_fields')}") == 3
    assert await world.connection.fetchval("SELECT count(*) FROM task_reschedule") == 1


async def test_a_deferred_task_resumes(server: Server, world: World, release: str, tmp_path: Path) -> None:
    """Workers of every age read the arguments that a trigger of 3.2 or 3.3 left for them."""
    await _store(world)
    resumed = await world.ti("supervised", "defers", next_method="resume", next_kwargs=RESUMED_WITH)

    log = await asyncio.to_thread(Supervisor(release, server, tmp_path).run, "defers", resumed)
    assert await world.connection.fetchval("SELECT state FROM task_instance") == "success", log
    expected = {"event": "now", "since": "2026-01-02T03:04:05+00:00", "wait": 300.0}
    assert json.loads(await _value(world, "return_value")) == expected


async def test_a_newer_worker_says_what_an_older_database_has_no_word_for(
    server: Server, world: World, tmp_path: Path
) -> None:
    """Of its own accord it adds to a failure why there is no retry, and tells of a process that it ended for the server."""
    await _store(world)
    tasks = {name: await world.ti("supervised", name) for name in ("breaks", "endures")}
    supervisor = Supervisor("3.4.0b2", server, tmp_path)
    before = len(server.log.read_text())

    running = asyncio.create_task(supervisor.run_all(tasks))
    beating = "SELECT last_heartbeat_at > start_date FROM task_instance WHERE task_id = 'endures'"
    while not await world.connection.fetchval(beating):
        assert not running.done(), running.result()
        await asyncio.sleep(0.1)
    taken = "UPDATE task_instance SET id = gen_random_uuid(), state = 'restarting' WHERE task_id = 'endures'"
    await world.connection.execute(taken)
    logs = await running
    states = {row["task_id"]: row["state"] for row in await world.connection.fetch("SELECT * FROM task_instance")}
    assert states == {"breaks": "failed", "endures": "restarting"}, logs
    lines = (json.loads(line) for line in server.log.read_text()[before:].splitlines() if "/state" in line)
    answers = {line["path"].split("/")[3]: line["status"] for line in lines}
    assert answers == {str(tasks["breaks"]): 204, str(tasks["endures"]): 404}, "no try has the second id any more"


async def _store(world: World) -> None:
    """Write the Dag, its run, and what its tasks read."""
    await world.dag("supervised")
    await world.run("supervised", conf={"rows": 5})
    await world.asset("report")
    stored = {"conn_type": "http", "host": "h", "is_encrypted": False, "is_extra_encrypted": False}
    await world.insert("connection", conn_id="stored", password="s3cret", **stored)


async def _value(world: World, key: str) -> str:
    value: str = await world.connection.fetchval(f"SELECT value FROM {world.table('xcom')} WHERE key = $1", key)
    return value
