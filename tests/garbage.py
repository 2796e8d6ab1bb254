"""What refers to itself, and so stays until the garbage collector looks."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def collected_by_hand() -> Iterator[None]:
    """Let garbage be collected when the block says so, of what it makes alone."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def garbage() -> list[Any]:
    """Return what the collector would find; it is collected the next time."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found = gc.garbage[:]
    gc.garbage.clear()
    return found
