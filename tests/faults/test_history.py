"""No started task is lost and nothing that a worker was told is wrong, whatever fails meanwhile.

Twelve workers (``tests/history.py``) live their tasks while the fault happens. The checker proves itself first, on lies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import asyncpg
import httpx
import pytest

from app.commands.embedded import EmbeddedPostgres
from tests.conftest import reachable
from tests.history import History, Process, Worker, queue, violations
from tests.servers import Server, our_server

TASKS = 12


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """Run a PostgreSQL of its own, which keeps what it acknowledged (``synchronous_commit`` is on)."""
    with EmbeddedPostgres(reachable(tmp_path_factory.mktemp("history"))) as server:
        server.create_metadata_database("airflow", "3.3")
        yield server


@pytest.fixture(scope="module")
def server(cluster: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with our_server(cluster.url(), tmp_path_factory.mktemp("checker")) as running:
        yield running


# What nobody may do to rows that were acknowledged, and the rules that must find it.
PLANTED = {
    "UPDATE task_instance SET state = 'failed' WHERE task_id = 't0'": {"final", "state"},
    "UPDATE task_instance SET state = 'running' WHERE task_id = 't0'": {"final"},
    "UPDATE task_instance SET pid = 43 WHERE task_id = 't0'": {"owner"},
    "UPDATE task_instance SET last_heartbeat_at = last_heartbeat_at - interval '1 hour' WHERE task_id = 't0'": {"heartbeat"},
    "DELETE FROM xcom WHERE task_id = 't0' AND key = 'return_value'": {"xcom"},
    "UPDATE xcom SET value = '[7]' WHERE task_id = 't0' AND key = 'k0'": {"xcom"},
    "INSERT INTO log (dttm, dag_id, run_id, task_id, event) SELECT dttm, dag_id, run_id, task_id, event FROM log"
    " WHERE task_id = 't0' AND event = 'success'": {"once"},
    "DELETE FROM task_instance WHERE task_id = 't0'": {"kept"},
}


class TestTheChecker:
    """It finds what must not be, and nothing else."""

    @pytest.fixture
    async def honest(self, cluster: EmbeddedPostgres, server: Server) -> History:
        history, queued = History(), await queue(cluster.url(), TASKS)
        lives = (Worker(history, [server.base_url], ti, name, beats=2, interval=0).live() for name, ti in queued.items())
        await asyncio.gather(*lives)
        return history

    async def test_nothing_when_all_is_well(self, cluster: EmbeddedPostgres, honest: History) -> None:
        assert await violations(honest, cluster.url()) == []
        assert list(honest.ends.values()) == [("done", "")] * TASKS
        assert honest.lost == {}

    @pytest.mark.parametrize(("statement", "rules"), PLANTED.items())
    async def test_rows_that_changed(
        self, cluster: EmbeddedPostgres, honest: History, statement: str, rules: set[str]
    ) -> None:
        connection = await asyncpg.connect(cluster.url())
        await connection.execute(statement)
        await connection.close()
        assert {sentence.partition(":")[0] for sentence in await violations(honest, cluster.url())} == rules

    async def test_two_owners_and_a_wrong_refusal(self, cluster: EmbeddedPostgres, honest: History) -> None:
        runs = [each for each in honest.exchanges if each.operation == "run"]
        honest.exchanges.append(replace(runs[0], process=Process("other", 1)))
        honest.exchanges.append(replace(runs[1], status=409))
        assert [sentence.partition(":")[0] for sentence in await violations(honest, cluster.url())] == ["owner", "refused"]

    async def test_an_acknowledgement_without_a_deed(self, cluster: EmbeddedPostgres, server: Server) -> None:
        """Somebody between answers 204 to the success and forwards nothing."""

        class Lying(httpx.AsyncHTTPTransport):
            async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                if request.url.path.endswith("/state"):
                    return httpx.Response(204)
                return await super().handle_async_request(request)

        history, queued = History(), await queue(cluster.url(), TASKS)
        await Worker(history, [server.base_url], queued["t0"], "t0", beats=1, interval=0, transport=Lying).live()
        assert [sentence.partition(":")[0] for sentence in await violations(history, cluster.url())] == ["final"]

    async def test_who_is_lost(self, cluster: EmbeddedPostgres, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        """A task that started and is not answered any more is lost; one that never started is not."""
        monkeypatch.setattr("tests.history.PAUSES", ((0, 0),) * 4)
        refusing: set[str] = {"xcoms"}

        class Refusing(httpx.AsyncHTTPTransport):
            async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                if refusing & set(request.url.path.split("/")):
                    return httpx.Response(503)
                return await super().handle_async_request(request)

        history, queued = History(), await queue(cluster.url(), TASKS)
        await Worker(history, [server.base_url], queued["t0"], "t0", beats=1, interval=0, transport=Refusing).live()
        refusing.add("run")
        await Worker(history, [server.base_url], queued["t1"], "t1", beats=1, interval=0, transport=Refusing).live()
        assert history.lost == {queued["t0"]: "xcom"}
        assert history.ends == {queued["t0"]: ("lost", "xcom"), queued["t1"]: ("lost", "run")}
        assert history.unanswered(most=4) == {queued["t0"]: 5, queued["t1"]: 5}
