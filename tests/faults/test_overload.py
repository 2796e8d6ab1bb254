"""More than the database connections can serve: 503 at once, at the door, and heartbeats last."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

from app.db import slots
from app.server.event_loop import TICK, Lag
from tests.contract.cases.setups import SETUPS
from tests.faults.conftest import InProcess


async def test_requests_are_refused_at_the_door_and_heartbeats_wait(ours: InProcess) -> None:
    ti = await SETUPS["running"](ours.world)
    held = ours.service.database._slots
    async with ours.client(ti) as client, AsyncExitStack() as stack:
        for _ in range(ours.service.settings.database.pool_size):
            await stack.enter_async_context(held.held())
        held._mean_use = slots.PATIENCE * ours.service.settings.database.pool_size * 1.5  # nobody may wait, but a heartbeat
        ours.statements.clear()
        refused = await client.get("/variables/any", headers={"Authorization": "Bearer not even looked at"})
        assert refused.status_code == 503
        assert refused.json()["detail"]["reason"] == "pool_exhausted"
        assert int(refused.headers["retry-after"]) > 0
        assert (await client.get("/health")).status_code == 200
        beating = asyncio.create_task(client.put(f"/task-instances/{ti}/heartbeat", json={"hostname": "worker", "pid": 42}))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert held._urgent
        assert ours.statements == []
        await stack.aclose()
        assert (await beating).status_code == 204
    assert (held._free, len(held._waiting), len(held._urgent)) == (ours.service.settings.database.pool_size, 0, 0)


async def test_what_the_process_comes_to_too_late_is_refused(ours: InProcess) -> None:
    ti = await SETUPS["running"](ours.world)
    async with ours.client(ti) as client:
        asyncio.get_running_loop().call_soon(time.sleep, TICK + 0.4)  # the loop is busy, and then comes to all of these
        asked = [asyncio.create_task(client.get("/variables/any")) for _ in range(3)]
        beating = asyncio.create_task(client.put(f"/task-instances/{ti}/heartbeat", json={"hostname": "worker", "pid": 42}))
        answers = await asyncio.gather(*asked)
        assert {answer.status_code for answer in answers} == {503}
        assert {answer.json()["detail"]["reason"] for answer in answers} == {"server_busy"}
        assert (await beating).status_code == 204
        await asyncio.sleep(TICK)
        assert (await client.get("/variables/any")).status_code == 404


async def test_the_lag_of_an_event_loop() -> None:
    lag = Lag()
    assert lag.seconds == 0, "nothing is measured before it is started"
    lag.start()
    asyncio.get_running_loop().call_soon(time.sleep, TICK + 0.2)  # nothing else runs meanwhile: that is what is measured
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert lag.seconds >= 0.2
    await asyncio.sleep(TICK / 2)
    assert lag.seconds < 0.2
    lag.stop()
