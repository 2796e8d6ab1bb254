"""What a database holds before a case's request: set-ups by name, each written beside the cases of its subject."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tests.world import World

Setup = Callable[[World], Awaitable[Any]]
SETUPS: dict[str, Setup] = {}


def setup(function: Setup) -> Setup:
    SETUPS[function.__name__] = function
    return function


def changed(made: Setup, statement: str) -> Setup:
    """Return a set-up that changes with one statement what another one makes."""

    async def change(world: World) -> Any:
        ti = await made(world)
        await world.connection.execute(statement)
        return ti

    return change
