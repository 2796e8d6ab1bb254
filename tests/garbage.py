"""What refers to itself, and so stays until the garbage collector looks."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def collected_by_hand() -> Iterator[None]:
    """Let garbage be collected when the block says so, of what it makes alone.

    What was there stays frozen, as an application's start in this process leaves it: other tests' garbage is theirs.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def garbage() -> list[Any]:
    """Return what the collector would find of ours, frames that run our code too; it is collected the next time.

    What statements leave that are compiled meanwhile, in the background, is SQLAlchemy's.
    """
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found = [each for each in gc.garbage if _module(each).startswith("app.")]
    gc.garbage.clear()
    return found


def _module(each: object) -> str:
    return str(each.f_globals["__name__"] if isinstance(each, FrameType) else type(each).__module__)
