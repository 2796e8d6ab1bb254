"""Who waits at the door, who is let in next, and who is refused."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import Callable

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.server import admission, patience
from app.server.admission import HOPELESS, Admission, Door, Kind, Lines, Waiting, kind_of
from bench.driver import Task, life

REPORT, RUNNING, TRIGGER, START, BESIDE = Kind


class Room:
    """Behind the door, as the test says."""

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self.when_there_is_room: Callable[[], None] = lambda: None

    @property
    def has_room(self) -> bool:
        return self.room > 0

    def make(self, room: int) -> None:
        self.room = room
        self.when_there_is_room()


class Queue:
    """Lines in a time of the test's own."""

    def __init__(self) -> None:
        self.lines = Lines()

    def add(self, kind: Kind, client: str, *, since: float) -> Waiting:
        waiting = Waiting(kind=kind, client=client.encode(), since=since, answered=lambda _: None)
        self.lines.add(waiting)
        return waiting

    def order(self, *, now: float) -> str:
        """Empty the lines, and return the clients as they are let in."""
        return " ".join(found.client.decode() for found in iter(lambda: self.lines.pop(now), None))


@pytest.mark.parametrize(
    ("request_line", "kind"),
    [
        ("PUT /execution/task-instances/1/heartbeat", None),
        ("GET /execution/health", None),
        ("GET /execution/health/ping", None),
        ("GET /metrics", None),
        ("PATCH /execution/task-instances/1/state", REPORT),
        ("PATCH /execution/task-instances/1/run", START),
        ("PATCH /execution/task-instances/1/skip-downstream", RUNNING),
        ("PATCH /execution/task-instances/1/dag-run-note", RUNNING),
        ("PATCH /execution/callbacks/1/run", START),
        ("PATCH /execution/connection-tests/1", RUNNING),
        ("PUT /execution/task-instances/1/rtif", RUNNING),
        ("POST /execution/dag-runs/d/r", TRIGGER),
        ("POST /execution/dag-runs/d/r/clear", TRIGGER),
        ("GET /execution/dag-runs/d/r/state", RUNNING),
        ("POST /execution/xcoms/d/r/t/run", RUNNING),
        ("GET /execution/variables/task-instances/1/heartbeat", RUNNING),
        ("GET /execution/variables/x/health", RUNNING),
    ],
)
def test_what_a_request_is_for(request_line: str, kind: Kind | None) -> None:
    assert kind_of(*request_line.split()) is kind


class TestOrder:
    """The order in which requests are let in."""

    async def test_by_how_much_of_its_time_is_used_up_while_all_can_be_answered(self) -> None:
        queue, now = Queue(), HOPELESS - 0.2
        queue.add(START, "start", since=0)
        queue.add(TRIGGER, "trigger", since=now - 0.5)
        for waited in (0.5, 0.3):
            queue.add(RUNNING, f"running-{waited}", since=now - waited)
        for waited in (0.2, 0.05):
            queue.add(REPORT, f"report-{waited}", since=now - waited)
        assert queue.order(now=now) == "report-0.2 running-0.5 report-0.05 start trigger running-0.3"

    async def test_by_kind_alone_when_not_all_can_be_answered(self) -> None:
        queue = Queue()
        queue.add(START, "start", since=0)
        for n in range(3):
            queue.add(RUNNING, f"running{n}", since=2 + n / 10)
            queue.add(REPORT, f"report{n}", since=2.5 + n / 10)
        queue.add(TRIGGER, "trigger", since=HOPELESS)
        expected = "report0 report1 report2 running0 running1 running2 trigger start"
        assert queue.order(now=HOPELESS + 0.01) == expected

    async def test_the_last_first_where_the_first_is_hopeless(self) -> None:
        queue = Queue()
        for n in range(4):
            queue.add(START, f"{n}", since=n / 10)
        queue.add(RUNNING, "running", since=0.3)
        assert queue.order(now=HOPELESS + 0.05) == "running 3 2 1 0"

    async def test_a_client_that_asks_for_much_at_once_has_one_place(self) -> None:
        queue = Queue()
        for n in range(100):
            queue.add(RUNNING, "greedy", since=n / 1000)
        queue.add(RUNNING, "modest", since=0.2)
        queue.add(START, "start", since=0.3)
        assert queue.lines.count(BESIDE) == 99
        assert queue.order(now=1).split()[:4] == ["greedy", "modest", "start", "greedy"]

    async def test_nor_does_it_make_anybody_hopeless(self) -> None:
        queue = Queue()
        for _ in range(3):
            queue.add(RUNNING, "greedy", since=0)
        assert queue.lines.pop(now=0)
        queue.add(START, "start", since=1)
        queue.add(RUNNING, "running", since=HOPELESS)
        assert queue.order(now=HOPELESS + 0.05) == "greedy greedy running start"

    async def test_its_second_place_is_behind_those_that_wait_for_their_first(self) -> None:
        queue = Queue()
        for n in range(3):
            queue.add(RUNNING, "greedy", since=n / 10)
            queue.add(RUNNING, "b", since=n / 10)
        assert queue.order(now=1) == "greedy b greedy b greedy b"

    async def test_nor_does_it_come_before_them_where_the_last_goes_first(self) -> None:
        queue = Queue()
        for client in ("a", "b", "greedy"):
            for _ in range(3 if client == "greedy" else 2):
                queue.add(START, client, since=0)
        assert queue.order(now=HOPELESS + 0.05) == "greedy b a greedy b a greedy"

    async def test_who_left_is_not_let_in(self) -> None:
        queue = Queue()
        gone = queue.add(RUNNING, "gone", since=0)
        queue.add(RUNNING, "here", since=0)
        queue.lines.discard(gone)
        queue.lines.discard(gone)
        assert (queue.lines.size, queue.lines.count(RUNNING), queue.order(now=0)) == (1, 1, "here")
        assert (queue.lines.size, queue.lines.oldest()) == (0, None)


class Workers:
    """Workers that run one task after the other and ask again at once, in a time of the test's own; heartbeats never wait.

    :param served: requests a second.
    :param arriving: workers that come each second, and go once their task has ended.
    """

    LIFE = tuple(kind_of(method, f"/execution{path}") for method, path, _ in life(Task("ti", "t", "r", "")))

    def __init__(self, workers: int = 0, *, served: int, arriving: float = 0) -> None:
        self._queue = Queue()
        self._now = 0.0
        self._served, self._arriving = served, arriving
        self._asked = list[int]()  # how far each is
        self._beating = deque[int]()  # whose heartbeats are served next
        self.finished = 0
        self.refused = Counter[Kind]()
        self.longest = defaultdict[Kind, float](float)  # seconds waited by who was let in
        for _ in range(workers):
            self._come()

    def _come(self) -> None:
        self._asked.append(0)
        self._ask(len(self._asked) - 1)

    def _ask(self, worker: int) -> None:
        kind = self.LIFE[self._asked[worker]]
        if kind is None:
            self._beating.append(worker)
        else:
            self._queue.add(kind, str(worker), since=self._now)

    def live(self, seconds: float) -> None:
        """Let them ask for so long, and count anew."""
        self.finished = 0
        self.refused.clear()
        self.longest.clear()
        until, came = self._now + seconds, 0
        while (left := until - self._now) > 0:
            while came < (seconds - left) * self._arriving:
                self._come()
                came += 1
            while (late := self._queue.lines.oldest()) is not None and late.since + patience.DOOR <= self._now:
                self._queue.lines.discard(late)
                self.refused[late.kind] += 1
                self._ask(int(late.client))
            worker = self._let_in()
            self._now += 1 / self._served
            if worker is not None:
                self._answer(worker)

    def _let_in(self) -> int | None:
        if self._beating:
            return self._beating.popleft()
        found = self._queue.lines.pop(self._now)
        if found is None:
            return None
        self.longest[found.kind] = max(self.longest[found.kind], self._now - found.since)
        return int(found.client)

    def _answer(self, worker: int) -> None:
        self._asked[worker] += 1
        if self._asked[worker] == len(self.LIFE):
            self._asked[worker] = 0
            self.finished += 1
            if self._arriving:
                return
        self._ask(worker)


class TestOverload:
    """What the order does to tasks; a quarter of a CPU serves some 800 requests a second."""

    @pytest.mark.parametrize(("count", "served", "longest"), [(256, 800, 0.1), (400, 800, 0.8), (1024, 2000, 0.8)])
    def test_nobody_is_refused_where_all_can_be_answered_in_time(self, count: int, served: int, longest: float) -> None:
        workers = Workers(count, served=served)
        workers.live(10)  # until they no longer ask all at once
        workers.live(20)
        assert workers.refused == {}
        assert workers.longest[RUNNING] < longest

    @pytest.mark.parametrize("count", [1024, 2048, 4096])
    def test_nothing_but_starts_is_refused(self, count: int) -> None:
        workers = Workers(count, served=800)
        workers.live(30)
        assert workers.refused.keys() == {START}
        assert workers.longest[RUNNING] < 1.6
        assert workers.longest[REPORT] < 1.1

    @pytest.mark.parametrize(("times", "share"), [(2, 0.8), (3, 0.9)])
    def test_more_tasks_come_than_can_be_served(self, times: int, share: float) -> None:
        """No more are started than can be carried to their end while they come."""
        workers = Workers(served=400, arriving=times * 40)
        workers.live(12)
        assert workers.refused.keys() == {START}
        assert workers.finished > share * 12 * 40


class Clients:
    """Requests at a door, and what they heard.

    :param taken: the room that each takes one of when it is let in; none by default, as a request whose token is wrong.
    """

    def __init__(self, door: Door, taken: Room | None = None) -> None:
        self.door = door
        self.taken = taken or Room()
        self.let_in: list[str] = []
        self.refused: list[str] = []

    async def _come(self, name: str, kind: Kind) -> None:
        if await self.door.let_in(kind, name.encode()):
            self.let_in.append(name)
            self.taken.room -= 1
        else:
            self.refused.append(name)

    async def come(self, *names: str, kind: Kind = RUNNING) -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(self._come(name, kind)) for name in names]
        await turns(2)
        return tasks


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class TestTheDoor:
    """Letting in as there is room."""

    async def test_open_while_there_is_room_and_nobody_waits(self) -> None:
        room = Room(1)
        door = Door(room)
        assert door.is_open
        room.room = 0
        assert not door.is_open
        (task,) = await Clients(door).come("a")
        room.room = 1
        assert not door.is_open, "nobody overtakes"
        room.make(1)
        await task
        assert door.is_open

    async def test_no_more_than_there_is_room_for(self) -> None:
        room = Room()
        clients = Clients(Door(room), room)
        tasks = await clients.come(*"abcde")
        assert clients.let_in == []
        room.make(2)
        await turns(10)
        assert clients.let_in == ["a", "b"]
        room.make(9)
        await asyncio.gather(*tasks)
        assert clients.let_in == list("abcde")

    async def test_who_is_let_in_and_takes_no_room_makes_it_for_the_next(self) -> None:
        room = Room()
        clients = Clients(Door(room))
        tasks = await clients.come(*"abcde")
        room.make(2)
        await turns(2)
        assert clients.let_in == ["a", "b"], "no more in a turn"
        await asyncio.gather(*tasks)
        assert clients.let_in == list("abcde")

    async def test_who_is_not_let_in_in_time_is_refused_and_nobody_before(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(patience, "DOOR", 0.05)
        clients = Clients(Door(Room()))
        loop = asyncio.get_running_loop()
        began = loop.time()
        first = await clients.come("a", "b", kind=START)
        await asyncio.sleep(0.02)
        second = await clients.come("c", kind=REPORT)
        await asyncio.gather(*first)
        assert clients.refused == ["a", "b"]
        assert loop.time() - began >= 0.05
        await asyncio.gather(*second)
        assert (clients.refused, clients.let_in) == (["a", "b", "c"], [])

    async def test_who_came_when_is_known_behind_the_door(self) -> None:
        room = Room()
        door = Door(room)
        loop = asyncio.get_running_loop()
        came = loop.time()
        loop.call_later(0.02, room.make, 1)
        assert await door.let_in(RUNNING, b"a")
        arrived = patience.arrival.get()
        assert arrived is not None
        assert came <= arrived <= loop.time() - 0.01

    async def test_who_goes_away_leaves_its_place(self) -> None:
        room = Room()
        clients = Clients(Door(room))
        gone, here = await clients.come("gone", "here")
        gone.cancel()
        room.make(1)
        await here
        assert clients.let_in == ["here"]

    async def test_too_many_for_our_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The one that waited longest of what matters least makes place."""
        monkeypatch.setattr(admission, "MOST", 3)
        room = Room()
        clients = Clients(Door(room))
        tasks = await clients.come("start 1", "start 2", kind=START)
        tasks += await clients.come("running 1", "running 2", "running 3")
        await turns(2)
        assert clients.refused == ["start 1", "start 2"]
        tasks += await clients.come("start 3", kind=START)
        assert clients.refused == ["start 1", "start 2", "start 3"]
        room.make(3)
        await asyncio.gather(*tasks)
        assert clients.let_in == ["running 1", "running 2", "running 3"]


class TestBodies:
    """Clients send a head, and then its body."""

    async def test_who_had_to_wait_for_its_body_goes_on_only_while_the_door_is_open(self) -> None:
        room, order, bodies = Room(2), list[str](), [asyncio.Event() for _ in range(3)]

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            order.append(f"head {scope['path'][-1]}")
            await receive()
            order.append(f"body {scope['path'][-1]}")
            room.room -= 1

        async def send(_: Message) -> None:
            raise AssertionError("nothing is refused")

        def asked(number: int) -> asyncio.Task[None]:
            async def receive() -> Message:
                await bodies[number].wait()
                return {"type": "http.request", "body": b"{}", "more_body": False}

            path = f"/execution/task-instances/ti/rtif?{number}"
            return asyncio.create_task(
                entered({"type": "http", "method": "PUT", "path": path, "headers": []}, receive, send)
            )

        entered = Admission(application, door=Door(room))
        asking = [asked(number) for number in range(3)]
        await turns(2)
        assert order == ["head 0", "head 1", "head 2"], "nobody is in the line yet"
        for body in bodies:
            body.set()
        await turns(5)
        assert order[3:] == ["body 0", "body 1"]
        room.make(1)
        await asyncio.gather(*asking)
        assert order[5:] == ["body 2"]
