"""Who is let in next when more is asked than can be served: what was started is carried to its end, new work waits.

A request that is refused in the middle of a task costs all that the task did; one that is refused at its start costs
nothing. So requests wait at the door, before they cost anything (token, body, a connection), and are let in by what they ask
for, as the line for database connections (:mod:`app.db.slots`) has room. Heartbeats never wait here.

Who is not let in within :data:`app.patience.DOOR` hears 503, and nobody hears it earlier: no model says how long a wait will
be, and who is held cannot ask again meanwhile. So refusing cannot feed itself: of a thousand clients that ask again at once,
three hundred a second are refused at most, each for a fraction of what an answer costs.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Reversible
from enum import IntEnum
from functools import partial
from typing import Protocol, TypeVar

import structlog
from prometheus_client import Gauge
from starlette.types import ASGIApp, Receive, Scope, Send

from app import metrics, patience
from app.errors import PoolExhausted
from app.server.middleware import header, send_unavailable

log = structlog.get_logger(__name__)
T = TypeVar("T")

# Seconds that the first of a line has waited when the last to come goes before it: it will most likely be refused, or
# answered when its client has gone. Of those who came after it none will, if they are served first.
HOPELESS = patience.DOOR - 0.5
HEAD_START = 0.3  # seconds that each kind has before the next, as long as all can be answered in time
MOST = 10_000  # requests that wait
TOLD_AFTER = 1.0  # seconds in which refusals are summed up, for one line in the log

BELOW = "/execution/"
EXEMPT = re.compile(r"/execution/(task-instances/[^/]+/heartbeat|health(/ping)?)")


class Kind(IntEnum):
    """What a request is for; the first goes first."""

    REPORT = 0  # the end of a try: all that it did would be lost
    RUNNING = 1  # what a task asks on its way
    TRIGGER = 2  # a task that runs asks for new work
    START = 3  # new work: nothing was done for it yet

    @property
    def label(self) -> str:
        """The kind's name in metrics and in the log."""
        return self.name.lower()


OF_TASK_INSTANCES = {"run": Kind.START, "state": Kind.REPORT}


def kind_of(method: str, path: str) -> Kind | None:
    """Return what a request is for, or None if it never waits at the door.

    :param path: with the mount point.
    """
    if not path.startswith(BELOW) or EXEMPT.fullmatch(path):
        return None
    if method == "PATCH" and path.startswith("/execution/task-instances/"):
        return OF_TASK_INSTANCES.get(path.rpartition("/")[2], Kind.RUNNING)
    if method == "POST" and path.startswith("/execution/dag-runs/"):
        return Kind.TRIGGER
    return Kind.RUNNING


class Waiting:
    """A request at the door.

    :param client: whom it speaks for.
    :param since: when it came, by the event loop's clock.
    :param turn: becomes whether it is let in.
    """

    __slots__ = ("client", "kind", "since", "turn")

    def __init__(self, *, kind: Kind, client: bytes, since: float, turn: asyncio.Future[bool]) -> None:
        self.kind, self.client, self.since, self.turn = kind, client, since, turn


class Lines:
    """Requests that wait, a line for each kind.

    In a line every client has one place, however much it asks for at once, and goes to the end with what is left when one of
    its requests was let in. A task asks for one thing at a time; so what somebody asks for beside what it waits for already
    waits in the last line, and nobody keeps others out by asking for much.
    """

    def __init__(self) -> None:
        self._by_age: OrderedDict[Waiting, None] = OrderedDict()
        self._lines: list[OrderedDict[bytes, OrderedDict[Waiting, None]]] = [OrderedDict() for _ in Kind]

    def __len__(self) -> int:
        return len(self._by_age)

    def add(self, waiting: Waiting) -> None:
        """Put a request into its line."""
        if waiting.client in self._lines[waiting.kind]:
            waiting.kind = Kind.START
        self._by_age[waiting] = None
        self._lines[waiting.kind].setdefault(waiting.client, OrderedDict())[waiting] = None

    def discard(self, waiting: Waiting) -> None:
        """Take a request out of its line, if it is there."""
        if waiting in self._by_age:
            del self._by_age[waiting]
            line = self._lines[waiting.kind]
            del line[waiting.client][waiting]
            if not line[waiting.client]:
                del line[waiting.client]

    def pop(self, now: float) -> Waiting | None:
        """Take out who is to be let in next, or return None if nobody waits."""
        firsts = [_first(_first(line.values())) for line in self._lines if line]
        if not firsts:
            return None
        if any(now - first.since > HOPELESS for first in firsts):
            found = firsts[0]
            if now - found.since > HOPELESS:
                found = _last(_last(self._lines[found.kind].values()))
        else:
            found = min(firsts, key=lambda first: first.since + HEAD_START * first.kind)
        self.discard(found)
        line = self._lines[found.kind]
        if found.client in line:
            line.move_to_end(found.client)
        return found

    def count(self, kind: Kind) -> int:
        """Return how many wait in a line."""
        return sum(map(len, self._lines[kind].values()))

    def oldest(self) -> Waiting | None:
        """Return who has waited longest, whatever for."""
        return next(iter(self._by_age), None)

    def least(self) -> Waiting:
        """Return whom to refuse if somebody must be: in the last line that is not empty, who has waited longest."""
        line = next(line for line in reversed(self._lines) if line)
        return _first(_first(line.values()))


def _first(items: Iterable[T]) -> T:
    return next(iter(items))


def _last(items: Reversible[T]) -> T:
    return next(reversed(items))


class Behind(Protocol):
    """What is behind the door: :class:`app.db.slots.Slots`.

    :param room: how many may be let in now.
    :param when_there_is_room: is called whenever that may have become more.
    """

    @property
    def room(self) -> int: ...

    when_there_is_room: Callable[[], None]


class Door:
    """Lets requests in as there is room behind it.

    It lets in no more in a turn of the event loop than there is room for, and looks again in the next: what was let in has
    come to the line by then, or it never will (its token is wrong, its body has not come, it asks no database).
    """

    def __init__(self, behind: Behind) -> None:
        self._behind = behind
        self._lines = Lines()
        self._looks_again = False
        self._expiry: asyncio.TimerHandle | None = None
        behind.when_there_is_room = self._look_again

    @property
    def is_open(self) -> bool:
        """Whether who comes now need not wait."""
        return not self._lines and self._behind.room > 0

    def gauges(self) -> dict[Gauge, Callable[[], float]]:
        """Return what tells how many wait in each line."""
        return {metrics.AT_THE_DOOR.labels(kind.label): partial(self._lines.count, kind) for kind in Kind}

    async def let_in(self, kind: Kind, client: bytes) -> bool:
        """Wait to be let in; return whether that was in time."""
        loop = asyncio.get_running_loop()
        waiting = Waiting(kind=kind, client=client, since=loop.time(), turn=loop.create_future())
        self._lines.add(waiting)
        if len(self._lines) > MOST:
            self._answer(self._lines.least(), False)
        if self._expiry is None:
            self._expiry = loop.call_later(patience.DOOR, self._expire)
        self._look_again()
        try:
            return await waiting.turn
        finally:
            self._lines.discard(waiting)
            patience.arrival.set(waiting.since)

    def _answer(self, waiting: Waiting, is_let_in: bool) -> None:
        self._lines.discard(waiting)
        if not waiting.turn.done():
            waiting.turn.set_result(is_let_in)

    def _look_again(self) -> None:
        if self._lines and not self._looks_again:
            self._looks_again = True
            asyncio.get_running_loop().call_soon(self._let_in)

    def _let_in(self) -> None:
        self._looks_again = has_let_in = False
        now = asyncio.get_running_loop().time()
        for _ in range(self._behind.room):
            if (waiting := self._lines.pop(now)) is None:
                break
            self._answer(waiting, True)
            has_let_in = True
        if has_let_in:
            self._look_again()  # after all of them have had their turn

    def _expire(self) -> None:
        """Refuse who has waited too long, and come back when the next has."""
        loop = asyncio.get_running_loop()
        self._expiry = None
        while (oldest := self._lines.oldest()) is not None:
            if (left := oldest.since + patience.DOOR - loop.time()) > 0:
                self._expiry = loop.call_later(left, self._expire)
                break
            self._answer(oldest, False)


class Admission:
    """Keeps requests at the door until there is room, and answers 503 itself to those for whom there was none in time.

    They are counted by kind, and summed up in the log.

    :param door: where they wait.
    """

    def __init__(self, app: ASGIApp, *, door: Door) -> None:
        self.app = app
        self.door = door
        self._refused = Counter[str]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.door.is_open and scope["type"] == "http":
            kind = kind_of(scope["method"], scope["path"])
            if kind is not None and not await self.door.let_in(kind, header(scope, b"authorization") or b""):
                self._count(kind)
                return await send_unavailable(send, PoolExhausted)
        await self.app(scope, receive, send)

    def _count(self, kind: Kind) -> None:
        metrics.RETRYABLE.labels(PoolExhausted.reason).inc()
        metrics.NOT_LET_IN.labels(kind.label).inc()
        if not self._refused:
            asyncio.get_running_loop().call_later(TOLD_AFTER, self._tell)
        self._refused[kind.label] += 1

    def _tell(self) -> None:
        log.warning("requests were refused, more is asked than can be served in time", **self._refused)
        self._refused.clear()
