"""An unmodified Airflow runs its Dags through the execution API to their right end.

The same suite runs once with Airflow's own server as the target: that proves the test. Which rows the runs leave behind with
that server is recorded of each release.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import pytest
from cryptography.fernet import Fernet
from sqlalchemy import text

from app.db.holders import sessions
from app.db.session import Database
from app.errors import RetryableDatabaseError
from app.settings import DatabaseSettings
from app.settings.database_url import async_url
from tests.end_to_end import records
from tests.end_to_end.everything import DIFFERS, SERVER_SETTINGS, TRIGGERED, run_everything
from tests.end_to_end.installation import Airflow
from tests.servers import AIRFLOW, FERNET_KEY, Server, airflow_server, our_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.drawn(2, together=True)]

TARGETS = [*((version, "ours") for version in AIRFLOW.values()), (AIRFLOW["3.2"], "airflow")]
if records.RECORDING:
    TARGETS = [(version, "airflow") for version in AIRFLOW.values()]
RUN = "manual__e2e"
AIRFLOWS_OWN = "airflow's own"  # its execution API's sessions, as it names them
COMPONENTS = {
    "scheduler": "scheduler",
    "triggerer": "triggerer",
    "dag-processor": "Dag processor",
    "execution-api": "execution-api",
    AIRFLOWS_OWN: "Airflow's execution API",
}
IN_TRANSACTION = text("SELECT pid FROM pg_stat_activity WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid()")


class Finished:
    """The database after every run has ended, and the log of our server.

    :param seen: whom the sessions of each component were taken for, while the runs went on, and how often.
    """

    def __init__(
        self,
        connection: asyncpg.Connection,
        server: Server,
        version: str,
        target: str,
        seen: Mapping[str, Counter[str]],
    ) -> None:
        self.connection = connection
        self.server = server
        self.version = version
        self.target = target
        self.seen = seen

    async def run_state(self, dag_id: str) -> str:
        return str(await self.connection.fetchval("SELECT state FROM dag_run WHERE dag_id = $1", dag_id))

    async def tasks(self, dag_id: str) -> dict[str, Any]:
        """Return state and try number by task, mapped ones as ``task[index]``."""
        rows = await self.connection.fetch("SELECT * FROM task_instance WHERE dag_id = $1", dag_id)
        names = (r["task_id"] if r["map_index"] < 0 else f"{r['task_id']}[{r['map_index']}]" for r in rows)
        return dict(zip(names, rows, strict=True))

    async def states(self, dag_id: str) -> dict[str, str]:
        return {name: row["state"] for name, row in (await self.tasks(dag_id)).items()}

    async def xcom(self, dag_id: str, task_id: str, key: str = "return_value") -> Any:
        query = "SELECT value FROM xcom WHERE dag_id = $1 AND task_id = $2 AND key = $3 ORDER BY map_index"
        values = [json.loads(row["value"]) for row in await self.connection.fetch(query, dag_id, task_id, key)]
        return values[0] if len(values) == 1 else values

    async def count(self, table: str, dag_id: str) -> int:
        return int(await self.connection.fetchval(f"SELECT count(*) FROM {table} WHERE dag_id = $1", dag_id))

    def answers(self) -> list[dict[str, Any]]:
        """Return what our server's access log holds."""
        lines = (json.loads(line) for line in self.server.log.read_text().splitlines() if line.startswith("{"))
        return [line for line in lines if line.get("event") == "request"]


@pytest.fixture(scope="module", params=TARGETS, ids=lambda target: f"{target[1]}-{target[0]}")
async def finished(
    request: pytest.FixtureRequest, make_migrated: Callable[[str, str], str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Finished]:
    """Run every Dag once and wait for the end of all runs."""
    version, target = request.param
    folder = tmp_path_factory.mktemp(f"end-to-end-{target}-{version}")
    database = f"end_to_end_{target}_{version}"
    url = await asyncio.to_thread(make_migrated, version, database)
    airflow = Airflow(version, url, folder / "airflow")
    await asyncio.to_thread(airflow.run, "dags", "reserialize")
    serve = (
        our_server(url, folder, **SERVER_SETTINGS)
        if target == "ours"
        else airflow_server(version, url, folder, PGAPPNAME=AIRFLOWS_OWN, **SERVER_SETTINGS)
    )
    with serve as server, airflow.components(server.base_url):
        connection = await records.connected(url, version)
        try:
            async with _watched(url) as seen:
                await run_everything(connection, airflow)
            yield Finished(connection, server, version, target, seen)
        finally:
            await connection.close()


@asynccontextmanager
async def _watched(url: str) -> AsyncIterator[Mapping[str, Counter[str]]]:
    """Take note, until the block ends, of whom transactions are taken for by what they send and lock alone."""
    database = Database(DatabaseSettings(async_url(url, setting="the tests")))
    seen = defaultdict[str, Counter[str]](Counter)

    async def watch() -> None:
        while True:
            with suppress(RetryableDatabaseError):  # on a busy machine it may be late
                async with database.autocommit() as session:
                    pids = await session.scalars(IN_TRANSACTION)
                for each in (await sessions(database, list(pids))).values():
                    seen[each.application][each.component.name] += 1
            await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    yield seen
    assert not watching.done(), watching.exception()
    watching.cancel()
    await database.close()


async def test_a_task_triggers_a_run(finished: Finished) -> None:
    """The run of the triggered Dag is made by the server: its params, its interval and its mapped tasks are right."""
    assert await finished.run_state("triggering") == "success"
    assert await finished.states("triggered") == {"tell": "success", "double[0]": "success", "double[1]": "success"}
    assert await finished.xcom("triggered", "tell") == {"rows": 5, "interval": True}
    assert await finished.xcom("triggered", "double") == [2, 4]
    run = await finished.connection.fetchrow("SELECT * FROM dag_run WHERE dag_id = 'triggered'")
    assert (run["run_id"], run["triggered_by"], json.loads(run["conf"])) == ("by_a_task", "OPERATOR", {"rows": 5})


async def test_a_task_recalls_what_another_dag_pushed(finished: Finished) -> None:
    """The value of the last run up to the asking one: alone, and as a list, out of which the Task SDK takes a single value.

    Airflow's 3.2.1 lists it once for each run, of whatever Dag, that has the asking run's id; its 3.3.2 looks for that run
    in the other Dag, and finds nothing.
    """
    listed, alone = await finished.xcom("triggering", "recall")
    told, same_id = {"rows": 5, "interval": True}, len(TRIGGERED)
    expected = {"ours": (told, told), "airflow": ([told] * same_id, told) if finished.version == "3.2.1" else (None, None)}
    assert (listed, alone) == expected[finished.target]


async def test_the_rows_are_those_that_airflows_own_server_leaves(finished: Finished) -> None:
    records.compare(f"dags-{finished.version}", await records.left_behind(finished.connection, DIFFERS))


async def test_chain_passes_xcoms(finished: Finished) -> None:
    assert await finished.run_state("chain") == "success"
    assert await finished.xcom("chain", "first") == {"value": 20, "big": 2**60}
    assert await finished.xcom("chain", "second") == 21
    assert await finished.xcom("chain", "third") == 42
    assert await finished.xcom("chain", "third", "a/key with spaces and é") == [21, None, 1.5]


async def test_variables_and_connections(finished: Finished) -> None:
    assert await finished.run_state("variables_and_connections") == "success"
    assert await finished.xcom("variables_and_connections", "use") == "db.example.com"
    stored = await finished.connection.fetchval("SELECT val FROM variable WHERE key = 'written/by task'")
    assert Fernet(FERNET_KEY).decrypt(stored) == b"yes"
    assert await finished.connection.fetchval("SELECT count(*) FROM variable WHERE key = 'to_delete'") == 0


async def test_a_task_fails_twice_and_then_succeeds(finished: Finished) -> None:
    assert await finished.run_state("retries_then_succeeds") == "success"
    assert (await finished.tasks("retries_then_succeeds"))["flaky"]["try_number"] == 3
    assert await finished.xcom("retries_then_succeeds", "flaky") == 3
    history = await finished.connection.fetch(
        "SELECT try_number, state FROM task_instance_history WHERE dag_id = 'retries_then_succeeds' ORDER BY try_number"
    )
    assert [tuple(row) for row in history] == [(1, "failed"), (2, "failed")]


async def test_a_task_fails_for_good(finished: Finished) -> None:
    assert await finished.run_state("fails_for_good") == "failed"
    assert await finished.states("fails_for_good") == {"broken": "failed", "after": "upstream_failed"}
    assert (await finished.tasks("fails_for_good"))["broken"]["try_number"] == 2
    assert await finished.count("task_instance_history", "fails_for_good") == 1


async def test_branch_and_short_circuit(finished: Finished) -> None:
    assert await finished.run_state("branches") == "success"
    assert await finished.states("branches") == {
        "branch": "success",
        "taken": "success",
        "not_taken": "skipped",
        "stop": "success",
        "after_stop": "skipped",
        "last": "skipped",
    }


async def test_rescheduled_sensor(finished: Finished) -> None:
    assert await finished.run_state("rescheduled_sensor") == "success"
    ti = (await finished.tasks("rescheduled_sensor"))["wait"]["id"]
    assert await finished.connection.fetchval("SELECT count(*) FROM task_reschedule WHERE ti_id = $1", ti) == 2
    events = await finished.connection.fetch("SELECT event FROM log WHERE dag_id = 'rescheduled_sensor'")
    assert sum(row["event"] == "up_for_reschedule" for row in events) == 2


async def test_deferred_task_resumes(finished: Finished) -> None:
    assert await finished.run_state("deferred") == "success"
    task = (await finished.tasks("deferred"))["wait"]
    assert (task["trigger_id"], task["next_method"], task["try_number"]) == (None, None, 1)
    events = await finished.connection.fetch(
        "SELECT event FROM log WHERE dag_id = 'deferred' AND task_id = 'wait' ORDER BY id"
    )
    assert [row["event"] for row in events] == ["running", "deferred", "running", "success"]


async def test_mapped_tasks_and_slices(finished: Finished) -> None:
    assert await finished.run_state("mapped") == "success"
    assert await finished.xcom("mapped", "slices") == {"tail": [6, 8], "first": 2, "last": 8, "step": [2, 6], "sum": 20}
    labels = {name: task["rendered_map_index"] for name, task in (await finished.tasks("mapped")).items() if "[" in name}
    assert labels == {f"double[{n}]": f"number {n + 1}" for n in range(4)}
    assert await finished.connection.fetchval("SELECT length FROM task_map WHERE dag_id = 'mapped'") == 4


async def test_tokens_are_refreshed_while_a_task_runs(finished: Finished) -> None:
    assert await finished.run_state("long_runner") == "success"
    assert await finished.xcom("long_runner", "sleep") == "awake"
    task = (await finished.tasks("long_runner"))["sleep"]
    assert task["duration"] > 25
    assert (task["last_heartbeat_at"] - task["start_date"]).total_seconds() > 10, (
        "heartbeats came after the first token of 10 s"
    )


async def test_setup_and_teardown(finished: Finished) -> None:
    assert await finished.run_state("setup_and_teardown") == "failed"
    assert await finished.states("setup_and_teardown") == {"make": "success", "job": "failed", "remove": "success"}


async def test_fail_fast_stops_the_others(finished: Finished) -> None:
    states = await finished.states("fail_fast")
    assert {name: states[name] for name in ("fails", "slow", "never")} == {
        "fails": "failed",
        "slow": "failed",
        "never": "skipped",
    }
    events = await finished.connection.fetch("SELECT task_id, event FROM log WHERE dag_id = 'fail_fast'")
    assert {("slow", "fail task"), ("never", "skip task")} <= {tuple(row) for row in events}


async def test_external_task_sensor_on_a_group(finished: Finished) -> None:
    assert await finished.run_state("observed_group") == "success"
    assert await finished.run_state("group_observer") == "success"


async def test_assets_trigger_a_run(finished: Finished) -> None:
    assert await finished.run_state("producer") == "success"
    event = await finished.connection.fetchrow("SELECT * FROM asset_event")
    assert (json.loads(event["extra"]), event["source_task_id"]) == ({"rows": 3}, "produce")
    assert await finished.run_state("consumer") == "success"
    assert await finished.xcom("consumer", "consume") == [{"rows": 3}]


async def test_rendered_fields_and_audit_rows(finished: Finished) -> None:
    assert await finished.count("rendered_task_instance_fields", "chain") == 3
    events = await finished.connection.fetch(
        "SELECT task_id, event, owner, extra FROM log WHERE dag_id = 'chain' AND task_id = 'first' ORDER BY id"
    )
    assert [(row["event"], row["owner"]) for row in events] == [("running", "airflow"), ("success", "airflow")]
    assert all("host_name" in json.loads(row["extra"]) for row in events)


async def test_no_request_failed(finished: Finished) -> None:
    if finished.target != "ours":
        pytest.skip("the access log is ours")
    answers = finished.answers()
    assert len(answers) > 150, "every request of every task came to us"
    assert [answer for answer in answers if answer["status"] >= 500] == []


def test_nobody_is_taken_for_another(finished: Finished) -> None:
    """By what they sent and locked; their sessions had told their names, which is more than is there in production."""
    for application, component in COMPONENTS.items():
        assert set(finished.seen[application]) <= {component, "unknown"}, application
    assert all(finished.seen[name][COMPONENTS[name]] for name in ("scheduler", "triggerer", "dag-processor")), finished.seen
