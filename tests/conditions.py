"""Waiting for what nobody tells: asked again and again, with a bound."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from inspect import isawaitable
from typing import Any

SOON = 20.0  # seconds for what takes one, on a busy machine


async def until(condition: Callable[[], Any], *, within: float = SOON, pause: float = 0.02) -> None:
    """Wait until something is true, or becomes so when it is awaited.

    :param within: seconds.
    :param pause: seconds between two questions.
    :raises TimeoutError: with the line that waits.
    """
    try:
        async with asyncio.timeout(within) as bound:
            while not (await found if isawaitable(found := condition()) else found):  # noqa: ASYNC110  nobody tells
                await asyncio.sleep(pause)
    except TimeoutError as error:
        if not bound.expired():  # the condition's own
            raise
        raise TimeoutError(f"still not so after {within:g} s: {traceback.extract_stack(limit=2)[0].line}") from error
