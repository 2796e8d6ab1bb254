from tests.contract.cases.setups import SETUPS
from tests.servers import Server
from tests.world import World


async def test_a_deadline_after_the_average_runtime(server: Server, world: World, revision: str) -> None:
    """Since 3.3 that of the last two successful runs (50 s and 70 s), on 3.2 of the last two of any state (70 s and 1 s)."""
    ti = await SETUPS["sample, deadline after an average of runs"](world)
    async with server.client(ti) as client:
        answer = await client.post("/dag-runs/sample/r1", json={"logical_date": "2026-02-03T04:05:06Z"})
    assert answer.status_code == 204, answer.text
    after = "SELECT deadline_time - queued_at FROM deadline JOIN dag_run ON dag_run.id = dagrun_id"
    average = 35.5 if revision == "3.2" else 60
    assert (await world.connection.fetchval(after)).total_seconds() == average + 90.5
