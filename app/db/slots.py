"""Who may use a database connection next: in order of arrival, heartbeats first.

SQLAlchemy's queue of connections lets a newcomer take one that a waiter was just woken for, and sends the waiter back to the
end: with 128 clients, the slowest request in a hundred took six times as long as the middle one. Here a slot is handed over.

The line is kept short: what comes while it is full waits at the door (:mod:`app.server.admission`), where its turn goes by
what it asks for, and before it costs anything.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from app.errors import PoolExhausted
from app.server import metrics, patience


class Slots:
    """As many users at once as there are connections.

    :param count: how many.
    """

    def __init__(self, count: int) -> None:
        self._count, self._free = count, count
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._urgent: deque[asyncio.Future[None]] = deque()
        self.when_there_is_room: Callable[[], None] = lambda: None

    @property
    def room(self) -> int:
        """How many more may come until as many wait as there are connections.

        So every connection has its next user at hand, however many become free in one turn of the event loop.
        """
        return max(0, self._free + self._count - len(self._waiting))

    @property
    def has_room(self) -> bool:
        """Whether one more may come; every request asks for it, most of them while there is a slot."""
        return self._free > 0 or len(self._waiting) < self._count

    async def take(self, *, urgent: bool = False) -> None:
        """Wait for a slot; whoever has it gives it back.

        :param urgent: whether it goes before those that are not.
        :raises PoolExhausted: none became free in time.
        """
        if self._free:
            self._free -= 1
        else:
            await self._wait(urgent=urgent)

    def give_back(self) -> None:
        """Give a slot to who waits longest, or keep it free."""
        for line in (self._urgent, self._waiting):
            while line:
                turn = line.popleft()
                if not turn.done():
                    turn.set_result(None)
                    self.when_there_is_room()
                    return
        self._free += 1
        self.when_there_is_room()

    @asynccontextmanager
    async def held(self, *, urgent: bool = False) -> AsyncIterator[None]:
        """Hold a slot until the block ends; see :meth:`take`."""
        await self.take(urgent=urgent)
        try:
            yield
        finally:
            self.give_back()

    def used(self) -> int:
        """Return how many slots are held."""
        return self._count - self._free

    def waiting(self, *, urgent: bool) -> int:
        """Return how many wait for one."""
        return len(self._urgent if urgent else self._waiting)

    async def _wait(self, *, urgent: bool) -> None:
        loop = asyncio.get_running_loop()
        arrived, came = patience.arrival.get(), loop.time()
        line = self._urgent if urgent else self._waiting
        turn: asyncio.Future[None] = loop.create_future()
        line.append(turn)
        try:
            async with asyncio.timeout_at((came if arrived is None else arrived) + patience.CONNECTION):
                await turn
        except BaseException as error:
            if turn.cancelled():
                self._leave(line, turn)
            else:
                self.give_back()  # the turn came in the same moment
            if isinstance(error, TimeoutError):
                raise PoolExhausted("no database connection became free in time") from None
            raise
        finally:
            metrics.WAIT.labels("heartbeat" if urgent else "other").observe(loop.time() - came)

    def _leave(self, line: deque[asyncio.Future[None]], turn: asyncio.Future[None]) -> None:
        if turn in line:  # else it was passed over already
            line.remove(turn)
            self.when_there_is_room()
