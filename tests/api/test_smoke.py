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


async def test_a_body_that_names_no_content_type_is_json(server: Server, world: World) -> None:
    """The client of Task SDK 1.0 names none."""
    ti = await world.one_running("untyped")
    async with server.client(ti) as client:
        beat = await client.put(f"/task-instances/{ti}/heartbeat", content=b'{"hostname": "worker", "pid": 42}')
        assert beat.status_code == 204, beat.text
        xcom = await client.post("/xcoms/untyped/manual__1/job/return_value", params={"mapped_length": 1}, content=b'["x"]')
        assert xcom.status_code == 201, xcom.text  # a body that the handler reads itself
        mistyped = await client.put("/variables/key", content=b"value=1", headers={"Content-Type": "text/plain"})
        assert mistyped.status_code == 422
    assert await world.connection.fetchval(f"SELECT value FROM {world.table('xcom')}") == '["x"]'


async def test_health_answers_head_too(server: Server) -> None:
    """As balancers and `curl --head` ask."""
    async with server.client() as client:
        for path in ("/health", "/health/ping"):
            answer = await client.head(path)
            assert (answer.status_code, answer.content) == (200, b"")
            assert answer.headers["content-length"] == (await client.get(path)).headers["content-length"]
