"""Turns: requests of this process that will write the same rows go one after another, before they take a connection.

A transaction of ours never waits for a row while it holds another: it lets go and comes back. Where many write one row at
once, as mapped tasks do that emit one asset, most of them would only come back. Those of other processes still do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from weakref import WeakValueDictionary

from app.errors import LockTimeout

Key = tuple[str, str]


class Turns:
    """A lock for each key, for as long as somebody holds it or waits for it.

    ``waiting`` is how many requests wait for their turns now.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def taken(self, keys: Collection[Key], *, until: float) -> AsyncIterator[None]:
        """Hold the turns of all keys until the block ends; taken in order, so that two requests meet at the first.

        :param until: when it gives up, by the event loop's clock.
        :raises LockTimeout: when it is not its turn by then; nothing was written.
        """
        if not keys:
            yield
            return
        async with AsyncExitStack() as held:
            self.waiting += 1
            try:
                async with asyncio.timeout_at(until):
                    for key in sorted(set(keys)):
                        await held.enter_async_context(self._locks.setdefault(key, asyncio.Lock()))
            except TimeoutError:
                raise LockTimeout("others of this server write the same rows, and it was not its turn in time") from None
            finally:
                self.waiting -= 1
            yield
