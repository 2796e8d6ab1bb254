"""Who has no token: what cannot be done from the port alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, suppress

import pytest

from tests.api.test_bad_input import OPERATIONS, PUBLIC, VALID, Operation
from tests.security.conftest import Stranger, forget_peak, head, peak, stranger, witness
from tests.servers import Server, our_server, token
from tests.world import World, ti_id

TI = ti_id("attacked")
NESTED = b"[" + b"[]," * (20 * 2**20 // 3) + b"[]]"  # 20 MiB that once took 540 MiB and 2 to 3 s
GUARDED = [o for o in OPERATIONS if o.name not in PUBLIC]
READS_NOTHING = "Expect: 100-continue"  # the server says "100 Continue" when it begins to read the body, and not before


@pytest.fixture(scope="module")
def newest(make_database: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server that has every operation."""
    with our_server(make_database("3.4"), tmp_path_factory.mktemp("newest")) as running:
        yield running


async def asked(stranger: Stranger, operation: Operation, *lines: str) -> None:
    query = "&".join(f"{name}={value}" for name, value in VALID[operation.name][0].items())
    path = operation.url(str(TI)) + (f"?{query}" if query else "")
    await stranger.send(head(operation.method, path, "Content-Length: 1000", READS_NOTHING, *lines))


@pytest.mark.parametrize("operation", GUARDED, ids=lambda o: o.name)
@pytest.mark.parametrize(
    ("token_of", "status"), [(None, 401), ("nobody", 403), ("another", 403)], ids=["none", "forged", "another's"]
)
async def test_a_body_is_not_read_before_the_token(
    newest: Server, operation: Operation, token_of: str | None, status: int
) -> None:
    """Whatever the operation: the answer comes, and the client was never told to send its body."""
    is_own = "{task_instance_id}" in operation.path or "{connection_test_id}" in operation.path
    if token_of == "another" and not is_own:
        pytest.skip("this operation takes any task's token")
    forged = token(TI, secret="s" * 64)
    others = token(ti_id("another"), scope="workload" if "{connection_test_id}" in operation.path else "execution")
    lines = {None: [], "nobody": [f"Authorization: Bearer {forged}"], "another": [f"Authorization: Bearer {others}"]}
    async with stranger(newest) as attacker:
        await asked(attacker, operation, *lines[token_of])
        answer = await attacker.answer(has_body=operation.method != "HEAD")
    assert answer.status == status, answer


@pytest.mark.parametrize(
    ("method", "path", "line", "status"),
    [
        ("PUT", "/nowhere", "X: y", 404),
        ("TRACE", "/variables/x", "X: y", 405),
        ("PUT", "/health", "X: y", 405),
        ("PUT", "/variables/x", "Airflow-API-Version: 1999-01-01", 404),
        ("PUT", "/variables/x", "Airflow-API-Version: nonsense", 422),
        ("PUT", "/variables/%00", "X: y", 401),
    ],
)
async def test_no_body_is_read_for_what_is_no_operation(
    attacked: Server, method: str, path: str, line: str, status: int
) -> None:
    async with stranger(attacked) as attacker:
        await attacker.send(head(method, path, "Content-Length: 1000", READS_NOTHING, line))
        assert (await attacker.answer()).status == status


async def test_an_early_answer_is_heard_by_who_sends_his_body_first(attacked: Server) -> None:
    """As the Task SDK's client does: the whole body, and then it looks for the answer. The connection stays good."""
    async with attacked.client(timeout=30) as client:
        for _ in range(2):
            answer = await client.put("/variables/x", content=NESTED, headers={"Content-Type": "application/json"})
            assert (answer.status_code, answer.json()) == (401, {"detail": "Missing auth token"})
        assert (await client.get("/health")).status_code == 200


async def test_twenty_mib_without_a_token_cost_nobody_anything(attacked: Server) -> None:
    before = forget_peak(attacked)
    async with witness(attacked) as waits, attacked.client(timeout=30) as client:
        await asyncio.gather(*[client.put("/variables/x", content=NESTED) for _ in range(4)])
    assert peak(attacked) - before < 32
    assert max(waits) < 1  # its goal is 0.1 s; docs/security.md tells what is measured


async def test_unfinished_bodies_hold_neither_memory_nor_others(attacked: Server) -> None:
    """Six clients that announce 60 MB, send most of it and stop."""
    before = forget_peak(attacked)
    async with AsyncExitStack() as stack:
        waits = await stack.enter_async_context(witness(attacked))
        for _ in range(6):
            attacker = await stack.enter_async_context(stranger(attacked))
            await attacker.send(head("PUT", "/variables/x", "Content-Length: 60000000"))
            await attacker.send(*[b" " * 1_000_000] * 50)
        assert peak(attacked) - before < 32
        assert max(waits) < 1


async def test_heads_are_bounded(attacked: Server) -> None:
    for lines in (
        ["X: " + "y" * 70_000],
        [f"X-{n}: {'y' * 1000}" for n in range(70)],
        ["X: " + "y" * 60_000, "Y: " + "y" * 8_000],
    ):
        async with stranger(attacked) as attacker:
            await attacker.send(head("GET", "/health", *lines))
            answer = await attacker.answer()
            assert (answer.status, b"head_too_large" in answer.body) == (431, True)
            assert await attacker.is_closed()
    async with stranger(attacked) as attacker:
        before = attacked.log.read_text().count("head_too_large")
        with suppress(ConnectionError):  # closed before the last piece, and its answer lost perhaps
            await attacker.send(b"GET /", *[b"a" * 70_000] * 6)  # a line that never ends
        assert await attacker.is_closed()
        assert attacked.log.read_text().count("head_too_large") == before + 1
    async with stranger(attacked) as attacker:
        await attacker.send(head("GET", "/health", "X: " + "y" * 60_000))
        assert (await attacker.answer()).status == 200


async def test_a_body_in_pieces_after_a_head_in_pieces_is_taken(attacked: Server, rows: World) -> None:
    """The bounds do not stand in the way of who is only slow."""
    ti = await rows.one_running("d")
    body = b'{"hostname": "worker", "pid": 42}'
    whole = head(
        "PUT", f"/task-instances/{ti}/heartbeat", f"Authorization: Bearer {token(ti)}", f"Content-Length: {len(body)}"
    )
    async with stranger(attacked) as slow:
        for _ in range(2):
            for i in range(0, len(whole + body), 40):
                await slow.send((whole + body)[i : i + 40])
                await asyncio.sleep(0)
            assert (await slow.answer()).status == 204


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: " + "9" * 5001],
        ["Content-Length: " + "0" * 5000 + "2"],
        ["Content-Length: -1"],
        ["Content-Length: 2", "Content-Length: 3"],
        ["Content-Length: 2", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gzip"],
    ],
    ids=["large", "zeros", "negative", "twice", "and chunked", "unknown coding"],
)
async def test_lengths_that_are_none(attacked: Server, lines: list[str]) -> None:
    path = "/xcoms/d/manual__1/job/k"
    async with stranger(attacked) as attacker:
        await attacker.send(head("POST", path, f"Authorization: Bearer {token(TI)}", *lines) + b"{}")
        assert (await attacker.answer()).status == 400


async def test_nonsense_is_answered_and_the_connection_closed(attacked: Server) -> None:
    tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    for sent in (b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\n", tls):
        async with stranger(attacked) as attacker:
            await attacker.send(sent + b"\r\n\r\n")
            assert await attacker.is_closed(), sent


async def test_an_upgrade_is_a_request_like_others(attacked: Server) -> None:
    async with stranger(attacked) as attacker:
        upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: eA==", "Sec-WebSocket-Version: 13"]
        await attacker.send(head("GET", "/variables/x", *upgrade))
        assert (await attacker.answer()).status == 401
