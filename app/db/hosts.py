"""One connection, of several hosts that one may be had from."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import asyncpg
from sqlalchemy.engine import URL

from app.settings.database_url import socket_options

HEAD_START = 0.3  # seconds that a host has before the next is tried beside it: one that is silent costs no more


async def connect_to_one(arguments: Mapping[str, Any], **others: Any) -> asyncpg.Connection:
    """Open a connection to the first host that takes it, as :func:`asyncpg.connect` would, whichever hosts are silent.

    :param arguments: asyncpg's; ``host`` may be a list, and ``port`` one as long.
    :raises Exception: what is told when none takes it: a server's words before the network's.
    """
    hosts = arguments.get("host")
    if not isinstance(hosts, list):
        return await asyncpg.connect(**arguments, **others)
    ports = arguments["port"]
    left = [{**arguments, **others, "host": host, "port": port} for host, port in zip(hosts, ports, strict=True)]
    pending: set[asyncio.Task[asyncpg.Connection]] = set()
    errors: list[BaseException] = []
    try:
        while left or pending:
            if left:
                pending.add(asyncio.create_task(asyncpg.connect(**left.pop(0))))
            done, pending = await asyncio.wait(
                pending, timeout=HEAD_START if left else None, return_when=asyncio.FIRST_COMPLETED
            )
            opened = [task for task in done if _error(task, errors) is None]
            if opened:
                pending.update(opened[1:])
                return opened[0].result()
    finally:
        for task in pending:
            task.cancel()
            task.add_done_callback(_terminate)
    raise min(errors, key=lambda error: isinstance(error, OSError))


def keep_alive(connection: asyncpg.Connection, url: URL) -> None:
    """Tell a connection's socket what libpq would: by itself the driver asks no silent peer whether it is there."""
    opened = connection._transport.get_extra_info("socket")
    for level, option, value in socket_options(url) if not isinstance(opened.getpeername(), str) else ():
        opened.setsockopt(level, option, value)


def _error(task: asyncio.Task[asyncpg.Connection], errors: list[BaseException]) -> BaseException | None:
    """Return why a task failed, and note it."""
    if (error := task.exception()) is not None:
        errors.append(error)
    return error


def _terminate(task: asyncio.Task[asyncpg.Connection]) -> None:
    """End the connection of a task that lost."""
    if not task.cancelled() and task.exception() is None:
        task.result().terminate()
