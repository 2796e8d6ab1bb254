"""Connections that come together are accepted together: uvloop takes one from a socket in a turn of the event loop."""

from __future__ import annotations

import asyncio
import socket

import uvloop

from tests.unit.test_waiting_unparsed import serving

TOGETHER = 160


def test_a_crowd_is_accepted_in_few_turns() -> None:
    """A turn of a busy process is long: who is accepted in the 160th has been waiting for seconds."""
    assert uvloop.run(_turns_until_all_are_accepted()) < TOGETHER / 4


async def _turns_until_all_are_accepted() -> int:
    turns = 0
    async with serving() as ours:
        crowd = [socket.create_connection(("127.0.0.1", ours.port)) for _ in range(TOGETHER)]
        async with asyncio.timeout(30):
            while len(ours.server.server_state.connections) < TOGETHER:
                await asyncio.sleep(0)
                turns += 1
        for client in crowd:
            client.close()
    return turns
