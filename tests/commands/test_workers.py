"""Several worker processes as one service: what dies is replaced, what is told to end drops nothing, and counts add up."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import asyncpg
import httpx
import pytest

from app.commands.embedded import free_port
from bench.processes import memory_bytes
from tests.api.test_metrics import scrape
from tests.certificates import write_certificate
from tests.conditions import SOON, until
from tests.servers import SECRET, Server, airflow_settings, clean_environment, our_server, running
from tests.world import World

DRAIN = "AIRFLOW__EXECUTION_API_SERVICE__DRAIN_SECONDS"
COMES_BACK = "AIRFLOW__EXECUTION_API_SERVICE__LOCK_TIMEOUT"
BEAT = {"hostname": "worker", "pid": 42}
SUCCESS = {"state": "success", "end_date": "2026-01-01T00:05:00Z"}


@pytest.fixture(scope="module")
def metadata_url(make_database: Callable[[str], str]) -> str:
    return make_database("3.3")


def workers_of(server: Server) -> list[int]:
    """Return the processes that the parent has, dead ones too that it has not taken notice of."""
    return [int(pid) for pid in Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()]


def lines(server: Server) -> list[dict[str, object]]:
    return [json.loads(line) for line in server.log.read_text().splitlines()]


def serving(server: Server) -> list[object]:
    """Return the processes that have told that they accept requests."""
    return [line["pid"] for line in lines(server) if line["event"] == "accepting requests"]


def root(server: Server) -> str:
    return server.base_url.removesuffix("/execution")


async def asked(server: Server) -> float:
    """Return how many requests for our health all workers together have answered, by the sum of one scrape."""
    async with httpx.AsyncClient(base_url=root(server), verify=False) as client:
        series = await scrape(client)
    labels = frozenset({("handler", "/execution/health"), ("method", "GET"), ("status", "200")})
    return series.get(("http_requests_total", labels), 0.0)


async def has_counted_all(server: Server) -> bool:
    """Say whether all requests for our health that are in the log are in the sum of one scrape."""
    logged = [line for line in lines(server) if line["event"] == "request" and line["path"] == "/execution/health"]
    return await asked(server) == len(logged) > 30


async def has_come_back(server: Server) -> bool:
    """Say whether a request has met a lock, let go of everything and come back."""
    async with httpx.AsyncClient(base_url=root(server), verify=False) as client:
        series = await scrape(client)
    return any(name == "execution_api_transactions_repeated_total" and value > 0 for (name, _), value in series.items())


async def ask(server: Server, times: int) -> None:
    """Ask for our health on new connections, so that any worker may answer."""
    for _ in range(times):
        async with httpx.AsyncClient(base_url=server.base_url, verify=False) as client:
            assert (await client.get("/health")).status_code == 200


async def test_workers_share_what_start_up_made(metadata_url: str, tmp_path: Path) -> None:
    """A worker that looked for garbage among it would write into every object, and have the most of it for itself."""
    with our_server(metadata_url, tmp_path, workers=2) as server:
        await until(lambda: len(serving(server)) == 2)
        for pid in workers_of(server):
            own, shared = memory_bytes(pid)
            assert own < shared


async def test_what_dies_is_replaced_and_nothing_that_it_counted_is_lost(metadata_url: str, tmp_path: Path) -> None:
    with our_server(metadata_url, tmp_path, workers=3) as server:
        await until(lambda: len(serving(server)) == 3)
        await ask(server, 30)
        await until(lambda: has_counted_all(server))
        killed = next(pid for pid in workers_of(server) if any(line["pid"] == pid for line in lines(server)))
        os.kill(killed, signal.SIGKILL)
        await until(lambda: len(serving(server)) == 4)
        assert len(workers_of(server)) == 3, "the dead one has gone, no zombie is left"
        assert killed not in workers_of(server)
        assert await has_counted_all(server)
        await ask(server, 10)
        async with httpx.AsyncClient(base_url=root(server), verify=False) as client:
            series = await scrape(client)
        pids = {value for (name, labels) in series for label, value in labels if label == "pid"}
        assert pids == {str(pid) for pid in workers_of(server)}, "the state of the living alone"
        assert series["execution_api_worker_restarts_total", frozenset({("reason", "died")})] == 1
        limits = {value for (name, _), value in series.items() if name == "process_max_fds"}
        assert limits == {float(resource.getrlimit(resource.RLIMIT_NOFILE)[1])}
        assert server.stop() == 0
        assert await asyncio.to_thread(server.process.wait) == 0
    requests = [line for line in lines(server) if line["event"] == "request" and line["path"] == "/execution/health"]
    assert len({line["correlation_id"] for line in requests}) == len(requests), "each has an id of its own, generated"
    assert {line["client"] for line in requests} == {"127.0.0.1"}


async def test_told_to_end_it_serves_on_and_drops_nothing(metadata_url: str, tmp_path: Path) -> None:
    connection = await asyncpg.connect(metadata_url)
    world = World(connection)
    ti = await world.one_running("drained")
    holder = await asyncpg.connect(metadata_url)
    with our_server(metadata_url, tmp_path, workers=2, **{DRAIN: "2", COMES_BACK: "10"}) as server:
        await until(lambda: len(serving(server)) == 2)
        async with server.client(ti, timeout=30) as client, server.client(ti) as other:
            transaction = holder.transaction()
            await transaction.start()
            await holder.execute("SELECT 1 FROM task_instance WHERE id = $1 FOR UPDATE", ti)
            assert (await other.get("/health/ping")).status_code == 200
            reported = asyncio.create_task(client.patch(f"/task-instances/{ti}/state", json=SUCCESS))
            await until(partial(has_come_back, server))
            server.process.send_signal(signal.SIGTERM)
            await until(lambda: any(line["event"] == "stopping" for line in lines(server)))
            answers = [await fresh(server, "/health/ping") for _ in range(6)]
            assert {answer.status_code for answer in answers[2:]} == {500}
            assert answers[-1].json() == {"ok": [], "failing": {"server": "draining"}}
            served = await other.get("/health")  # on the connection that it had
            assert served.status_code == 200
            assert [(await fresh(server, "/health")).headers["connection"] for _ in range(4)] == ["close"] * 4
            await transaction.rollback()
            assert (await reported).status_code == 204
        assert await asyncio.to_thread(server.process.wait, SOON) == 0
    assert await connection.fetchval("SELECT state FROM task_instance WHERE id = $1", ti) == "success"
    await connection.close()
    await holder.close()


async def fresh(server: Server, path: str) -> httpx.Response:
    """Ask on a new connection."""
    async with httpx.AsyncClient(base_url=server.base_url, verify=False) as client:
        return await client.get(path)


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
async def test_what_waits_to_be_accepted_is_answered(metadata_url: str, tmp_path: Path, sig: signal.Signals) -> None:
    """The worker is stopped while they connect; when it goes on, it finds them and the order to end at the same time."""
    with our_server(metadata_url, tmp_path) as server:
        (worker,) = workers_of(server)
        os.kill(worker, signal.SIGSTOP)
        address = ("127.0.0.1", int(root(server).rpartition(":")[2]))
        waiting = [socket.create_connection(address, timeout=SOON) for _ in range(50)]
        for each in waiting[:25]:
            each.sendall(b"GET /execution/health HTTP/1.1\r\nHost: ours\r\n\r\n")
        server.process.send_signal(sig)
        await until(lambda: any(line["event"] == "stopping" for line in lines(server)))
        os.kill(worker, signal.SIGCONT)
        for each in waiting[25:]:
            each.sendall(b"GET /execution/health HTTP/1.1\r\nHost: ours\r\n\r\n")
        for each in waiting:
            assert await asyncio.to_thread(each.recv, 15) == b"HTTP/1.1 200 OK"
            each.close()
        assert await asyncio.to_thread(server.process.wait, SOON) == 0


async def test_a_second_signal_ends_it_at_once(metadata_url: str, tmp_path: Path) -> None:
    with our_server(metadata_url, tmp_path, **{DRAIN: "600"}) as server:
        server.process.send_signal(signal.SIGTERM)
        await until(lambda: any(line["event"] == "stopping" for line in lines(server)))
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(server.process.wait, SOON) == 0


async def test_workers_end_when_their_parent_dies(metadata_url: str, tmp_path: Path) -> None:
    with our_server(metadata_url, tmp_path, workers=2, **{DRAIN: "600"}) as server:
        await until(lambda: len(serving(server)) == 2)
        children = workers_of(server)
        server.process.kill()
        await until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() and alive(pid) for pid in children))


def alive(pid: int) -> bool:
    """Whether a process has not ended; one whose end nobody takes notice of has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_worker_whose_event_loop_stands_still_is_replaced(metadata_url: str, tmp_path: Path) -> None:
    """It is stopped, which is the same to its parent."""
    patient = "import app.server.workers\napp.server.workers.SILENT = 2.0\nfrom app.__main__ import main\nmain()"
    port = free_port()
    environment = {**clean_environment(), **airflow_settings(metadata_url), "AIRFLOW_HOME": str(tmp_path), DRAIN: "0"}
    environment["PROMETHEUS_MULTIPROC_DIR"] = str(tmp_path)  # what is imported above counts there
    command = [sys.executable, "-c", patient, "serve", "--host", "127.0.0.1", "--port", str(port)]
    with running(command, port=port, environment=environment, log=tmp_path / "ours.log") as server:
        (stopped,) = workers_of(server)
        os.kill(stopped, signal.SIGSTOP)
        await until(lambda: len(serving(server)) == 2)
        assert stopped not in workers_of(server)
        await ask(server, 1)


def unread(url: str, folder: Path) -> tuple[Server, int]:
    """Start a server whose log is a pipe, and return the end of it that nobody reads."""
    environment = {**clean_environment(), **airflow_settings(url), "AIRFLOW_HOME": str(folder), DRAIN: "0"}
    port = free_port()
    command = [sys.executable, "-W", "error", "-m", "app", "serve", "--host", "127.0.0.1", "--port", str(port)]
    reading, writing = os.pipe()
    process = subprocess.Popen(command, env=environment, stdout=writing, stderr=writing, start_new_session=True)
    os.close(writing)
    return Server(process, f"http://127.0.0.1:{port}/execution", folder / "none"), reading


@pytest.mark.slow
async def test_a_log_that_nobody_reads_stops_nobody(metadata_url: str, tmp_path: Path) -> None:
    """Neither the workers nor their parent, who write to the same pipe: it is full after the first requests."""
    server, reading = unread(metadata_url, tmp_path)
    try:
        await asyncio.to_thread(server.wait_until_healthy)
        async with httpx.AsyncClient(base_url=server.base_url, verify=False, timeout=SOON) as client:
            for _ in range(150):
                assert (await client.get(f"/{'x' * 20_000}")).status_code == 404
        (killed,) = workers_of(server)
        os.kill(killed, signal.SIGKILL)
        await until(lambda: killed not in workers_of(server) and workers_of(server))
        await until(partial(is_healthy, server))
    finally:
        code = await asyncio.to_thread(server.stop)
        os.close(reading)
    assert code == 0


async def is_healthy(server: Server) -> bool:
    try:
        async with httpx.AsyncClient(base_url=server.base_url, verify=False) as client:
            return (await client.get("/health")).status_code == 200
    except httpx.TransportError:
        return False


def started(url: str, folder: Path, *arguments: str) -> Server:
    """Start a server of one worker, whose log is JSON on its standard error."""
    environment = {**clean_environment(), **airflow_settings(url), "AIRFLOW_HOME": str(folder), DRAIN: "0"}
    command = [sys.executable, "-W", "error", "-m", "app", "serve", "--host", "127.0.0.1", *arguments]
    with (folder / "ours.log").open("wb") as output:
        process = subprocess.Popen(command, env=environment, stderr=output, start_new_session=True)
    return Server(process, "", folder / "ours.log")


async def test_a_certificate_that_was_renewed_is_used_after_a_hangup(metadata_url: str, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    write_certificate(certificate, key)
    port = free_port()
    server = started(metadata_url, tmp_path, "--port", str(port), "--ssl-cert", str(certificate), "--ssl-key", str(key))

    def shown() -> str:
        try:
            return ssl.get_server_certificate(("127.0.0.1", port))
        except ConnectionRefusedError:  # it does not listen yet
            return ""

    try:
        await until(lambda: asyncio.to_thread(shown))
        first = await asyncio.to_thread(shown)
        assert first == certificate.read_text()
        certificate.write_text("no certificate")
        server.process.send_signal(signal.SIGHUP)
        await until(lambda: any(line["event"] == "a worker has died" for line in lines(server)))
        assert await asyncio.to_thread(shown) == first, "what cannot serve replaces nothing"
        write_certificate(certificate, key)
        server.process.send_signal(signal.SIGHUP)
        renewed = certificate.read_text()
        await until(lambda: asyncio.to_thread(lambda: shown() == renewed))
        await until(lambda: len(workers_of(server)) == 1)
    finally:
        assert server.stop() == 0


def test_workers_that_cannot_serve_end_the_service(metadata_url: str, tmp_path: Path) -> None:
    once = tmp_path / "secret"  # the parent's settings are read, the workers' are not
    once.write_text(f"mkdir {tmp_path / 'was_read'} && printf '%s' '{SECRET}'")
    environment = {**clean_environment(), **airflow_settings(metadata_url), "AIRFLOW_HOME": str(tmp_path)}
    del environment["AIRFLOW__API_AUTH__JWT_SECRET"]
    environment["AIRFLOW__API_AUTH__JWT_SECRET_CMD"] = f"sh {once}"
    command = [sys.executable, "-m", "app", "serve", "--host", "127.0.0.1", "--port", str(free_port()), "--workers", "2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert any(line["event"] == "the worker cannot serve" and "JWT_SECRET_CMD" in line["reason"] for line in told)


async def has_counted(client: httpx.AsyncClient, metrics: str) -> bool:
    """Say whether a request is counted there: the other worker's, a moment later."""
    return "http_requests_total" in (await client.get(metrics)).text


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_every_address_of_both_families(metadata_url: str, tmp_path: Path, workers: str) -> None:
    port = free_port()
    environment = {**clean_environment(), **airflow_settings(metadata_url), "AIRFLOW_HOME": str(tmp_path), DRAIN: "0"}
    metrics_port = free_port()
    environment |= {"AIRFLOW__EXECUTION_API_SERVICE__METRICS_PORT": str(metrics_port)}
    environment |= {"AIRFLOW__EXECUTION_API_SERVICE__DOCUMENTS": "False"}
    command = [sys.executable, "-W", "error", "-m", "app", "serve", "--host", "::", "--port", str(port)]
    command += ["--workers", workers]
    with running(command, port=port, environment=environment, log=tmp_path / "ours.log"):
        async with httpx.AsyncClient(verify=False) as client:
            for host in ("127.0.0.1", "[::1]"):
                assert (await client.get(f"http://{host}:{port}/execution/health")).status_code == 200
                assert (await client.get(f"http://{host}:{port}/metrics")).status_code == 404, (
                    "they have a port of their own"
                )
                await until(partial(has_counted, client, f"http://{host}:{metrics_port}/metrics"))
                assert (await client.get(f"http://{host}:{metrics_port}/execution/health")).status_code == 404
            for path in ("docs", "redoc", "openapi.json", "static/swagger-ui.css", "None"):
                assert (await client.get(f"http://127.0.0.1:{port}/execution/{path}")).status_code == 404
