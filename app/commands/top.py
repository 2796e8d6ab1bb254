"""``execution-api top``: who holds what, and how tasks and requests fare, on a terminal or once."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys

import orjson

from app.commands import screen
from app.commands.readings import Reading, Watching, as_plain
from app.settings import Settings


def run(settings: Settings, *, once: bool, as_json: bool, every: float, metrics: str | None) -> bool:
    """Show one reading after the other until Ctrl-C, or one; say whether the database could be read, all of it.

    :param once: one; as it is when standard output is no terminal, and with ``as_json``.
    :param every: seconds between two readings.
    :param metrics: URL of the service's metrics; None for where the settings have it.
    """
    if once or as_json or not sys.stdout.isatty():
        return asyncio.run(_once(Watching(settings, metrics=metrics), as_json=as_json))
    with contextlib.suppress(asyncio.CancelledError):  # how it ends
        asyncio.run(_live(Watching(settings, metrics=metrics), every=every))
    return True


async def _once(watching: Watching, *, as_json: bool) -> bool:
    async with watching:
        reading = await watching.read()
    if as_json:
        text = orjson.dumps(as_plain(reading), option=orjson.OPT_INDENT_2).decode()
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        text = "\n".join(screen.lines(reading, None, width=width, colours=screen.has_colours(sys.stdout)))
    sys.stdout.write(f"{text}\n")
    return reading.tasks is not None


async def _live(watching: Watching, *, every: float) -> None:
    """Show readings until Ctrl-C or SIGTERM; a terminal that changes its size is drawn anew at once."""
    loop, resized = asyncio.get_running_loop(), asyncio.Event()
    task = asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGWINCH, resized.set)
    for end in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(end, task.cancel)
    colours = screen.has_colours(sys.stdout)
    before: Reading | None = None
    async with watching:
        with screen.taken(sys.stdout) as show:
            while True:
                reading = await watching.read()
                until = loop.time() + every
                while loop.time() < until:
                    size = shutil.get_terminal_size()
                    show(screen.lines(reading, before, width=size.columns, height=size.lines, colours=colours))
                    resized.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout_at(until):
                            await resized.wait()
                before = reading
