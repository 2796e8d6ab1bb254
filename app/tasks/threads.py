"""What Dag authors wrote, run so that it stops nobody: in a thread, or in a process of its own, for so long at most."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from app.dags import params
from app.errors import ServerBusy, UnknownInDag

LIMIT = 2.0  # seconds; the Task SDK's client waits 5 s for an answer, and the database has its share of them
PROCESS_LIMIT = 3.5  # seconds, of which the process may compute params.CPU_SECONDS
PROCESSES = asyncio.Semaphore(2)  # at a time: each needs a core, and 40 MB
OURS = Path(params.__file__).parents[2]  # where our package is, and not another of its name

Result = TypeVar("Result")


class TookTooLong(UnknownInDag):
    """What a Dag's author wrote did not come to an end in time; the message says what it was."""


async def in_thread(function: Callable[..., Result], *arguments: Any, what: str, **named: Any) -> Result:
    """Call a function in a thread that dies with the process, and wait :data:`LIMIT` for it.

    A thread cannot be ended: one that computes for ever keeps a share of this process's time. It stops nobody, as long as
    it is Python that runs there.

    :param what: what it computes, for the message.
    :raises TookTooLong: when it has not ended by then.
    """
    try:
        async with asyncio.timeout(LIMIT):
            return await _begun(partial(function, *arguments, **named), what)  # no frame keeps what keeps the error
    except TimeoutError:
        raise TookTooLong(f"{what} did not end within {LIMIT:g} s") from None


def _begun(function: Callable[[], Result], what: str) -> asyncio.Future[Result]:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Result] = loop.create_future()
    run = partial(copy_context().run, _run, function, loop, ended)  # what it logs is of the request
    Thread(target=run, daemon=True, name=what).start()
    return ended


def _run(function: Callable[[], Result], loop: asyncio.AbstractEventLoop, ended: asyncio.Future[Result]) -> None:
    outcome: tuple[Callable[[Any], None], Any]
    try:
        outcome = ended.set_result, function()
    except BaseException as error:  # whatever it is, it is the caller's
        outcome = ended.set_exception, as_exception(error)
    with suppress(RuntimeError):  # the loop has ended meanwhile
        loop.call_soon_threadsafe(_settle, ended, *outcome)
    del ended, outcome  # else an error refers to itself, by this frame; and to the arguments, until garbage is collected


def as_exception(error: BaseException) -> Exception:
    """Return what may be raised where a thread is waited for: nothing that would end this process or who waits, and no
    ``StopIteration``, which a future does not take.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def _settle(ended: asyncio.Future[Any], set_outcome: Callable[[Any], None], outcome: Any) -> None:
    if not ended.done():
        set_outcome(outcome)


async def asked(function: Callable[[], Result], trusted: Sequence[str], *, what: str) -> Result:
    """Return what ``function`` tells of a Dag: at once where all of its code is ours, else from a thread.

    :param trusted: the classes of Dag authors that it may run.
    :raises TookTooLong: theirs did not end in time.
    """
    return await in_thread(function, what=what) if trusted else function()


async def invalid_param(found: params.Params, conf: Mapping[str, Any]) -> str | None:
    """Say which of a Dag's params a run's conf makes invalid, and why; None when all are valid.

    :raises TookTooLong: validating them does not end in time.
    :raises ServerBusy: there was no process to do it in, or this one had no time.
    """
    if not found:
        return None
    if not params.may_take_any_time(found):
        try:
            return await in_thread(params.invalid, found, conf, what="validating the params")
        except TookTooLong as error:  # what may compute for long is in a process: this waited for a core
            raise ServerBusy("there was no time to validate the params") from error
    try:
        async with asyncio.timeout(PROCESS_LIMIT), PROCESSES:
            return await _in_process(found, conf)
    except TimeoutError:
        raise ServerBusy("no process came to validate the params in time") from None


async def _in_process(found: params.Params, conf: Mapping[str, Any]) -> str | None:
    pipe = asyncio.subprocess.PIPE
    search = os.pathsep.join(filter(None, (str(OURS), os.environ.get("PYTHONPATH"))))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", params.__name__),
        env={**os.environ, "PYTHONPATH": search},
        stdin=pipe,
        stdout=pipe,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        output, _ = await process.communicate(json.dumps([found, conf]).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode is not None and process.returncode < 0:  # by the signal that ends who has computed too long
        raise TookTooLong(f"validating the params did not end within {params.CPU_SECONDS} s: is a pattern at fault?")
    if process.returncode != 0:
        raise RuntimeError(f"the process that validates params ended with exit code {process.returncode}")
    answer: str | None = json.loads(output)
    return answer
