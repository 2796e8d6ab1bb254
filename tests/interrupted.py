"""What :mod:`tests.test_interruption` runs: a test in whose middle SIGTERM comes, twice, as ``make`` passes it on."""

from __future__ import annotations

import asyncio
import signal

from tests.world import World


async def test_that_is_interrupted(world: World) -> None:
    """In a task of the test's own, as a request to an application in this process is one."""

    async def request() -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)

    await asyncio.create_task(request())
