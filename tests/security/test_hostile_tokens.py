"""Tokens and keys made to do harm, over HTTP, at real servers: each is a 403, and nothing else happens."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.utils import base64url_encode

from app.server.key_set import JWKS_PAUSE
from tests.conftest import empty
from tests.security.conftest import forget_peak, head, peak, stranger
from tests.servers import AUDIENCE, SECRET, Server, our_server
from tests.world import World, ti_id

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED_KEY = ed25519.Ed25519PrivateKey.generate()
STRANGERS_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
TI = ti_id("d/manual__1/job/-1")
BEAT = {"hostname": "worker", "pid": 42}
ALGORITHMS = "RS256,EdDSA,HS512,HS256,ES256"  # every kind beside one another: a token could choose

Make = Callable[[], str | bytes]


def public(key: Any, algorithm: Any, **more: Any) -> dict[str, Any]:
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), **more}


FIRST = public(RSA_KEY, RSAAlgorithm(RSAAlgorithm.SHA256), kid="first")
SECOND = public(ED_KEY, OKPAlgorithm(), kid="second")
HOSTILE: list[Any] = [
    {"kid": "oct", "kty": "oct", "k": base64url_encode(b"s" * 64).decode(), "alg": "HS512"},
    {"kid": "no kind"},
    {"kid": "nonsense", "kty": "RSA", "n": "AQAB", "e": "AQAB"},
    {"kid": "huge", "kty": "RSA", "n": "A" * 100_000, "e": "AQAB"},
    {"kid": 5, "kty": "RSA"},
    {"kid": "curve", "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
    public(ec.generate_private_key(ec.SECP256R1()), ECAlgorithm(ECAlgorithm.SHA256), kid="ec"),
]
assert "k" not in FIRST


def written(path: Path, *entries: Any) -> Path:
    """Write a key set, at once."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"keys": entries}))
    return new.rename(path)


@pytest.fixture(scope="module")
def key_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("keys") / "jwks.json", *HOSTILE, FIRST, SECOND)


@pytest.fixture(scope="module", params=["secret", "key set"])
def server(
    request: pytest.FixtureRequest,
    key_set: Path,
    make_database: Callable[[str], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """Run a server that knows a secret, and one that trusts a key set."""
    trusts = {"AIRFLOW__API_AUTH__TRUSTED_JWKS_URL": str(key_set), "AIRFLOW__API_AUTH__JWT_ALGORITHM": ALGORITHMS}
    settings = trusts if request.param == "key set" else {}
    with our_server(make_database("3.3"), tmp_path_factory.mktemp("hostile"), **settings) as running:
        running.headers = trusts
        yield running


@pytest.fixture
async def running(server: Server) -> AsyncIterator[World]:
    """Let the task instance :data:`TI` run."""
    connection = await asyncpg.connect(server.database_url)
    await empty(connection)
    world = World(connection, "3.3")
    assert await world.one_running("d") == TI
    yield world
    await connection.close()


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    named = {"sub": str(TI), "aud": AUDIENCE, "iat": now, "nbf": now, "exp": now + 600, **changed}
    return {name: value for name, value in named.items() if value is not None}


def good(kind: str, **changed: Any) -> str:
    if kind == "secret":
        return jwt.encode(claims(**changed), SECRET, "HS512")
    return jwt.encode(claims(**changed), RSA_KEY, "RS256", headers={"kid": "first"})


def assembled(header: Mapping[str, Any] | bytes, body: Mapping[str, Any] | bytes, sign: Callable[[bytes], bytes]) -> str:
    """Return a token of any header and claims, signed or not."""
    parts = (part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, body))
    signed = b".".join(base64url_encode(part) for part in parts)
    return (signed + b"." + base64url_encode(sign(signed))).decode()


def by_secret(signed: bytes) -> bytes:
    return hmac.digest(SECRET.encode(), signed, "sha512")


def by_key(signed: bytes) -> bytes:
    return RSA_KEY.sign(signed, PKCS1v15(), SHA256())


def unsigned(_: bytes) -> bytes:
    return b""


PEM = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
# Numbers of a kind, which a key that is trusted may well have signed.
NUMBERS = (("iat", -1), ("iat", True), ("iat", "٣"), ("exp", 2**70), ("exp", 1e308))
DEEP = b"[" * 20_000 + b"]" * 20_000


def signed_in(kind: str) -> tuple[dict[str, Any], Callable[[bytes], bytes]]:
    """Return a header and what signs with it, as the server trusts them."""
    return (
        ({"alg": "HS512", "typ": "JWT"}, by_secret)
        if kind == "secret"
        else (
            {"alg": "RS256", "typ": "JWT", "kid": "first"},
            by_key,
        )
    )


def hostile(kind: str) -> Iterator[tuple[str, Make]]:
    """Yield tokens that must not open anything, by what they try."""
    header, sign = signed_in(kind)
    for none in ("none", "None", "nOnE", "NONE", ""):
        yield f"alg {none!r}", lambda none=none: assembled({**header, "alg": none}, claims(), unsigned)
        yield f"alg {none!r}, signed", lambda none=none: assembled({**header, "alg": none}, claims(), sign)
    for algorithm in ("HS256", "HS384", "HS512", "RS256", "RS512", "PS256", "ES256", "ES256K", "EdDSA", "dir", "A128KW"):
        if algorithm != header["alg"]:
            yield f"alg {algorithm}", lambda a=algorithm: assembled({**header, "alg": a}, claims(), sign)
    for digest in ("sha256", "sha512"):
        yield (
            f"the public key as a secret, {digest}",
            lambda d=digest: assembled(
                {**header, "alg": "HS" + d[3:]}, claims(), lambda signed: hmac.digest(PEM, signed, d)
            ),
        )
    yield (
        "the empty secret",
        lambda: assembled({**header, "alg": "HS512"}, claims(), lambda s: hmac.digest(b"", s, "sha512")),
    )
    strangers = public(STRANGERS_KEY, RSAAlgorithm(RSAAlgorithm.SHA256), kid="first")
    for name, told in (("jwk", strangers), ("jku", "http://127.0.0.1:1/k"), ("x5u", "file:///etc/passwd"), ("x5c", ["AA"])):
        yield (
            f"a key of its own, {name}",
            lambda n=name, t=told: jwt.encode(claims(), STRANGERS_KEY, "RS256", headers={"kid": "first", n: t}),
        )
    for kid in (
        None,
        "",
        "third",
        "no kind",
        "nonsense",
        "huge",
        "curve",
        "ec",
        "5",
        5,
        [],
        {},
        "../../first",
        "\0",
        "x" * 9000,
    ):
        yield f"kid {str(kid)[:20]!r}", lambda k=kid: assembled({**header, "kid": k}, claims(), unsigned)
    if kind != "secret":
        yield "another's name", lambda: assembled({**header, "kid": "second"}, claims(), sign)
        yield "a secret of the key set", lambda: jwt.encode(claims(), b"t" * 64, "HS512", headers={"kid": "oct"})
        yield "our own secret", lambda: jwt.encode(claims(), SECRET, "HS512", headers={"kid": "first"})
    yield "crit", lambda: assembled({**header, "crit": ["exp", "x"], "x": 1}, claims(), sign)
    yield "b64 false", lambda: assembled({**header, "crit": ["b64"], "b64": False}, claims(), sign)
    yield "expired", lambda: assembled(header, claims(exp=int(time.time()) - 60), sign)
    yield "of the future", lambda: assembled(header, claims(nbf=int(time.time()) + 60), sign)
    yield "issued in the future", lambda: assembled(header, claims(iat=int(time.time()) + 3600), sign)
    for name in ("exp", "iat", "aud", "sub"):
        yield f"no {name}", lambda n=name: assembled(header, claims(**{n: None}), sign)
        for value in ("", "x", [], {}, True, -1, 2**70, 1e308, [[]], "٣"):
            if (name, value) not in NUMBERS:
                yield f"{name} {value!r}", lambda n=name, v=value: assembled(header, claims(**{n: v}), sign)
    yield "another audience", lambda: assembled(header, claims(aud=f"{AUDIENCE}x"), sign)
    for subject in (str(uuid.uuid4()), "x", "0" * 31, f"{TI}\0", f"{TI} ", str(TI).replace("-", "\u2010"), "x" * 30_000):
        yield f"sub {subject[:12]!r}", lambda s=subject: assembled(header, claims(sub=s), sign)
    for scope in ("admin", "", [], {}, 5, "execution workload"):
        yield f"scope {scope!r}", lambda s=scope: assembled(header, claims(scope=s), sign)
    yield "infinity", lambda: assembled(header, json.dumps(claims(exp=float("inf"))).encode(), sign)
    yield "no number", lambda: assembled(header, json.dumps(claims(exp=float("nan"))).encode(), sign)
    yield (
        "a number of 5,000 digits",
        lambda: assembled(header, json.dumps(claims()).replace('"exp": ', '"exp": ' + "9" * 5000).encode(), sign),
    )
    for name, told in (("deep", DEEP), ("no JSON", b"{"), ("an array", b"[]"), ("no text", b"\xff\xfe"), ("null", b"null")):
        yield f"claims that are {name}", lambda t=told: assembled(header, t, sign)
        yield f"a header that is {name}", lambda t=told: assembled(t, claims(), sign)
    yield "an encrypted token", lambda: ".".join(["e30"] * 5)
    for text in (
        ".",
        "..",
        "...",
        "a.b.c",
        "=.=.=",
        "e30.e30.",
        "e30.e30.AA",
        "\xff",
        "Bearer",
        "," * 50,
        "x" * 60_000,
        "." * 60_000,
    ):
        yield f"the text {text[:12]!r}", lambda t=text: t
    yield "cut", lambda: good(kind)[:-10]
    yield "with a tail", lambda: good(kind) + "AAAA"
    yield "twice", lambda: f"{good(kind)},{good(kind)}"


async def test_hostile_tokens_open_nothing(server: Server, running: World, request: pytest.FixtureRequest) -> None:
    kind = request.node.callspec.params["server"]
    before = forget_peak(server)
    path = f"/task-instances/{TI}/heartbeat"
    wrong = {}
    async with server.client() as client:
        for name, make in hostile(kind):
            encoded = make()
            line = b"Bearer " + (encoded if isinstance(encoded, bytes) else encoded.encode("latin-1"))
            answer = await client.put(path, json=BEAT, headers=[(b"Authorization", line)])
            if answer.status_code != 403 or "refreshed-api-token" in answer.headers:
                wrong[name] = (answer.status_code, answer.text)
        assert not wrong
        assert await running.connection.fetchval("SELECT last_heartbeat_at = start_date FROM task_instance")
        answer = await client.put(path, json=BEAT, headers={"Authorization": f"Bearer {good(kind)}"})
        assert answer.status_code == 204, answer.text
    log = server.log.read_text()
    errors = [line for line in log.splitlines() if '"level":"error"' in line]
    assert all("tokens that are renewed here will be refused" in line for line in errors), "that of the start, if it is told"
    assert "Traceback" not in log
    assert SECRET not in log
    assert peak(server) - before < 64


@pytest.mark.parametrize("cut", [100_000, 60_000, 50_000])
async def test_a_head_that_is_too_large_is_refused_before_its_token(server: Server, cut: int) -> None:
    """Also when each of its pieces is small enough."""
    large = head("GET", "/variables/x", f"Authorization: Bearer {'x' * 100_000}")
    async with stranger(server) as attacker:
        await attacker.send(large[:cut])
        await asyncio.sleep(0.1)  # so that it is read by itself; it is refused either way
        await attacker.send(large[cut:])
        assert (await attacker.answer()).status == 431
        assert await attacker.is_closed()


@pytest.mark.parametrize("server", ["secret"], indirect=True)
async def test_two_tokens_are_not_chosen_from(server: Server, running: World) -> None:
    """Whatever stands in front may look at another of them than we do: only one that is good in every reading opens."""
    lines = [f"Authorization: Bearer {good('secret')}", "Authorization: Bearer nonsense"]
    for one, two in (lines, reversed(lines)):
        async with stranger(server) as attacker:
            await attacker.send(head("GET", "/variables/x", one, two))
            first = (await attacker.answer()).status
        assert first in (401, 403, 404)


@pytest.mark.slow
@pytest.mark.parametrize("server", ["key set"], indirect=True)
async def test_a_key_that_is_taken_back(server: Server, running: World, key_set: Path) -> None:
    """Near its end a token's key is looked for again before a new token is given for it; one that is gone opens nothing."""
    path = f"/task-instances/{TI}/heartbeat"
    near_its_end = {"iat": int(time.time()) - 590, "nbf": 0, "exp": int(time.time()) + 100}
    of = {
        "first": jwt.encode(claims(**near_its_end), RSA_KEY, "RS256", headers={"kid": "first"}),
        "second": jwt.encode(claims(**near_its_end), ED_KEY, "EdDSA", headers={"kid": "second"}),
    }

    async def beat(encoded: str) -> tuple[int, bool]:
        async with server.client(headers={"Authorization": f"Bearer {encoded}"}) as client:
            answer = await client.put(path, json=BEAT)
        return answer.status_code, "refreshed-api-token" in answer.headers

    assert await beat(of["first"]) == await beat(of["second"]) == (204, True)
    strangers = public(STRANGERS_KEY, RSAAlgorithm(RSAAlgorithm.SHA256), kid="first")
    written(key_set, strangers, SECOND)
    try:
        await asyncio.sleep(JWKS_PAUSE + 1)
        assert await beat(of["first"]) == (403, False)
        assert await beat(of["second"]) == (204, True)
    finally:
        written(key_set, *HOSTILE, FIRST, SECOND)
