"""Who may use a database connection next: in order of arrival, heartbeats first, and nobody who would wait too long.

SQLAlchemy's queue of connections lets a newcomer take one that a waiter was just woken for, and sends the waiter back to the
end: with 128 clients, the slowest request in a hundred took six times as long as the middle one. Here a slot is handed over.
What would wait longer than :data:`PATIENCE` is refused at once: under more load than the service can take, those that it
accepts are answered in time, and the others come back when they were told to.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app import metrics
from app.errors import PoolExhausted

PATIENCE = 0.4  # seconds of expected wait; with the work itself an accepted request stays below one second
URGENT_PATIENCE = 4 * PATIENCE  # for heartbeats: three that fail in a row end a task
OLDEST = 0.25  # seconds that the first in line may have waited: the mean knows a burst only when it is over
WEIGHT = 0.01  # of the newest use in the running mean of how long a slot is used


class Slots:
    """As many users at once as there are connections.

    :param count: how many.
    :param timeout: seconds after which a waiter gives up, whatever was expected.
    """

    def __init__(self, count: int, *, timeout: float) -> None:
        self._count, self._free, self._timeout = count, count, timeout
        self._waiting: deque[tuple[asyncio.Future[None], float]] = deque()  # with when each came
        self._urgent: deque[tuple[asyncio.Future[None], float]] = deque()
        self._mean_use = 0.0

    @asynccontextmanager
    async def held(self, *, urgent: bool = False) -> AsyncIterator[None]:
        """Hold a slot until the block ends.

        :param urgent: whether it goes before those that are not.
        :raises PoolExhausted: at once when the expected wait is too long, or after the timeout.
        """
        if self._free:
            self._free -= 1
        else:
            await self._wait(urgent=urgent)
        started = time.perf_counter()
        try:
            yield
        finally:
            self._mean_use += WEIGHT * (time.perf_counter() - started - self._mean_use)
            self._hand_over()

    def is_overloaded(self, *, urgent: bool = False) -> bool:
        """Say whether who comes now would wait too long."""
        if self._free:
            return False
        ahead = len(self._urgent) if urgent else len(self._urgent) + len(self._waiting)
        if (ahead + 1) * self._mean_use / self._count > (URGENT_PATIENCE if urgent else PATIENCE):
            return True
        return not urgent and bool(self._waiting) and time.perf_counter() - self._waiting[0][1] > OLDEST

    def used(self) -> int:
        """Return how many slots are held."""
        return self._count - self._free

    def waiting(self, *, urgent: bool) -> int:
        """Return how many wait for one."""
        return len(self._urgent if urgent else self._waiting)

    async def _wait(self, *, urgent: bool) -> None:
        if self.is_overloaded(urgent=urgent):
            raise PoolExhausted("more is asked than the database connections can serve in time")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        came = time.perf_counter()
        (self._urgent if urgent else self._waiting).append((turn, came))
        try:
            async with asyncio.timeout(self._timeout):
                try:
                    await turn
                except asyncio.CancelledError:
                    if not turn.cancelled():
                        self._hand_over()  # the turn came in the same moment
                    raise
        except TimeoutError:
            raise PoolExhausted("no database connection became free in time") from None
        finally:
            metrics.WAIT.labels("heartbeat" if urgent else "other").observe(time.perf_counter() - came)

    def _hand_over(self) -> None:
        """Give a slot to who waits longest, or keep it free."""
        for queue in (self._urgent, self._waiting):
            while queue:
                turn, _ = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._free += 1
