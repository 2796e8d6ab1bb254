"""How late the event loop is: what it comes to now has waited for up to as long, before anything of ours knew of it."""

from __future__ import annotations

import asyncio

TICK = 0.1  # seconds


class Lag:
    """Measures how long what is due waits for its turn, by a timer that is due ten times a second."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._worst = 0.0

    @property
    def seconds(self) -> float:
        """How late the loop is now; also in the middle of a long turn, before the timer has run."""
        return 0.0 if self._loop is None else max(0.0, self._loop.time() - self._due)

    def worst(self) -> float:
        """Return the most seconds that it was late since this was last asked."""
        worst, self._worst = max(self._worst, self.seconds), 0.0
        return worst

    def start(self) -> None:
        """Begin to measure the running loop."""
        self._loop = asyncio.get_running_loop()
        self._again()

    def stop(self) -> None:
        """End it."""
        if self._timer is not None:
            self._timer.cancel()

    def _again(self) -> None:
        assert self._loop is not None
        self._worst = max(self._worst, self._loop.time() - self._due) if self._timer else 0.0
        self._due = self._loop.time() + TICK
        self._timer = self._loop.call_at(self._due, self._again)
