"""Refreshing and swapping tokens, on a running server."""

from __future__ import annotations

import httpx
import jwt

from tests.servers import AUDIENCE, SECRET, Server, token
from tests.world import World

BEAT = {"hostname": "worker", "pid": 42}


async def _beat(server: Server, ti: object, encoded: str) -> httpx.Response:
    async with server.client(headers={"Authorization": f"Bearer {encoded}"}) as client:
        return await client.put(f"/task-instances/{ti}/heartbeat", json=BEAT)


async def test_a_token_near_its_end_is_refreshed(server: Server, world: World) -> None:
    ti = await world.one_running("d")
    assert "Refreshed-API-Token" not in (await _beat(server, ti, token(ti))).headers
    old = token(ti, age=500, custom="kept")
    answer = await _beat(server, ti, old)
    assert answer.status_code == 204
    fresh = jwt.decode(answer.headers["Refreshed-API-Token"], SECRET, ["HS512"], audience=AUDIENCE)
    assert (fresh["sub"], fresh["custom"], fresh["exp"] - fresh["iat"]) == (str(ti), "kept", 600)
    assert (await _beat(server, ti, answer.headers["Refreshed-API-Token"])).status_code == 204


async def test_a_refusal_refreshes_too(server: Server, world: World) -> None:
    ti = await world.one("d")
    answer = await _beat(server, ti, token(ti, age=500))
    assert answer.status_code == 409
    assert "Refreshed-API-Token" in answer.headers


async def test_a_workload_token_only_starts_a_task_and_is_swapped(server: Server, world: World, revision: str) -> None:
    ti = await world.one("d")
    workload = token(ti, scope="workload", age=590)
    assert (await _beat(server, ti, workload)).status_code == 403
    start = {"state": "running", "hostname": "worker", "unixname": "u", "pid": 42, "start_date": "2026-01-01T00:00:00Z"}
    async with server.client(headers={"Authorization": f"Bearer {workload}"}) as client:
        answer = await client.patch(f"/task-instances/{ti}/run", json=start)
    if revision == "3.2":
        assert answer.status_code == 403
        return
    assert answer.status_code == 200
    swapped = answer.headers["Refreshed-API-Token"]
    assert jwt.decode(swapped, SECRET, ["HS512"], audience=AUDIENCE)["scope"] == "execution"
    assert (await _beat(server, ti, swapped)).status_code == 204


async def test_tokens_do_not_reach_the_log(server: Server, world: World) -> None:
    ti = await world.one_running("d")
    good, bad = token(ti), token(ti, secret="x" * 64)
    await _beat(server, ti, good)
    await _beat(server, ti, bad)
    log = server.log.read_text()
    assert good not in log
    assert bad not in log
    assert SECRET not in log
