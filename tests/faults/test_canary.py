"""A canary's proxies send each request where it can do no harm, whatever becomes of ours; each runs from its own file."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from app.commands.embedded import free_port
from tests.proxies import FILES, Proxy, proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

TASKS = 100


class Upstream:
    """A server that does with each request what it is told to.

    :param name: that it answers with.

    ``does`` is a status to answer, or ``lose``: it takes the request, and goes away without an answer.
    """

    def __init__(self, name: str, port: int) -> None:
        self.name, self.port = name, port
        self.does: int | str = 200
        self.came: list[tuple[str, str, bytes]] = []
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def close(self) -> None:
        """Take no connection any more."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, path, _ = head.split(b"\r\n")[0].decode().split(" ")
            headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
            body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
            does = 200 if path.endswith("/health/ping") else self.does
            if not path.endswith("/health/ping"):
                self.came.append((method, path, body))
            if does != "lose":
                answer = self.name.encode()
                head = f"HTTP/1.1 {does} X\r\ncontent-length: {len(answer)}\r\nconnection: close\r\n\r\n".encode()
                writer.write(head + answer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def ours() -> AsyncIterator[Upstream]:
    upstream = Upstream("ours", free_port())
    await upstream.open()
    yield upstream
    await upstream.close()


@pytest.fixture
async def airflow() -> AsyncIterator[Upstream]:
    upstream = Upstream("airflow", free_port())
    await upstream.open()
    yield upstream
    await upstream.close()


@asynccontextmanager
async def beside(file: str, folder: Path, ours: Upstream, airflow: Upstream, *, share: int) -> AsyncIterator[Proxy]:
    """Run a proxy in front of both; it is started and stopped in a thread, since they serve here."""
    running = proxy(file, folder, ours=ours.port, airflow=airflow.port, share=share)
    started = await asyncio.to_thread(running.__enter__)
    try:
        async with _client(started) as client:
            for _ in range(400):  # Traefik reads its file after it listens
                if (await client.get("/health/ping")).status_code == 200:
                    break
                await asyncio.sleep(0.05)
        ours.came.clear()
        airflow.came.clear()
        yield started
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)


def report() -> tuple[str, bytes]:
    return f"/task-instances/{uuid.uuid4()}/state", b'{"state": "success", "padding": "' + b"x" * 10_000 + b'"}'


@pytest.mark.parametrize("file", FILES)
async def test_what_ours_did_not_do_airflows_does(file: str, tmp_path: Path, ours: Upstream, airflow: Upstream) -> None:
    async with beside(file, tmp_path, ours, airflow, share=100) as running, _client(running) as client:
        path, body = report()
        answer = await client.patch(path, content=body)
        assert (answer.status_code, answer.text) == (200, "ours")

        ours.does = 503
        path, body = report()
        answer = await client.patch(path, content=body)
        assert (answer.status_code, answer.text) == (200, "airflow")
        assert airflow.came == [("PATCH", f"/execution{path}", body)] == ours.came[-1:]

        await ours.close()
        path, body = report()
        answer = await client.patch(path, content=body)
        assert (answer.status_code, answer.text) == (200, "airflow")
        assert airflow.came[1:] == [("PATCH", f"/execution{path}", body)]


@pytest.mark.parametrize("file", FILES)
async def test_an_answer_that_was_lost_is_asked_of_ours_again(
    file: str, tmp_path: Path, ours: Upstream, airflow: Upstream
) -> None:
    """By the proxy or by the client, which hears that it was lost; never of Airflow's server."""
    async with beside(file, tmp_path, ours, airflow, share=50) as running, _client(running) as client:
        for _ in range(8):
            path, body = await _led_to_ours(client)
            airflow.came.clear()
            ours.came.clear()
            ours.does = "lose"
            with suppress(httpx.TransportError):  # which says as much to who asks again
                assert (await client.patch(path, content=body)).status_code == 502
            ours.does = 200
            assert (await client.patch(path, content=body)).text == "ours"
            assert airflow.came == []
            assert set(ours.came) == {("PATCH", f"/execution{path}", body)}
            assert len(ours.came) > 1


@pytest.mark.parametrize("file", FILES)
async def test_the_share_is_one_number(file: str, tmp_path: Path, ours: Upstream, airflow: Upstream) -> None:
    """Of tasks, each of which has one server; and it is turned while it runs."""
    async with beside(file, tmp_path, ours, airflow, share=5) as running:
        for share in (5, 100, 50, 0):
            if share != 5:
                await asyncio.to_thread(running.turn, share)
            await _until_it_is(share, running)


async def _until_it_is(share: int, running: Proxy) -> None:
    """Send tasks until of a hundred so many as the knob says were led to ours: a proxy takes it over when it gets to it.

    Which is a matter of chance: at 5 %, 12 of a hundred or more are one in two hundred.
    """
    near = range({0: 0, 5: 1, 50: 35, 100: TASKS}[share], {0: 0, 5: 11, 50: 65, 100: TASKS}[share] + 1)
    for _ in range(20):
        served = Counter[str]()
        for _ in range(TASKS):
            path, body = report()
            answers: set[str] = set()
            async with _client(running) as client:
                for _ in range(2):
                    try:
                        answers.add((await client.patch(path, content=body)).text)
                    except httpx.TransportError:  # what takes a knob over ends connections on which nothing is asked
                        answers.add("nobody")
            served["both" if len(answers) > 1 else answers.pop()] += 1
        if served["ours"] in near and served["ours"] + served["airflow"] == TASKS:
            return
    raise AssertionError(f"{served} at {share} %")


async def _led_to_ours(client: httpx.AsyncClient) -> tuple[str, bytes]:
    """Return the report of a task that is led to ours."""
    for _ in range(200):
        path, body = report()
        client.cookies.clear()
        if (await client.patch(path, content=body)).text == "ours":
            return path, body
    raise AssertionError("no task is led to ours")


def _client(running: Proxy) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=running.url, timeout=10, verify=False)
