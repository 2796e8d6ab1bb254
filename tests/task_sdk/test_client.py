"""The real Task SDK client, 1.2.1 and 1.3.2, drives every operation against a running server."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.server.heads import plain
from tests.relay import Relay
from tests.servers import Server, airflow_environment, clean_environment, token
from tests.world import World

pytestmark = pytest.mark.slow


async def _drive(base_url: str, world: World, airflow: str, home: Path) -> dict[str, Any]:
    await world.dag("sdk")
    await world.run("sdk")
    names = ("succeeds", "fails", "retries", "defers", "reschedules", "waits")
    tasks = {name: await world.ti("sdk", name, max_tries=1) for name in names}
    await world.ti("sdk", "down", state=None)
    await world.ti("sdk", "mapped", map_index=0, state=None)
    await world.ti("sdk", "g.one", state="success")
    await world.serialized(
        "sdk", [{"__var": {"task_id": t}, "__type": "operator"} for t in (*names, "g.one")], {"g": ["g.one"]}
    )
    await world.insert(
        "connection", conn_id="conn", conn_type="http", host="h", is_encrypted=False, is_extra_encrypted=False
    )
    request = {
        "base_url": f"{base_url}/",
        "tasks": {name: {"id": str(ti), "token": token(ti)} for name, ti in tasks.items()},
    }
    done = await asyncio.to_thread(
        subprocess.run,
        [str(airflow_environment(airflow) / "bin" / "python"), str(Path(__file__).parent / "drive.py")],
        input=json.dumps(request),
        env={**clean_environment(), "AIRFLOW_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return results


@pytest.mark.parametrize("sdk", ["3.2.1", "3.3.2"])  # these Airflows bring Task SDK 1.2.1 and 1.3.2
async def test_every_operation(server: Server, world: World, revision: str, sdk: str, tmp_path: Path) -> None:
    if (revision, sdk) == ("3.2", "3.3.2"):
        pytest.skip("a Task SDK newer than the server's API date is refused by Airflow's own server too")
    between = Relay("127.0.0.1", urlsplit(server.base_url).port or 0)
    between.spoken = spoken = []
    await between.listen()
    try:
        results = await _drive(f"http://127.0.0.1:{between.port}/execution", world, sdk, tmp_path)
    finally:
        await between.close()

    assert results["start"]["dag_run"]["dag_id"] == "sdk"
    assert results["start"]["should_retry"] is True
    assert results["start again"] == results["start"]
    assert results["heartbeat"] is None
    assert results["heartbeat of another"]["status"] == 409
    assert results["heartbeat of another"]["body"]["detail"]["reason"] == "running_elsewhere"
    assert results["set_rtif"]["ok"] is True
    assert results["previous dagrun"]["start_date"] is None
    assert results["reschedule start"]["start_date"] is None
    assert results["count"]["count"] == 1
    assert results["count in group"]["count"] == 1
    assert results["previous"]["task_instance"] is None, "no run is before this one"
    assert results["states"]["task_states"] == {"manual__1": {"succeeds": "running"}}
    assert {b["task_id"] for b in results["breadcrumbs"]["breadcrumbs"]} == {"g.one", "down", "mapped"}
    assert results["validate"]["inactive_assets"] == []

    assert results["xcom get"]["value"] == {"a": [1, None]}
    assert results["xcom get none"]["value"] is None
    assert results["xcom head"]["len"] == 1
    assert results["xcom item"] == [1, 2]
    assert results["xcom item none"]["error"] == "XCOM_NOT_FOUND"
    assert results["xcom slice"] == [[1, 2]]
    assert results["variable get"]["value"] == "value"
    assert results["variable get none"]["error"] == "VARIABLE_NOT_FOUND"
    assert results["connection get"]["host"] == "h"
    assert results["connection get none"]["error"] == "CONNECTION_NOT_FOUND"

    assert results["dag run detail"]["run_id"] == "manual__1"
    assert results["dag run state"]["state"] == "running"
    assert results["dag run count"]["count"] == 1
    assert results["dag run previous"]["dag_run"]["run_id"] == "manual__1"
    assert results["dag"]["owners"] == "ann, bob"
    unanswered = [name for name, answer in results.items() if isinstance(answer, dict) and answer.get("status", 0) >= 500]
    assert unanswered == []

    rows = await world.connection.fetch("SELECT task_id, state, rendered_map_index, trigger_id FROM task_instance")
    states = {row["task_id"]: row["state"] for row in rows}
    assert {name: states[name] for name in ("succeeds", "fails", "retries", "defers", "reschedules", "down", "mapped")} == {
        "succeeds": "success",
        "fails": "failed",
        "retries": "up_for_retry",
        "defers": "deferred",
        "reschedules": "up_for_reschedule",
        "down": "skipped",
        "mapped": "skipped",
    }
    if sdk == "3.3.2":
        assert states["waits"] == "awaiting_input"

    parsed = [each for each in spoken if plain(bytes(each)) is None]
    assert len(spoken) > 40
    assert all(each.startswith(b"HEAD ") or b"%" in each.split()[1].partition(b"?")[0] for each in parsed), parsed
