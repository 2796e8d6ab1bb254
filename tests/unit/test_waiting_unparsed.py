"""What has to wait at the door waits as the bytes that it came in: real connections, and room as the test says."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import Receive, Scope, Send

from app.commands.serve import uvicorn_options
from app.server import admission, logs, metrics, middleware, patience
from app.server.admission import IN_A_TURN, Admission, Door, Kind, Waiting
from app.server.draining import DrainingServer, Readiness
from app.server.middleware import AccessLog, Answered, CorrelationId, Count, Observed, send_json
from app.server.protocol import HEAD_BYTES
from app.settings import ServerSettings
from tests.conditions import until
from tests.garbage import collected_by_hand, garbage
from tests.unit.test_admission import Room

RUN = "/execution/task-instances/ti/run"
RTIF = "/execution/task-instances/ti/rtif"


def request(method: str, path: str, *, client: str = "a", body: bytes = b"") -> bytes:
    """Return a request as it is sent."""
    head = f"{method} {path} HTTP/1.1\r\nHost: ours\r\nauthorization: {client}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Connection:
    """One client's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> tuple[int, str, bytes]:
        """Return the next answer's status, its head in lower case, and its body."""
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
            return (
                int(head.split()[1]),
                head,
                await self.reader.readexactly(int(head.split("content-length: ")[1].split()[0])),
            )


class Ours:
    """A server whose application answers with what it was asked for; each request takes one of the room, for good.

    :param asked: the paths that came to the application, in that order.
    """

    def __init__(self, port: int, server: DrainingServer, room: Room, door: Door, under_way: Count) -> None:
        self.port, self.server, self.room, self.door, self.under_way = port, server, room, door, under_way
        self.asked: list[str] = []
        self.arrivals: list[float | None] = []
        self._open: list[asyncio.StreamWriter] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.room.room -= 1
        self.asked.append(scope["path"])
        self.arrivals.append(patience.arrival.get())
        size, has_more = 0, True
        while has_more:
            message = await receive()
            size += len(message["body"])
            has_more = message.get("more_body", False)
        await send_json(send, 200, {"path": scope["path"], "bytes": size})

    async def connected(self) -> Connection:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._open.append(writer)
        return Connection(reader, writer)

    async def waiting(self, count: int) -> None:
        """Return once so many wait."""
        await until(lambda: sum(self.at_the_door(kind) for kind in Kind) == count)

    def at_the_door(self, kind: Kind) -> int:
        return int(self.door.gauges()[metrics.AT_THE_DOOR.labels(kind.label)]())

    def make_room(self, room: int = 100) -> None:
        self.room.make(room)

    def close(self) -> None:
        for writer in self._open:
            writer.close()


def named_alike(_: Scope) -> str:
    """Name the operation of every request."""
    return "tested"


@asynccontextmanager
async def serving(*, keep_alive: int = 1) -> AsyncIterator[Ours]:
    room, under_way = Room(), Count()
    door = Door(room)
    answered = Answered(operation=named_alike, access_log=AccessLog())
    listening = socket.create_server(("127.0.0.1", 0))
    application = Starlette(
        middleware=[
            Middleware(CorrelationId),
            Middleware(Observed, answered=answered, under_way=under_way),
            Middleware(Admission, door=door),
        ]
    )
    application.state.door, application.state.under_way, application.state.answered = door, under_way, answered
    options = {**uvicorn_options(ServerSettings()), "loop": "none", "timeout_keep_alive": keep_alive}
    config = uvicorn.Config(application, **options)
    server = DrainingServer(config, readiness=Readiness(), drain_seconds=0)
    ours = Ours(listening.getsockname()[1], server, room, door, under_way)
    application.mount("/", ours)
    running = asyncio.create_task(server.serve([listening]))
    await until(lambda: server.started)
    try:
        yield ours
    finally:
        ours.close()
        server.finish()
        await running


@pytest.fixture
async def ours() -> AsyncIterator[Ours]:
    async with serving() as made:
        yield made


async def test_it_costs_nothing_before_it_is_let_in_and_is_as_old_as_it_is(ours: Ours) -> None:
    connection, loop = await ours.connected(), asyncio.get_running_loop()
    before = loop.time()
    connection.writer.write(request("PATCH", RUN, body=b"{}"))
    await ours.waiting(1)
    after = loop.time()
    assert (ours.asked, ours.at_the_door(Kind.START), ours.under_way.now) == ([], 1, 1)
    (protocol,) = ours.server.server_state.connections
    assert protocol.scope is None, "it is not parsed"  # type: ignore[union-attr]
    await asyncio.sleep(1.1)  # longer than a connection without a request is kept
    ours.make_room()
    assert (await connection.answer())[::2] == (200, b'{"path":"%s","bytes":2}' % RUN.encode())
    (came,) = ours.arrivals
    assert came is not None
    assert before <= came <= after
    await until(lambda: ours.under_way.now == 0)


async def test_the_order_is_the_door_s_and_heartbeats_do_not_wait(ours: Ours) -> None:
    asked = [
        request("PATCH", RUN, client="a"),
        request("GET", "/execution/variables/v?x=1", client="b"),
        request("PATCH", "/execution/task-instances/ti/state", client="c"),
        request("GET", "/execution/variables/beside", client="b"),
    ]
    connections = [await ours.connected() for _ in asked]
    for count, (connection, sent) in enumerate(zip(connections, asked, strict=True), 1):
        connection.writer.write(sent)
        await ours.waiting(count)
    assert [ours.at_the_door(kind) for kind in Kind] == [1, 1, 0, 1, 1]
    beating = await ours.connected()
    beating.writer.write(request("PUT", "/execution/task-instances/ti/heartbeat"))
    assert (await beating.answer())[0] == 200
    ours.asked.clear()
    ours.make_room(4)
    for connection in connections:
        assert (await connection.answer())[0] == 200
    assert ours.asked == [
        f"/execution/{rest}"
        for rest in ("task-instances/ti/state", "variables/v", "task-instances/ti/run", "variables/beside")
    ]


async def test_who_is_not_in_time_is_refused_and_counted_once_and_may_ask_again(
    ours: Ours, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "DOOR", 0.05)
    connection = await ours.connected()
    counted: list[Callable[[], float]] = [
        metrics.NOT_LET_IN.labels("start")._value.get,
        metrics.RETRYABLE.labels("pool_exhausted")._value.get,
    ]
    before = [value() for value in counted]
    for _ in range(2):
        connection.writer.write(request("PATCH", RUN, body=b"{}"))
        status, head, body = await connection.answer()
        assert status == 503
        assert int(head.split("retry-after: ")[1].split()[0]) > 0
        assert b"pool_exhausted" in body
    assert [value() - was for value, was in zip(counted, before, strict=True)] == [2, 2]
    assert (ours.asked, ours.under_way.now) == ([], 0)
    ours.make_room()
    connection.writer.write(request("PATCH", RUN, body=b"{}"))
    assert (await connection.answer())[0] == 200


async def test_what_is_refused_unparsed_hears_what_it_would_have_heard(ours: Ours, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "DOOR", 0.05)
    monkeypatch.setattr(middleware, "JITTER", 0)
    lines = list[tuple[Any, ...]]()
    monkeypatch.setattr(logs, "answered", lambda *line: lines.append((*line[:3], logs._request.get())))
    sent = request("PATCH", f"{RUN}?a=b", body=b"{}").replace(b"\r\n\r\n", b"\r\ncorrelation-id: theirs\r\n\r\n")
    answers, counted = [], list[float]()
    for pieces in ([sent], [sent[:20], sent[20:]]):
        before = metrics.REQUESTS.labels("tested", "PATCH", 503)._value.get()
        connection = await ours.connected()
        for piece in pieces:
            connection.writer.write(piece)
            await connection.writer.drain()
            await asyncio.sleep(0.02)
        status, head, body = await connection.answer()
        answers.append((status, sorted(line for line in head.splitlines() if not line.startswith("date: ")), body))
        await until(lambda: ours.under_way.now == 0)
        counted.append(metrics.REQUESTS.labels("tested", "PATCH", 503)._value.get() - before)
        assert await asyncio.wait_for(connection.reader.read(), 10) == b"", "it is not kept for ever"
    assert answers[0] == answers[1]
    assert lines == [("PATCH", RUN, 503, ("theirs", "127.0.0.1"))] * 2
    assert counted == [1, 1]
    assert "correlation-id: theirs" in answers[0][1]


@pytest.mark.parametrize("size", [HEAD_BYTES // 2, HEAD_BYTES + 10], ids=["a body", "more than is read while it waits"])
async def test_what_was_refused_with_a_body_may_ask_again(ours: Ours, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(patience, "DOOR", 0.1)
    connection = await ours.connected()
    for _ in range(2):
        sent = request("PUT", RTIF, body=b"x" * size)
        connection.writer.write(sent[:-size])
        await ours.waiting(1)
        connection.writer.write(sent[-size:])
        assert (await connection.answer())[0] == 503


async def test_who_is_refused_while_the_server_ends_is_told_to_go_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "DOOR", 0.2)
    async with serving(keep_alive=60) as ours:
        connection = await ours.connected()
        connection.writer.write(request("PATCH", RUN, body=b"{}"))
        await ours.waiting(1)
        ours.server.finish()
        status, head, _ = await connection.answer()
        assert (status, head.count("connection: close")) == (503, 1)
        assert await connection.reader.read() == b""


async def test_what_comes_while_many_are_refused_has_its_turn_between(ours: Ours, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "DOOR", 0.05)
    loop, order = asyncio.get_running_loop(), list[str]()

    def refused(_: bool) -> None:
        if not order:
            loop.call_soon(order.append, "a heartbeat")
        order.append("refused")

    for number in range(3 * IN_A_TURN):
        ours.door.hold(Waiting(kind=Kind.START, client=b"%d" % number, since=loop.time(), answered=refused))
    await until(lambda: len(order) == 3 * IN_A_TURN + 1)
    assert order.index("a heartbeat") == IN_A_TURN


async def test_what_it_took_is_told_with_its_wait(ours: Ours) -> None:
    before = _seconds()
    connection = await ours.connected()
    connection.writer.write(request("GET", "/execution/variables/v"))
    await ours.waiting(1)
    await asyncio.sleep(0.1)
    ours.make_room()
    await connection.answer()
    await until(lambda: ours.under_way.now == 0)
    assert _seconds() - before >= 0.09


def _seconds() -> float:
    return float(metrics.DURATION.labels("tested", "GET")._sum.get())


async def test_for_whom_has_gone_nothing_is_begun(ours: Ours) -> None:
    gone, here = await ours.connected(), await ours.connected()
    gone.writer.write(request("GET", "/execution/variables/gone"))
    here.writer.write(request("GET", "/execution/variables/here", client="b"))
    await ours.waiting(2)
    gone.writer.transport.abort()
    await ours.waiting(1)
    assert ours.under_way.now == 1
    ours.make_room()
    assert (await here.answer())[0] == 200
    assert ours.asked == ["/execution/variables/here"]


@pytest.mark.parametrize("size", [10, 10 * HEAD_BYTES])
async def test_what_comes_of_its_body_meanwhile_is_kept_up_to_a_bound(ours: Ours, size: int) -> None:
    connection, sent = await ours.connected(), request("PUT", RTIF, body=b"x" * size)
    connection.writer.write(sent[:-size])
    await ours.waiting(1)
    connection.writer.write(sent[-size:])
    await asyncio.sleep(0.05)
    (protocol,) = ours.server.server_state.connections
    assert len(protocol._held) <= 6 * HEAD_BYTES, "asyncio reads 256 KiB at once"  # type: ignore[union-attr]
    ours.make_room()
    assert (await connection.answer())[2] == b'{"path":"%s","bytes":%d}' % (RTIF.encode(), size)


async def test_a_body_that_comes_after_its_turn(ours: Ours) -> None:
    connection, sent = await ours.connected(), request("PUT", RTIF, body=b"{}")
    connection.writer.write(sent[:-2])
    await ours.waiting(1)
    ours.make_room()
    await until(lambda: ours.under_way.now == 1 and not ours.door._lines.size)
    connection.writer.write(sent[-2:])
    assert (await connection.answer())[2] == b'{"path":"%s","bytes":2}' % RTIF.encode()


async def test_requests_one_behind_the_other(ours: Ours) -> None:
    connection = await ours.connected()
    connection.writer.write(b"".join(request("GET", f"/execution/variables/{n}") for n in range(3)))
    for _ in range(3):
        await ours.waiting(1)
        ours.make_room(1)
        assert (await connection.answer())[0] == 200
    assert ours.asked == [f"/execution/variables/{n}" for n in range(3)]


@pytest.mark.parametrize(
    "pieces",
    [
        (b"GET /execution/variables/v HTTP/1.1\r\n", b"Host: ours\r\n\r\n"),
        (b"GET http://ours/execution/variables/v HTTP/1.1\r\nHost: ours\r\n\r\n",),
        (b"GET /execution/variables/v HTTP/1.0\r\nHost: ours\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n",),
    ],
    ids=["a head in two pieces", "a whole address", "HTTP 1.0"],
)
async def test_what_cannot_be_told_before_it_is_parsed_waits_all_the_same(ours: Ours, pieces: tuple[bytes, ...]) -> None:
    connection = await ours.connected()
    for piece in pieces:
        connection.writer.write(piece)
        await connection.writer.drain()
        await asyncio.sleep(0.02)
    await ours.waiting(1)
    assert ours.asked == []
    ours.make_room()
    assert (await connection.answer())[0] == 200


async def test_who_waits_when_the_server_ends_is_answered() -> None:
    async with serving(keep_alive=60) as ours:
        connections = [await ours.connected() for _ in range(2)]
        connections[0].writer.write(request("GET", "/execution/variables/v"))
        await ours.waiting(1)
        ours.server.finish()
        assert await connections[1].reader.read() == b"", "who asks nothing is told to go elsewhere"
        ours.make_room()
        status, head, _ = await connections[0].answer()
        assert (status, "connection: close" in head) == (200, True)
        assert await connections[0].reader.read() == b""


async def test_too_many_for_our_memory(ours: Ours, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes last may be the one that makes place."""
    monkeypatch.setattr(admission, "MOST", 1)
    first, second = await ours.connected(), await ours.connected()
    first.writer.write(request("PATCH", "/execution/task-instances/ti/state"))
    await ours.waiting(1)
    second.writer.write(request("PATCH", RUN, client="b"))
    assert (await second.answer())[0] == 503
    ours.make_room()
    assert (await first.answer())[0] == 200


@pytest.mark.parametrize(
    ("room", "seconds", "status"),
    [(0, patience.DOOR, None), (2, patience.DOOR, 200), (0, 0.05, 503)],
    ids=["while it waits", "when it was answered", "when it was refused"],
)
async def test_a_connection_that_ends_leaves_the_garbage_collector_nothing(
    ours: Ours, monkeypatch: pytest.MonkeyPatch, room: int, seconds: float, status: int | None
) -> None:
    """It looks seldom, and what a connection read into would be kept until then."""
    monkeypatch.setattr(patience, "DOOR", seconds)
    with collected_by_hand():
        for _ in range(2):  # the first makes what is kept
            gc.collect()
            ours.make_room(room)
            connection = await ours.connected()
            connection.writer.write(request("PUT", RTIF, body=b"{}"))
            if status is None:
                await ours.waiting(1)
            else:
                assert (await connection.answer())[0] == status
            connection.writer.close()
            await until(lambda: not ours.server.server_state.connections)
        assert garbage() == []
