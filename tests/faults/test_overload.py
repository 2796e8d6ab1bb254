"""More than the database connections can serve: 503 at once, at the door, and heartbeats last."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from app.db import slots
from tests.contract.cases import SETUPS
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
