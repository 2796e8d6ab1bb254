"""Calls into code that is not ours, such as a secrets backend: each in a thread of its own, for a bounded time.

Threads that hang are lost; nothing of ours waits for them, not even the end of the process, which the threads of an executor
would hold up.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from app.errors import SecretsBackendTimeout
from app.tasks.threads import as_exception

THREADS = 40  # at once; as many as the event loop's own executor has at most, which is left to what does not hang
SECONDS = 4.0  # within the client's 5 s


class ForeignCalls:
    """Runs blocking functions, some at a time.

    :param threads: how many run at once, those that hang included; others wait for their turn.
    :param seconds: after which nobody waits for a call any more, its turn included.
    """

    def __init__(self, *, threads: int = THREADS, seconds: float = SECONDS) -> None:
        self._turns = asyncio.Semaphore(threads)
        self._seconds = seconds

    async def call(self, function: Callable[..., Any], **arguments: Any) -> Any:
        """Return what a function returns, or raise what it raises.

        :raises SecretsBackendTimeout: when it takes too long; what it does goes on.
        """
        loop = asyncio.get_running_loop()
        answered: Future[Any] = loop.create_future()
        call = partial(function, **arguments)
        try:
            async with asyncio.timeout(self._seconds):
                await self._turns.acquire()
                threading.Thread(target=self._run, args=(loop, answered, call), name="foreign call", daemon=True).start()
                return await answered
        except TimeoutError as error:
            if answered.done() and not answered.cancelled() and answered.exception() is error:
                raise  # the function's own
            raise SecretsBackendTimeout(f"the secrets backend did not answer within {self._seconds:g} s") from None
        finally:
            del answered  # else an error refers to itself, by this frame; and to who asked, until garbage is collected

    def _run(self, loop: AbstractEventLoop, answered: Future[Any], call: Callable[[], Any]) -> None:
        try:
            settle = partial(self._settle, answered, answered.set_result, call())
        except BaseException as error:  # whatever foreign code raises belongs to who asked
            settle = partial(self._settle, answered, answered.set_exception, as_exception(error))
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle)
        del answered, settle  # as above

    def _settle(self, answered: Future[Any], settle: Callable[[Any], None], outcome: Any) -> None:
        self._turns.release()
        if not answered.done():
            settle(outcome)
