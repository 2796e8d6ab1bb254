"""Who does not go on is cut off: heads and bodies that never end, answers that nobody reads. Half a minute, side by side."""

from __future__ import annotations

import asyncio
import time

import pytest

from app.server.protocol import ANSWER_SECONDS, HEAD_SECONDS, REQUEST_SECONDS
from tests.security.conftest import head, stranger
from tests.servers import Server, token
from tests.world import World

pytestmark = pytest.mark.slow
SLACK = 10  # seconds


async def refused(server: Server, sent: bytes, *, within: float, status: int | None) -> None:
    """Send something and no more; an answer comes, or none, and then the connection ends."""
    began = time.monotonic()
    async with stranger(server) as attacker:
        await attacker.send(sent)
        if status is not None:
            assert (await attacker.answer(within=within + SLACK)).status == status
        assert await attacker.is_closed(within=within + SLACK)
    assert time.monotonic() - began > within / 2, "nobody is cut off who may still go on"


async def trickled(server: Server) -> None:
    """A byte a second of a head, for ever: each is progress, and the head is overdue all the same."""
    async with stranger(server) as attacker:
        await attacker.send(b"GET /")
        answering = asyncio.create_task(attacker.answer(within=HEAD_SECONDS + SLACK))
        while not answering.done():
            await attacker.send(b"a")
            await asyncio.wait([answering], timeout=1)
        assert answering.result().status == 408


async def unread(server: Server, ti: object) -> None:
    """Ask for 60 MB and read none of it."""
    async with stranger(server) as attacker:
        attacker.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await attacker.send(head("GET", "/xcoms/d/manual__1/job/large", f"Authorization: Bearer {token(ti)}"))
        await asyncio.sleep(ANSWER_SECONDS + SLACK)
        attacker.writer.transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await attacker.reader.readexactly(60_000_000)


async def test_who_does_not_go_on_is_cut_off(attacked: Server, rows: World) -> None:
    ti = await rows.one_running("d")
    await rows.xcom("d", "job", "large", "x" * 60_000_000)
    authorized = f"Authorization: Bearer {token(ti)}"
    path = "/xcoms/d/manual__1/job/k"
    await asyncio.gather(
        refused(attacked, b"GET /execution/health HTTP/1.1\r\nHost:", within=HEAD_SECONDS, status=408),
        refused(attacked, b"\r\n\r\n", within=HEAD_SECONDS, status=408),
        refused(attacked, head("POST", path, authorized, "Content-Length: 50") + b"[", within=REQUEST_SECONDS, status=408),
        refused(attacked, head("POST", path, "Content-Length: 50") + b"[", within=REQUEST_SECONDS, status=401),
        refused(
            attacked, head("POST", path, "Transfer-Encoding: chunked") + b"1\r\n[\r\n", within=REQUEST_SECONDS, status=401
        ),
        trickled(attacked),
        unread(attacked, ti),
    )
    async with attacked.client(ti) as client:
        assert (await client.get("/health")).status_code == 200
