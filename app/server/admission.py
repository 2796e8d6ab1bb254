"""Who is let in next when more is asked than can be served: what was started is carried to its end, new work waits.

A request that is refused in the middle of a task costs all that the task did; one that is refused at its start costs
nothing. So requests wait at the door, before they cost anything (token, body, a connection), and are let in by what they ask
for, as the line for database connections (:mod:`app.db.slots`) has room. Heartbeats never wait here.

Who is not let in within :data:`app.server.patience.DOOR` hears 503, and nobody hears it earlier: no model says how long a
wait will be, and who is held cannot ask again meanwhile. So refusing cannot feed itself: of a thousand clients that ask
again at once, three hundred a second are refused at most, for 0.15 ms each, a third of what an answer costs.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Reversible
from enum import IntEnum
from functools import partial
from math import inf
from typing import Protocol, TypeVar

import structlog
from prometheus_client import Gauge
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import PoolExhausted
from app.server import metrics, patience
from app.server.middleware import header, send_unavailable

log = structlog.get_logger(__name__)
T = TypeVar("T")

MOST = 10_000  # requests that wait: 12 kB each with its connection (measured with 3,000), 120 MB
TOGETHER = 0.1  # seconds within which those whose time is up are refused at once: one by one, each would wake the process
IN_A_TURN = 50  # of the event loop, so many are refused at most: 10 ms, and what came meanwhile, a heartbeat, is next
TOLD_AFTER = 1.0  # seconds in which refusals are summed up, for one line in the log

WITH_BODY = {"POST", "PUT", "PATCH"}
BELOW = "/execution/"
EXEMPT = re.compile(r"/execution/(task-instances/[^/]+/heartbeat|health(/ping)?)")


class Kind(IntEnum):
    """What a request is for; the first goes first."""

    REPORT = 0  # the end of a try: all that it did would be lost
    RUNNING = 1  # what a task asks on its way
    TRIGGER = 2  # a task that runs asks for new work
    START = 3  # new work: nothing was done for it yet
    BESIDE = 4  # whatever else it is that somebody asks for who waits already

    @property
    def label(self) -> str:
        """The kind's name in metrics and in the log."""
        return self.name.lower()


# Seconds that somebody has waited when not all can be answered in time. Who has will most likely be refused, or answered
# when its client has gone; of those who came later none will, if they are served first.
HOPELESS = patience.DOOR - 0.1
# Seconds that a request has waited when its time begins, and when it ends: who has used up most of it goes first, as long as
# all can be answered in time. New work waits nearly as long as it can before what runs waits for it: the fewer tasks run at
# once, the less each of their requests costs. When it is hopeless, what runs has waited for 0.8 s.
DUE = {
    Kind.REPORT: (-0.4, 0.4),
    Kind.RUNNING: (0.0, 0.8),
    Kind.TRIGGER: (0.0, 1.2),
    Kind.START: (HOPELESS - 0.4, HOPELESS),
    Kind.BESIDE: (HOPELESS, patience.DOOR),
}

WORKLOADS = ("/execution/task-instances/", "/execution/callbacks/")
OF_WORKLOADS = {"run": Kind.START, "state": Kind.REPORT}


def kind_of(method: str, path: str) -> Kind | None:
    """Return what a request is for, or None if it never waits at the door.

    :param path: with the mount point.
    """
    if not path.startswith(BELOW) or EXEMPT.fullmatch(path):
        return None
    if method == "PATCH" and path.startswith(WORKLOADS):
        return OF_WORKLOADS.get(path.rpartition("/")[2], Kind.RUNNING)
    if method == "POST" and path.startswith("/execution/dag-runs/"):
        return Kind.TRIGGER
    return Kind.RUNNING


def client_of(scope: Scope) -> bytes:
    """Return whom a request says that it speaks for."""
    return header(scope, b"authorization") or b""


class Waiting:
    """A request at the door.

    :param client: whom it speaks for.
    :param since: when it came, by the event loop's clock.
    :param answered: is called once it is known whether it is let in.
    """

    __slots__ = ("answered", "client", "kind", "since")

    def __init__(self, *, kind: Kind, client: bytes, since: float, answered: Callable[[bool], None]) -> None:
        self.kind, self.client, self.since, self.answered = kind, client, since, answered


class _Line:
    """Requests that wait for the same kind of thing.

    Every client has one place, however much it asks for at once: when one of its requests was let in, it goes behind the
    others with what is left.
    """

    def __init__(self) -> None:
        self.by_age: OrderedDict[Waiting, None] = OrderedDict()
        self._by_client: OrderedDict[bytes, OrderedDict[Waiting, None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.by_age)

    def __contains__(self, waiting: Waiting) -> bool:
        return waiting in self.by_age

    def add(self, waiting: Waiting) -> None:
        self.by_age[waiting] = None
        self._by_client.setdefault(waiting.client, OrderedDict())[waiting] = None

    def remove(self, waiting: Waiting) -> None:
        del self.by_age[waiting]
        theirs = self._by_client[waiting.client]
        del theirs[waiting]
        if not theirs:
            del self._by_client[waiting.client]

    @property
    def oldest(self) -> Waiting:
        """Who has waited longest."""
        return next(iter(self.by_age))

    @property
    def first(self) -> Waiting:
        """Whose turn it is."""
        return next(iter(next(iter(self._by_client.values()))))

    def pop(self, *, is_last_first: bool) -> Waiting:
        """Take out whose turn it is, or who came last."""
        found = _last(_last(self._by_client.values())) if is_last_first else self.first
        self.remove(found)
        if found.client in self._by_client:
            self._by_client.move_to_end(found.client, last=not is_last_first)
        return found


class Lines:
    """Requests that wait, a line for each kind.

    A task asks for one thing at a time: so what somebody asks for beside what it waits for already waits in the last line,
    whatever it is, and nobody keeps others out by asking for much.
    """

    def __init__(self) -> None:
        self._lines = {kind: _Line() for kind in Kind}
        self._clients = Counter[bytes]()  # how much each of them waits for
        self.size = 0  # of all; a number, because every request asks for it

    def count(self, kind: Kind) -> int:
        """Return how many wait in a line."""
        return len(self._lines[kind])

    def add(self, waiting: Waiting) -> None:
        """Put a request into its line."""
        if self._clients[waiting.client]:
            waiting.kind = Kind.BESIDE
        self._lines[waiting.kind].add(waiting)
        self._clients[waiting.client] += 1
        self.size += 1

    def discard(self, waiting: Waiting) -> None:
        """Take a request out of its line, if it is there."""
        line = self._lines[waiting.kind]
        if waiting in line:
            line.remove(waiting)
            self._has_left(waiting)

    def pop(self, now: float) -> Waiting | None:
        """Take out who is to be let in next, or return None if nobody waits."""
        foremost, turn, most, is_hopeless = None, None, -inf, False
        for kind, line in self._lines.items():
            if line.by_age:
                foremost = foremost or line
                is_hopeless |= kind is not Kind.BESIDE and line.oldest.since < now - HOPELESS
                begins, ends = DUE[kind]
                if (used := (now - line.first.since - begins) / (ends - begins)) > most:
                    turn, most = line, used
        if is_hopeless:
            turn = foremost
        if turn is None:
            return None
        waiting = turn.pop(is_last_first=turn.oldest.since < now - HOPELESS)
        self._has_left(waiting)
        return waiting

    def _has_left(self, waiting: Waiting) -> None:
        self.size -= 1
        self._clients[waiting.client] -= 1
        if not self._clients[waiting.client]:
            del self._clients[waiting.client]

    def oldest(self) -> Waiting | None:
        """Return who has waited longest, whatever for."""
        return min((line.oldest for line in self._lines.values() if line), key=lambda waiting: waiting.since, default=None)

    def least(self) -> Waiting:
        """Return whom to refuse if somebody must be: in the last line that is not empty, who has waited longest."""
        return next(line.oldest for line in reversed(self._lines.values()) if line)


def _last(items: Reversible[T]) -> T:
    return next(reversed(items))


class Behind(Protocol):
    """What is behind the door: :class:`app.db.slots.Slots`.

    :param room: how many may be let in now.
    :param has_room: whether any may.
    :param when_there_is_room: is called whenever that may have become more.
    """

    @property
    def room(self) -> int: ...
    @property
    def has_room(self) -> bool: ...

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
        self._refused = Counter[Kind]()
        self._not_let_in = {kind: metrics.NOT_LET_IN.labels(kind.label) for kind in Kind}
        behind.when_there_is_room = self._look_again

    @property
    def is_open(self) -> bool:
        """Whether who comes now need not wait."""
        return not self._lines.size and self._behind.has_room

    def gauges(self) -> dict[Gauge, Callable[[], float]]:
        """Return what tells how many wait in each line."""
        return {metrics.AT_THE_DOOR.labels(kind.label): partial(self._lines.count, kind) for kind in Kind}

    async def let_in(self, kind: Kind, client: bytes) -> bool:
        """Wait to be let in; return whether it was."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()

        def answered(is_let_in: bool) -> None:
            if not turn.done():  # who waited has not been cancelled in the same moment
                turn.set_result(is_let_in)

        waiting = Waiting(kind=kind, client=client, since=loop.time(), answered=answered)
        self.hold(waiting)
        try:
            return await turn
        finally:
            self.leave(waiting)
            patience.arrival.set(waiting.since)

    def hold(self, waiting: Waiting) -> None:
        """Let a request wait that has come now; who is not in time is counted, and hears that it is not let in."""
        self._lines.add(waiting)
        if self._lines.size > MOST:
            self._refuse(self._lines.least())
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(patience.DOOR, self._expire)
        self._look_again()

    def leave(self, waiting: Waiting) -> None:
        """Let a request wait no longer, if it still does: its client has gone."""
        self._lines.discard(waiting)

    def _refuse(self, waiting: Waiting) -> None:
        self._lines.discard(waiting)
        self._count(waiting.kind)
        waiting.answered(False)

    def _count(self, kind: Kind) -> None:
        self._not_let_in[kind].inc()
        if not self._refused:
            asyncio.get_running_loop().call_later(TOLD_AFTER, self._tell)
        self._refused[kind] += 1

    def _tell(self) -> None:
        refused = {kind.label: count for kind, count in self._refused.items()}
        log.warning("requests were refused, more is asked than can be served in time", **refused)
        self._refused.clear()

    def _look_again(self) -> None:
        if self._lines.size and not self._looks_again:
            self._looks_again = True
            asyncio.get_running_loop().call_soon(self._let_in)

    def _let_in(self) -> None:
        self._looks_again = has_let_in = False
        now = asyncio.get_running_loop().time()
        for _ in range(self._behind.room):
            if (waiting := self._lines.pop(now)) is None:
                break
            waiting.answered(True)
            has_let_in = True
        if has_let_in:
            self._look_again()  # after all of them have had their turn

    def _expire(self) -> None:
        """Refuse who has waited too long, and come back when the next has."""
        loop = asyncio.get_running_loop()
        self._expiry = None
        for _ in range(IN_A_TURN):
            if (oldest := self._lines.oldest()) is None:
                return
            if (left := oldest.since + patience.DOOR - loop.time()) > 0:
                self._expiry = loop.call_later(max(left, TOGETHER), self._expire)
                return
            self._refuse(oldest)
        self._expiry = loop.call_later(0, self._expire)


class Admission:
    """Keeps requests at the door until there is room, and answers 503 itself to those for whom there was none in time.

    They are counted by kind, and summed up in the log. For a client that has gone meanwhile nothing is begun. Of who
    waited as the bytes that it came in (:mod:`app.server.protocol`) the scope says what became of it.

    :param door: where they wait.
    """

    def __init__(self, app: ASGIApp, *, door: Door) -> None:
        self.app = app
        self.door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        turn: patience.Turn | None = scope.get(patience.TURN)
        if turn is not None:
            is_let_in = turn.is_let_in
            patience.arrival.set(turn.since)
        else:
            if self.door.is_open or (kind := kind_of(scope["method"], scope["path"])) is None:
                has_body = scope["method"] in WITH_BODY
                return await self.app(scope, self._in_turn(scope, receive) if has_body else receive, send)
            is_let_in = await self.door.let_in(kind, client_of(scope))
        if not is_let_in:
            return await send_unavailable(send, PoolExhausted)
        first = [await receive()]
        if first[0]["type"] == "http.disconnect":
            raise ClientDisconnect

        async def from_the_first() -> Message:
            return first.pop() if first else await receive()

        await self.app(scope, from_the_first, send)

    def _in_turn(self, scope: Scope, receive: Receive) -> Receive:
        """Let who came through the open door and had to wait for its body go on only if the door is still open.

        Clients send a head and then its body: of a burst, all heads would come through before anybody is in the line.
        """

        async def received() -> Message:
            message = await receive()
            if self.door.is_open or message["type"] != "http.request" or message.get("more_body"):
                return message
            kind = kind_of(scope["method"], scope["path"])
            if kind is not None and not await self.door.let_in(kind, client_of(scope)):
                raise PoolExhausted("not let in in time")
            return message

        return received
