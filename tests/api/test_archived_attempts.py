"""What a try asks after it was archived, or without a row: since API date 2026-10-30 it changes nothing any more."""

from __future__ import annotations

from typing import Any

import pytest

from tests.servers import Server, token
from tests.world import EPOCH, World, ti_id

pytestmark = pytest.mark.parametrize("revision", ["3.4"], indirect=True)  # the first whose server has the date

BEFORE = {"Airflow-API-Version": "2026-06-30"}
END = {"end_date": "2026-01-01T00:05:00Z"}
ARCHIVED = "Task Instance not found in the working set; its attempt has been archived"
START = {"state": "running", "hostname": "worker", "unixname": "airflow", "pid": 42, "start_date": "2026-01-01T00:00:20Z"}
XCOM = "/xcoms/late/manual__1/job/key"
# What writes, with the status that an archived try hears before the date.
WRITES: dict[tuple[str, str], tuple[Any, int]] = {
    ("PATCH", "/task-instances/{ti}/run"): (START, 404),
    ("PATCH", "/task-instances/{ti}/state"): ({"state": "success", **END}, 404),
    ("PUT", "/task-instances/{ti}/rtif"): ({"a": 1}, 410),
    ("PATCH", "/task-instances/{ti}/rendered-map-index"): ("label", 404),
    ("PATCH", "/task-instances/{ti}/skip-downstream"): ({"tasks": ["down"]}, 404),
    ("POST", XCOM): ("value", 201),
    ("DELETE", XCOM): (None, 200),
    ("PUT", "/variables/v"): ({"val": "x"}, 201),
    ("DELETE", "/variables/v"): (None, 204),
    ("PUT", "/store/ti/{ti}/k"): ({"value": 1}, 404),
    ("POST", "/dag-runs/late/another"): ({}, 404),  # it was never serialized
}


@pytest.mark.parametrize(("method", "path"), WRITES)
async def test_an_archived_try_changes_nothing(server: Server, world: World, method: str, path: str) -> None:
    body, before = WRITES[method, path]
    ti = await _archived(server, world)
    sent = {} if body is None else {"json": body}
    async with server.client(ti) as client:
        answer = await client.request(method, path.format(ti=ti), **sent)
        assert answer.status_code == 410, answer.text
        assert (answer.json()["detail"]["message"] == ARCHIVED) is not path.endswith("/state")
        older = await client.request(method, path.format(ti=ti), headers=BEFORE, **sent)
    assert older.status_code == before, older.text


@pytest.mark.parametrize(("method", "path"), WRITES)
async def test_nobody_changes_nothing(server: Server, world: World, method: str, path: str) -> None:
    await world.one_running("late")
    body = WRITES[method, path][0]
    async with server.client(ti_id("nobody")) as client:
        answer = await client.request(method, path.format(ti=ti_id("nobody")), **({} if body is None else {"json": body}))
    assert answer.status_code == 404
    assert "Task Instance not found" in answer.text


async def test_what_reads_is_not_asked(server: Server, world: World) -> None:
    ti = await _archived(server, world)
    async with server.client(ti) as client:
        assert (await client.get("/dag-runs/late/manual__1/state")).status_code == 200
        assert (await client.head(XCOM)).status_code == 200
        assert (await client.get("/task-instances/count?dag_id=late")).json() == 1


async def test_it_is_refused_before_its_body_is_read(server: Server, world: World) -> None:
    ti = await _archived(server, world)
    async with server.client(ti) as client:
        answer = await client.put("/variables/v", content=b"no JSON")
    assert answer.status_code == 410


async def test_a_callback_writes_with_the_token_that_it_was_given(server: Server, world: World) -> None:
    callback = await _callback(world)
    async with server.client(headers={"Authorization": f"Bearer {token(callback, scope='callback')}"}) as client:
        assert (await client.put("/variables/v", json={"val": "x"})).status_code == 403, "it opens its start alone"
        first = await client.patch(f"/callbacks/{callback}/run")
        assert first.status_code == 204
        again = await client.patch(f"/callbacks/{callback}/run")
        assert again.status_code == 409
        assert (again.json()["detail"]["reason"], again.json()["detail"]["previous_state"]) == ("invalid_state", "running")
        assert (await client.patch(f"/callbacks/{callback}/run", headers=BEFORE)).status_code == 404
    assert await world.connection.fetchval("SELECT state FROM callback") == "running"
    given = {"Authorization": f"Bearer {first.headers['Refreshed-API-Token']}"}
    async with server.client(headers=given) as client:
        assert (await client.put("/variables/v", json={"val": "x"})).status_code == 201
        assert (await client.put(f"/store/ti/{callback}/k", json={"value": 1})).status_code == 404


async def test_a_callbacks_token_is_its_own_and_ends(server: Server, world: World) -> None:
    callback = await _callback(world)
    of_another = token(ti_id("another"), scope="callback")
    async with server.client(headers={"Authorization": f"Bearer {of_another}"}) as client:
        assert (await client.patch(f"/callbacks/{callback}/run")).status_code == 403
        assert (await client.patch(f"/callbacks/{ti_id('another')}/run")).status_code == 404
    ending = token(callback, scope="callback", age=590)
    async with server.client(headers={"Authorization": f"Bearer {ending}"}) as client:
        refused = await client.patch(f"/callbacks/{ti_id('another')}/run")
    assert refused.status_code == 403
    assert "Refreshed-API-Token" not in refused.headers


@pytest.mark.parametrize("wrote", [None, "somebody"])
async def test_a_task_writes_the_note_of_its_run(server: Server, world: World, wrote: str | None) -> None:
    ti = await world.one_running("late")
    if wrote:
        times = "created_at, updated_at) SELECT id, 'before', $1, now(), now() FROM dag_run"
        await world.connection.execute(f"INSERT INTO dag_run_note (dag_run_id, content, user_id, {times}", wrote)

    async def note() -> tuple[Any, ...] | None:
        found = await world.connection.fetchrow("SELECT content, user_id FROM dag_run_note")
        return None if found is None else tuple(found)

    async with server.client(ti) as client:
        path, before = f"/task-instances/{ti}/dag-run-note", await note()
        for body in ({}, {"note": None}):
            assert (await client.patch(path, json=body)).status_code == 204
            assert await note() == before, "it is left as it is"
        assert (await client.patch(path, json={"note": "by a task"})).status_code == 204
        assert await note() == ("by a task", None)
        for bad in ("x" * 1001, "NUL \0"):
            assert (await client.patch(path, json={"note": bad})).status_code == 422
        assert (await client.patch(path, json={"note": ""})).status_code == 204
        assert await note() is None
        assert (await client.patch(path, json={"note": "x"}, headers=BEFORE)).status_code == 404


async def _archived(server: Server, world: World) -> str:
    """Return the id of a try that was archived."""
    ti = await world.one_running("late", max_tries=1)
    async with server.client(ti) as client:
        retry = {"state": "up_for_retry", **END}
        assert (await client.patch(f"/task-instances/{ti}/state", json=retry)).status_code == 204
    return str(ti)


async def _callback(world: World) -> str:
    """Return the id of a callback that waits for its worker."""
    callback = ti_id("callback")
    kind = {"type": "executor", "fetch_method": "import_path", "data": "{}", "priority_weight": 1}
    await world.insert("callback", id=callback, state="queued", created_at=EPOCH, **kind)
    return str(callback)
