from tests.servers import Server
from tests.world import World


async def test_a_task_runs_from_start_to_success(server: Server, world: World) -> None:
    ti = await world.one("smoke")
    async with server.client(ti) as client:
        start = {"state": "running", "hostname": "w", "unixname": "u", "pid": 1, "start_date": "2026-01-01T00:00:00Z"}
        assert (await client.patch(f"/task-instances/{ti}/run", json=start)).status_code == 200
        assert (await client.put(f"/task-instances/{ti}/heartbeat", json={"hostname": "w", "pid": 1})).status_code == 204
        done = {"state": "success", "end_date": "2026-01-01T00:01:00Z"}
        assert (await client.patch(f"/task-instances/{ti}/state", json=done)).status_code == 204
    assert await world.connection.fetchval("SELECT state FROM task_instance WHERE id = $1", ti) == "success"
