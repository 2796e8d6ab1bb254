"""How long the client of a request still waits; what cannot be answered in that time is refused.

Nothing is refused before. A 503 costs the client a pause and one of its five attempts, an answer after four seconds nothing.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import NamedTuple

from starlette.types import Scope

CLIENT = 5.0  # seconds that the Task SDK waits for an answer
CONNECTION = CLIENT - 1.0  # in which a database connection must be had: the last second is for the work and the ways
DOOR = CONNECTION - 0.2  # in which a request must be let in: the fifth is for the line behind the door

# When the request that runs came to this process, by the event loop's clock, if it has waited since.
arrival: ContextVar[float | None] = ContextVar("arrival", default=None)


def until() -> float:
    """Return until when the request that runs may wait for anything but a connection, by the event loop's clock."""
    came = arrival.get()
    return (asyncio.get_running_loop().time() if came is None else came) + DOOR


class Turn(NamedTuple):
    """What became of a request that waited at the door before it was parsed; its scope has it as :data:`TURN`.

    :param since: when it came, by the event loop's clock.
    """

    is_let_in: bool
    since: float


TURN = "turn"


def waited(scope: Scope) -> float:
    """Return for how many seconds a request waited before it was parsed."""
    turn: Turn | None = scope.get(TURN)
    return 0.0 if turn is None else asyncio.get_running_loop().time() - turn.since
