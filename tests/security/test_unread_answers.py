"""What is left of an answer when its connection is closed is not kept for ever."""

from __future__ import annotations

import asyncio
import socket

import pytest

from app.commands.embedded import free_port
from app.server import listening

MORE_THAN_THE_SYSTEM_TAKES = b"x" * 32_000_000


async def test_who_reads_no_more_loses_a_connection_that_was_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keep-alive has ended it, or we have: the transport waits for its last bytes, and nobody else waits for it."""
    monkeypatch.setattr(listening, "ANSWER_SECONDS", 1.0)
    lost = asyncio.Event()

    class Answering(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            transport.write(MORE_THAN_THE_SYSTEM_TAKES)
            transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            lost.set()

    port = free_port()
    (bound,) = listening.on_port("127.0.0.1", port)
    server = await asyncio.get_running_loop().create_server(Answering, sock=bound)
    with socket.create_connection(("127.0.0.1", port)):
        async with asyncio.timeout(30):
            await lost.wait()
    server.close()
    await server.wait_closed()
