"""Connections that come together are accepted together: uvloop takes one from a socket in a turn of the event loop."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
import uvloop
from starlette.applications import Starlette

from app.commands.serve import uvicorn_options
from app.server.admission import Door
from app.server.draining import ACCEPTED_IN_A_TURN, DrainingServer, Readiness
from app.server.middleware import AccessLog, Answered, Count
from app.settings import ServerSettings
from tests.unit.test_admission import Room
from tests.unit.test_waiting_unparsed import named_alike

TOGETHER = 160


def test_a_crowd_is_accepted_in_few_turns() -> None:
    """A turn of a busy process is long: who is accepted in the 160th has been waiting for seconds."""
    assert uvloop.run(_turns_until_all_are_accepted()) < TOGETHER / ACCEPTED_IN_A_TURN + 20


async def _turns_until_all_are_accepted() -> int:
    application = Starlette()
    application.state.door, application.state.under_way = Door(Room()), Count()
    application.state.answered = Answered(operation=named_alike, access_log=AccessLog())
    config = uvicorn.Config(application, **uvicorn_options(ServerSettings()))
    server = DrainingServer(config, readiness=Readiness(), drain_seconds=0)
    with socket.create_server(("127.0.0.1", 0), backlog=TOGETHER) as listening:
        crowd = [socket.create_connection(listening.getsockname()) for _ in range(TOGETHER)]
        running = asyncio.create_task(server.serve([listening]))
        turns = 0
        async with asyncio.timeout(30):
            while len(server.server_state.connections) < TOGETHER:
                await asyncio.sleep(0)
                turns += server.started
        for client in crowd:
            client.close()
        server.finish()
        await running
    return turns
