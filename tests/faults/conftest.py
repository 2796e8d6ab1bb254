"""Our application inside the test's own process, so that a test can reach into it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy import event
from starlette.applications import Starlette

from app.db.direct import DirectSession
from app.main import create_app
from app.server import logs
from app.settings import DatabaseSettings, Settings, TokenSettings
from app.settings.database_url import async_url
from app.tasks.service import Service
from tests.conftest import empty
from tests.servers import AIRFLOW, FERNET_KEY, SECRET, token
from tests.world import World


@dataclass
class InProcess:
    """A running application and the database behind it.

    :param statements: that it sent.
    :param controls: the commands around them that begin and end transactions, each a round trip too.
    """

    application: Starlette
    service: Service
    world: World
    statements: list[str] = field(default_factory=list)
    controls: list[str] = field(default_factory=list)

    def client(self, ti: object) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.application, raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {token(ti)}"}
        return httpx.AsyncClient(transport=transport, base_url="http://ours/execution", headers=headers)

    async def state(self, ti: object) -> str:
        return str(await self.world.connection.fetchval("SELECT state FROM task_instance WHERE id = $1", ti))


@pytest.fixture
async def connection(revision: str, url: str) -> AsyncIterator[asyncpg.Connection]:
    connected = await asyncpg.connect(url)
    await empty(connected)
    yield connected
    await connected.close()


@pytest.fixture(scope="module")
def url(revision: str, make_database: Callable[[str], str]) -> str:
    return make_database(revision)


@pytest.fixture
async def ours(
    connection: asyncpg.Connection, revision: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[InProcess]:
    settings = Settings(
        database=DatabaseSettings(
            url=async_url(url, setting="url"), lock_timeout=0.3, statement_timeout=2.0, preview_releases=tuple(AIRFLOW)
        ),
        tokens=TokenSettings(secret=SECRET),
        fernet_keys=(FERNET_KEY,),
    )
    logs.configure(form="json")  # as in production: the tests' own libraries would paint each traceback for a second
    application = create_app(settings)
    async with application.router.lifespan_context(application):
        execution: Any = application.routes[1].app  # type: ignore[attr-defined]
        service: Service = execution.service
        # Until what a thread makes is made: pytest changes the process' filters of warnings between a test's phases.
        async with asyncio.timeout(60):
            while execution._versions.app(execution._versions.newest).app.middleware_stack is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        running = InProcess(application, service, World(connection, revision))

        engine = service.database.engine

        @event.listens_for(engine, "before_cursor_execute")
        def listen(_: Any, __: Any, statement: str, *___: Any) -> None:
            if "alembic_version" not in statement:  # which the service looks at each second, whoever asks it anything
                running.statements.append(statement)

        async def send(self: DirectSession, way: Callable[..., Any], sql: str, *arguments: Any, **named: Any) -> Any:
            (running.controls if way is asyncpg.Connection.execute else running.statements).append(sql)
            return await sent(self, way, sql, *arguments, **named)

        sent = DirectSession._sent
        monkeypatch.setattr(DirectSession, "_sent", send)
        for command in ("begin", "commit", "rollback"):
            event.listen(engine, command, lambda _, command=command: running.controls.append(command))
        yield running
