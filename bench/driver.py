"""A load driver that is not the bottleneck: HTTP/1.1 over keep-alive connections, and nothing parsed twice."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.servers import token

END = {"state": "success", "end_date": "2026-01-01T00:05:00Z"}
RENDERED = {"bash_command": "echo {{ ds }}", "env": {"A": "1"}, "cwd": None}
VALUE = {"rows": 1000, "path": "s3://bucket/part-0000"}
PROCESS = {"hostname": "worker", "pid": 42}
RUN = {"state": "running", "unixname": "airflow", "start_date": "2026-01-01T00:00:00Z", **PROCESS}
RETRY_PAUSE = 1.0  # seconds: the Task SDK's first
WHOLE = 5.0  # seconds: what the Task SDK waits for an answer


@dataclass(frozen=True, slots=True)
class Task:
    """A task instance to speak for."""

    id: str
    task_id: str
    run_id: str
    token: str

    @classmethod
    def of(cls, ti_id: object, task_id: str, run_id: str) -> Task:
        return cls(str(ti_id), task_id, run_id, token(ti_id, valid_for=24 * 3600))


def heartbeat(task: Task) -> tuple[str, str, Any]:
    return "PUT", f"/task-instances/{task.id}/heartbeat", PROCESS


def life(task: Task) -> Iterator[tuple[str, str, Any]]:
    """Yield what a task asks, from its start to its success."""
    xcom = f"/xcoms/bench/{task.run_id}/{task.task_id}/return_value"
    yield "PATCH", f"/task-instances/{task.id}/run", RUN
    yield heartbeat(task)
    yield "PUT", f"/task-instances/{task.id}/rtif", RENDERED
    yield "GET", "/variables/v", None
    yield "GET", "/connections/c", None
    yield "POST", xcom, VALUE
    yield "GET", xcom, None
    yield heartbeat(task)
    yield heartbeat(task)
    yield "PATCH", f"/task-instances/{task.id}/state", END


@dataclass
class Outcome:
    """What a load did.

    :param latencies: seconds from when a request was due to the end of its answer, of those that were served.
    :param statuses: how often each status was answered; 0 for none within :data:`WHOLE`, or a lost connection.
    :param seconds: how long it took.
    :param driver_cpu: seconds of CPU that the driver itself used.
    """

    latencies: list[float] = field(default_factory=list)
    by_operation: dict[str, list[float]] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0
    driver_cpu: float = 0.0

    @property
    def heartbeats(self) -> int:
        """Heartbeats that were sent."""
        return len(self.by_operation.get("PUT heartbeat", ()))

    @property
    def requests(self) -> int:
        return self.statuses.total()

    def quantile(self, share: float) -> float:
        """Return a quantile of the latencies, in seconds."""
        return quantile(self.latencies, share)


def quantile(values: Sequence[float], share: float) -> float:
    """Return a quantile, or NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


class Connection(asyncio.Protocol):
    """One keep-alive connection of a worker."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answer: asyncio.Future[int] | None = None
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.is_open = transport, True

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(0)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._answer is None or self._answer.done():
            return
        head = bytes(self._buffer[:end]).lower()
        start = head.find(b"content-length:")
        if start >= 0:
            length = int(head[start + 15 :].split(b"\r\n", 1)[0])
            if len(self._buffer) < end + 4 + length:
                return
        elif b"transfer-encoding: chunked" in head and not self._buffer.endswith(b"0\r\n\r\n"):
            return
        self._buffer.clear()
        self._answer.set_result(int(head[9:12]))

    def ask(self, request: bytes) -> asyncio.Future[int]:
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer


class Client:
    """One worker slot: a connection that is opened anew when it was lost.

    :param base_url: of the execution API.
    """

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        assert parts.hostname
        assert parts.port
        self._address, self._path = (parts.hostname, parts.port), parts.path
        self._connection: Connection | None = None

    async def ask(self, task: Task, method: str, path: str, body: Any) -> int:
        """Return the status of the answer, 0 without one."""
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {self._path}{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {task.token}\r\n"
            f"Accept: */*\r\nUser-Agent: bench\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        try:
            connection = await self.connected()
            async with asyncio.timeout(WHOLE):
                return await connection.ask(head.encode() + content)
        except (OSError, TimeoutError):
            self.close()
            return 0

    async def connected(self) -> Connection:
        """Return the connection, opened if it is not.

        :raises OSError: the server does not take it.
        """
        if self._connection is None or not self._connection.is_open:
            _, self._connection = await asyncio.get_running_loop().create_connection(Connection, *self._address)
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.transport.close()
            self._connection = None


class Load:
    """Runs tasks' requests against one server.

    :param base_url: of the execution API.
    :param connections: worker slots, each with a connection of its own.
    """

    def __init__(self, base_url: str, connections: int) -> None:
        self._clients = [Client(base_url) for _ in range(connections)]

    async def heartbeats(self, tasks: Sequence[Task], *, seconds: float) -> Outcome:
        """Send heartbeats of running tasks, each slot as fast as it is answered."""

        async def slot(client: Client, index: int, until: float, outcome: Outcome) -> None:
            task = tasks[index % len(tasks)]
            while time.perf_counter() < until:
                await self._one(client, task, heartbeat(task), outcome, time.perf_counter())

        return await self._all(slot, seconds)

    async def lives(self, tasks: Iterator[Task], *, seconds: float, rate: float | None = None) -> Outcome:
        """Run whole task lives.

        :param tasks: queued task instances, each used once.
        :param rate: requests per second over all slots, due at fixed times whatever the server does; as fast as they are
            answered by default.
        """
        pause = len(self._clients) / rate if rate else 0.0

        async def slot(client: Client, index: int, until: float, outcome: Outcome) -> None:
            due = time.perf_counter() + pause * index / len(self._clients)
            task, started = next(tasks), False
            while time.perf_counter() < until:
                if started:
                    task, started = next(tasks), False
                for request in life(task):
                    now = time.perf_counter()
                    if pause and due > now:
                        await asyncio.sleep(due - now)
                    if time.perf_counter() >= until:
                        return
                    served = await self._one(client, task, request, outcome, due if pause else now)
                    due += pause
                    started = started or served
                    if not served:
                        await asyncio.sleep(RETRY_PAUSE)
                        break  # what follows would be refused

        return await self._all(slot, seconds)

    async def each(self, requests: Iterator[tuple[Task, tuple[str, str, Any]]], *, seconds: float) -> Outcome:
        """Send these requests, each slot the next one as fast as it is answered, for so many seconds at most."""

        async def slot(client: Client, index: int, until: float, outcome: Outcome) -> None:
            for task, request in requests:
                await self._one(client, task, request, outcome, time.perf_counter())
                if time.perf_counter() >= until:
                    return

        return await self._all(slot, seconds)

    async def _one(self, client: Client, task: Task, request: tuple[str, str, Any], outcome: Outcome, due: float) -> bool:
        status = await client.ask(task, *request)
        outcome.statuses[status] += 1
        took = time.perf_counter() - due
        kind = request[1].rpartition("/")[2] if request[1].startswith("/task-instances") else request[1].split("/")[1]
        operation = f"{request[0]} {kind}"
        outcome.by_operation.setdefault(operation, []).append(took)
        if 200 <= status < 500:
            outcome.latencies.append(took)
        return status < 300 and status != 0

    async def _all(self, slot: Callable[[Client, int, float, Outcome], Awaitable[None]], seconds: float) -> Outcome:
        for client in self._clients:  # one after the other: what is measured is requests, not a thousand handshakes at once
            with suppress(OSError):
                await client.connected()
        outcome, started, cpu = Outcome(), time.perf_counter(), time.process_time()
        until = started + seconds
        await asyncio.gather(*(slot(client, index, until, outcome) for index, client in enumerate(self._clients)))
        outcome.seconds, outcome.driver_cpu = time.perf_counter() - started, time.process_time() - cpu
        return outcome

    def close(self) -> None:
        for client in self._clients:
            client.close()
