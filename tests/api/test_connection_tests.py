"""A successful test that stores its connection, while somebody edits that connection."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from tests.contract.cases.case import WORKLOAD
from tests.contract.cases.setups import SETUPS
from tests.servers import Server, token
from tests.world import World


async def test_it_does_not_wait_with_the_test_in_hand(server: Server, world: World, revision: str) -> None:
    """Whoever holds the connection and then wants the test gets it: nobody deadlocks, and the result is recorded."""
    if revision == "3.2":
        pytest.skip("connection tests came with 3.3")
    test = await SETUPS["connection_test_to_replace"](world)
    if revision == "3.4":
        await world.connection.execute("UPDATE connection_test_request SET commit_allows_update = true")
    headers = {"Authorization": f"Bearer {token(test, **WORKLOAD)}"}
    other = await asyncpg.connect(server.database_url)
    async with server.client(headers=headers, timeout=10) as client:
        async with other.transaction():
            await other.execute("UPDATE connection SET description = 'edited'")
            body = {"state": "success", "result_message": "m"}
            report = asyncio.create_task(client.patch(f"/connection-tests/{test}", json=body))
            done, _ = await asyncio.wait({report}, timeout=0.2)
            assert not done
            await other.execute("SELECT 1 FROM connection_test_request FOR UPDATE")
        assert (await report).status_code == 204
    await other.close()
    stored = await world.connection.fetchrow("SELECT description, host FROM connection")
    assert tuple(stored) == ("edited", "h")
    assert await world.connection.fetchval("SELECT state FROM connection_test_request") == "success"
