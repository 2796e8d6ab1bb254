from __future__ import annotations

import asyncio
import hmac
import json
import os
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm
from jwt.utils import base64url_encode

from app.errors import ConfigurationError, KeySetUnavailable, RefusedRequest
from app.server import auth, key_set
from app.server.auth import TaskToken, Tokens
from app.settings import TokenSettings

SUBJECT = uuid.uuid4()
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _fuzzed() -> dict[str, Tokens]:
    path = Path(tempfile.mkdtemp()) / "jwks.json"
    write_key_set(path, ("first", RSA_KEY), ("second", ED_KEY))
    every = ("HS512", "RS256", "EdDSA")
    return {
        "secret": Tokens(TokenSettings(secret="s" * 64)),
        "key": Tokens(TokenSettings(private_key=pem(RSA_KEY))),
        "set": Tokens(TokenSettings(secret="s" * 64, algorithms=every, trusted_jwks_url=str(path))),
    }


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    named = {"sub": str(SUBJECT), "aud": "urn:airflow.apache.org:task", "iat": now, "nbf": now, "exp": now + 60}
    return {k: v for k, v in {**named, **changed}.items() if v is not None}


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
async def test_symmetric(algorithm: str) -> None:
    tokens = Tokens(TokenSettings(secret="s" * 64, algorithms=(algorithm,)))
    assert (await tokens.verify(jwt.encode(claims(), "s" * 64, algorithm))).id == SUBJECT
    minted = await tokens.verify(tokens.mint({"sub": str(SUBJECT)}))
    assert (minted.id, minted.scope) == (SUBJECT, "execution")
    other = "HS256" if algorithm != "HS256" else "HS512"
    with pytest.raises(RefusedRequest):
        await tokens.verify(jwt.encode(claims(), "s" * 64, other))


@pytest.mark.parametrize(("key", "algorithm"), [(RSA_KEY, "RS256"), (ED_KEY, "EdDSA")])
async def test_key_file(key: Any, algorithm: str) -> None:
    tokens = Tokens(TokenSettings(private_key=pem(key)))
    minted = tokens.mint({"sub": str(SUBJECT)})
    assert jwt.get_unverified_header(minted)["alg"] == algorithm
    assert (await tokens.verify(minted)).id == SUBJECT
    with pytest.raises(RefusedRequest):
        await tokens.verify(jwt.encode(claims(), "s" * 64, "HS256"))


def write_key_set(path: Path, *keys: tuple[str, Any]) -> None:
    entries = []
    for kid, key in keys:
        algorithm = RSAAlgorithm(RSAAlgorithm.SHA256) if key is RSA_KEY else OKPAlgorithm()
        entries.append({**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid})
    path.write_text(json.dumps({"keys": entries}))


FUZZED = _fuzzed()


async def test_trusted_jwks_is_read_again_for_an_unknown_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "jwks.json"
    write_key_set(path, ("first", RSA_KEY))
    tokens = Tokens(TokenSettings(secret="s" * 64, trusted_jwks_url=str(path)))
    assert (await tokens.verify(jwt.encode(claims(), RSA_KEY, "RS256", headers={"kid": "first"}))).id == SUBJECT
    second = jwt.encode(claims(), ED_KEY, "EdDSA", headers={"kid": "second"})
    write_key_set(path, ("first", RSA_KEY), ("second", ED_KEY))
    with pytest.raises(RefusedRequest):  # so soon after the last reading, nobody makes us read again
        await tokens.verify(second)
    monkeypatch.setattr(key_set, "JWKS_PAUSE", 0.0)
    assert (await tokens.verify(second)).id == SUBJECT


async def key_set_tokens(path: Path) -> tuple[Tokens, str, str]:
    """Return tokens that trust two keys, and a token of each, both verified."""
    write_key_set(path, ("first", RSA_KEY), ("second", ED_KEY))
    tokens = Tokens(TokenSettings(secret="s" * 64, trusted_jwks_url=str(path)))
    first = jwt.encode(claims(exp=int(time.time()) + 3600), RSA_KEY, "RS256", headers={"kid": "first"})
    second = jwt.encode(claims(exp=int(time.time()) + 3600), ED_KEY, "EdDSA", headers={"kid": "second"})
    for encoded in (first, second):
        assert (await tokens.verify(encoded)).id == SUBJECT
    return tokens, first, second


async def test_a_key_that_is_taken_back_verifies_nothing_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "jwks.json"
    tokens, first, second = await key_set_tokens(path)
    monkeypatch.setattr(key_set, "JWKS_PAUSE", -1.0)
    monkeypatch.setattr(key_set, "JWKS_LIFETIME", -1.0)
    for kept in ([("second", ED_KEY)], [("first", ED_KEY), ("second", ED_KEY)]):  # gone; another under its name
        write_key_set(path, *kept)
        await tokens.verify(second)  # notices that the key set is old; it is read beside
        assert tokens._key_set is not None and tokens._key_set._reading is not None
        await tokens._key_set._reading
        with pytest.raises(RefusedRequest):
            await tokens.verify(first)
        assert (await tokens.verify(second)).id == SUBJECT, "a key that stays goes on"
    path.write_text('{"keys": []}')
    await tokens._key_set._read_again()
    with pytest.raises(RefusedRequest):
        await tokens.verify(second)


async def test_a_token_whose_key_is_taken_back_is_not_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near its end the key set is read at once, however young it is; in between, the answer does not carry a new token."""
    path = tmp_path / "jwks.json"
    tokens, first, _ = await key_set_tokens(path)
    token = await tokens.verify(first)
    near_its_end = token.expires - 10.0
    assert tokens.renewed(token, time.time()) is None
    assert tokens.renewed(token, near_its_end) is not None
    write_key_set(path, ("second", ED_KEY))
    monkeypatch.setattr(key_set, "JWKS_PAUSE", -1.0)
    monkeypatch.setattr(auth.time, "time", lambda: near_its_end)
    with pytest.raises(RefusedRequest):
        await tokens.verify(first)
    assert tokens.renewed(token, near_its_end) is None


async def test_a_key_set_that_cannot_be_read_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "jwks.json"
    tokens, first, second = await key_set_tokens(path)
    monkeypatch.setattr(key_set, "JWKS_PAUSE", -1.0)
    assert tokens._key_set is not None
    for document in ("", "null", "[]", "5", '{"keys": 5}', '{"keys": null}', '{"keys": [1]}', "\xff", "[" * 100_000):
        path.write_text(document)
        await tokens._key_set._read_again()
        assert (await tokens.verify(first)).id == (await tokens.verify(second)).id == SUBJECT


@pytest.mark.parametrize("algorithm", ["HS256", "HS512", "RS256", "ES256", "EdDSA", "none"])
@pytest.mark.parametrize("trusted", ["first", "second"])
async def test_an_algorithm_of_another_kind_of_key(tmp_path: Path, algorithm: str, trusted: str) -> None:
    """A list of algorithms lets a token choose one that its key is not for."""
    write_key_set(tmp_path / "jwks.json", ("first", RSA_KEY), ("second", ED_KEY))
    every = ("HS256", "HS512", "RS256", "ES256", "EdDSA")
    settings = TokenSettings(secret="s" * 64, algorithms=every, trusted_jwks_url=str(tmp_path / "jwks.json"))
    header = base64url_encode(json.dumps({"alg": algorithm, "typ": "JWT", "kid": trusted}).encode())
    signed = header + b"." + base64url_encode(json.dumps(claims()).encode())
    encoded = signed + b"." + base64url_encode(b"s" * 64)
    with pytest.raises(RefusedRequest) as refused:
        await Tokens(settings).verify(encoded.decode())
    assert refused.value.status == 403


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(str(SUBJECT)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
CLAIMS = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("sub", "aud", "iss", "iat", "nbf", "exp", "jti", "scope", "crit", "kid"), JSON)
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        n: JSON | st.sampled_from(["HS512", "RS256", "EdDSA", "none", "first"])
        for n in ("alg", "typ", "kid", "crit", "b64", "jwk")
    },
)


@given(header=HEADERS, changed=CLAIMS, kind=st.sampled_from(["secret", "key", "set"]), is_signed=st.booleans())
@settings(max_examples=150, deadline=None)
async def test_no_token_causes_anything_but_a_refusal(
    header: dict[str, Any], changed: dict[str, Any], kind: str, is_signed: bool
) -> None:
    """Signed or not: what a token's header and claims hold is verified, or it is a 403."""
    tokens = FUZZED[kind]
    head = base64url_encode(json.dumps({"alg": "HS512", "typ": "JWT", "kid": "first", **header}).encode())
    body = head + b"." + base64url_encode(json.dumps({**claims(), **changed}).encode())
    if kind == "secret":
        signature = hmac.digest(b"s" * 64, body, "sha512") if is_signed else b"s"
    else:
        signature = RSA_KEY.sign(body, PKCS1v15(), SHA256()) if is_signed else b"s"
    try:
        token = await tokens.verify((body + b"." + base64url_encode(signature)).decode())
    except RefusedRequest as refused:
        assert refused.status == 403
    else:
        assert is_signed
        tokens.renewed(token, time.time())
        tokens.renewed(token, 2.0**62)


@given(
    st.text()
    | st.binary().map(lambda b: b.decode("latin-1"))
    | st.lists(st.text(max_size=6), min_size=3, max_size=5).map(".".join)
)
@settings(max_examples=100, deadline=None)
async def test_no_text_is_a_token(text: str) -> None:
    for tokens in FUZZED.values():
        with pytest.raises(RefusedRequest) as refused:
            await tokens.verify(text)
        assert refused.value.status == 403


ENTRY = st.fixed_dictionaries(
    {"kid": st.just("hostile")},
    optional={
        name: JSON | st.sampled_from(["RSA", "EC", "OKP", "oct", "RS256", "Ed25519", "P-256", "AQAB"])
        for name in ("kty", "alg", "use", "n", "e", "d", "crv", "x", "y", "k")
    },
)


@given(st.lists(ENTRY | JSON, max_size=3))
@settings(max_examples=100, deadline=None)
async def test_no_entry_of_a_key_set_costs_the_others(entries: list[Any]) -> None:
    """One that nothing can be made of is left out, or the whole set is not taken; nothing else happens."""
    good = {**RSAAlgorithm(RSAAlgorithm.SHA256).to_jwk(RSA_KEY.public_key(), as_dict=True), "kid": "first"}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"keys": [good, *entries]}, file)
        file.flush()
        tokens = Tokens(TokenSettings(secret="s" * 64, trusted_jwks_url=file.name))
        encoded = jwt.encode(claims(), RSA_KEY, "RS256", headers={"kid": "first"})
        if all(isinstance(entry, dict) for entry in entries):
            assert (await tokens.verify(encoded)).id == SUBJECT
        hostile = jwt.encode(claims(), RSA_KEY, "RS256", headers={"kid": "hostile"})
        with pytest.raises((RefusedRequest, KeySetUnavailable)):
            await tokens.verify(hostile)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (TokenSettings(secret="s" * 63), "63 bytes: HS512 needs 64"),
        (TokenSettings(secret="s" * 31, algorithms=("HS256",)), "31 bytes: HS256 needs 32"),
        (TokenSettings(secret="s" * 64), None),
        (TokenSettings(secret="s" * 32, algorithms=("HS256",)), None),
        (TokenSettings(private_key=pem(rsa.generate_private_key(public_exponent=65537, key_size=1024))), "1024 bits"),
        (TokenSettings(private_key=pem(RSA_KEY)), None),
        (TokenSettings(private_key=pem(ED_KEY)), None),
    ],
    ids=str,
)
def test_a_weak_key_is_told(settings: TokenSettings, said: str | None) -> None:
    weakness = Tokens(settings).weakness
    assert weakness is None if said is None else said in (weakness or "")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (TokenSettings(secret="s" * 64), "no trusted key has this token's kid"),
        (TokenSettings(secret="s" * 64, key_id="first"), "The specified alg value is not allowed"),
        (TokenSettings(private_key=pem(ED_KEY)), "no trusted key has this token's kid"),
        (TokenSettings(private_key=pem(ED_KEY), key_id="first"), "The specified alg value is not allowed"),
        (TokenSettings(private_key=pem(RSA_KEY), key_id="first"), None),
    ],
    ids=str,
)
async def test_a_key_that_the_key_set_lacks_is_told(settings: TokenSettings, said: str | None, tmp_path: Path) -> None:
    """What it signs is refused, so each task that outlives its first token would end."""
    assert await Tokens(settings).refusal_of_own() is None, "without a key set our own key verifies"
    path = tmp_path / "jwks.json"
    tokens = Tokens(replace(settings, trusted_jwks_url=str(path)))
    assert await tokens.refusal_of_own() is None, "nobody knows"
    write_key_set(path, ("first", RSA_KEY))
    await tokens.trusted_key_ids()
    assert await tokens.refusal_of_own() == said


async def test_who_asks_is_not_to_blame_for_a_key_set_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can say whether the key is trusted: a 403 would end a task that runs, whose token is good."""
    monkeypatch.setattr(key_set, "JWKS_PAUSE", -1.0)
    path = tmp_path / "jwks.json"
    tokens = Tokens(TokenSettings(secret="s" * 64, trusted_jwks_url=str(path)))
    first = jwt.encode(claims(), RSA_KEY, "RS256", headers={"kid": "first"})
    second = jwt.encode(claims(), ED_KEY, "EdDSA", headers={"kid": "second"})
    with pytest.raises(KeySetUnavailable):
        await tokens.verify(first)
    write_key_set(path, ("first", RSA_KEY))
    assert (await tokens.verify(first)).id == SUBJECT
    with pytest.raises(RefusedRequest):  # it was read, and the key is not in it
        await tokens.verify(second)
    path.unlink()
    with pytest.raises(KeySetUnavailable):
        await tokens.verify(second)
    write_key_set(path, ("first", RSA_KEY), ("second", ED_KEY))
    assert (await tokens.verify(second)).id == SUBJECT


@pytest.mark.parametrize(
    "changed",
    [{"exp": 1}, {"exp": None}, {"iat": None}, {"aud": None}, {"aud": "x"}, {"nbf": 2**40}, {"iss": "them"}, {"iss": None}],
    ids=str,
)
async def test_claims_that_do_not_verify(changed: dict[str, Any]) -> None:
    tokens = Tokens(TokenSettings(secret="s" * 64, issuers=("us",)))
    assert (await tokens.verify(jwt.encode(claims(iss="us"), "s" * 64, "HS512"))).id == SUBJECT
    with pytest.raises(RefusedRequest) as refused:
        await tokens.verify(jwt.encode(claims(**{"iss": "us", **changed}), "s" * 64, "HS512"))
    assert (refused.value.status, refused.value.detail) == (403, "Invalid auth token")


async def test_leeway_covers_clocks_that_differ() -> None:
    just_expired = jwt.encode(claims(exp=int(time.time()) - 5), "s" * 64, "HS512")
    assert (await Tokens(TokenSettings(secret="s" * 64)).verify(just_expired)).id == SUBJECT
    with pytest.raises(RefusedRequest):
        await Tokens(TokenSettings(secret="s" * 64, leeway=1.0)).verify(just_expired)


async def test_a_verified_token_is_not_trusted_beyond_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens(TokenSettings(secret="s" * 64, leeway=0.0))
    encoded = jwt.encode(claims(), "s" * 64, "HS512")
    await tokens.verify(encoded)
    decoded = []
    monkeypatch.setattr(tokens, "_decoded", lambda encoded: decoded.append(encoded) or claims_later())
    await tokens.verify(encoded)
    assert decoded == []
    later = time.time() + 61
    monkeypatch.setattr(auth.time, "time", lambda: later)
    with pytest.raises(RefusedRequest):
        await tokens.verify(encoded)
    assert decoded == [encoded]


async def claims_later() -> dict[str, Any]:
    raise jwt.ExpiredSignatureError


async def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "VERIFIED_TOKENS", 2)
    tokens = Tokens(TokenSettings(secret="s" * 64))
    for _ in range(5):
        await tokens.verify(jwt.encode(claims(jti=uuid.uuid4().hex), "s" * 64, "HS512"))
    assert len(tokens._verified) == 2


@pytest.mark.parametrize(
    ("lifetime", "left", "refresh"),
    [(600, 121, False), (600, 120, True), (3600, 721, False), (3600, 720, True), (60, 31, False), (60, 30, True)],
)
def test_refresh_in_the_last_fifth_and_at_least_30_seconds(lifetime: int, left: int, refresh: bool) -> None:
    token = TaskToken(SUBJECT, "execution", issued=1000, expires=1000 + lifetime, others={})
    assert token.needs_refresh(1000 + lifetime - left) is refresh


def test_a_refreshed_token_keeps_what_the_old_one_said() -> None:
    tokens = Tokens(TokenSettings(secret="s" * 64, valid_for=77))
    minted = tokens.mint({"sub": str(SUBJECT), "scope": "execution", "custom": 1, "jti": "old", "exp": 5})
    decoded = jwt.decode(minted, "s" * 64, ["HS512"], audience="urn:airflow.apache.org:task")
    assert (decoded["sub"], decoded["custom"], decoded["exp"] - decoded["iat"]) == (str(SUBJECT), 1, 77)
    assert decoded["jti"] != "old"


def test_a_key_file_that_is_no_key_is_named() -> None:
    with pytest.raises(ConfigurationError, match="jwt_private_key_path"):
        Tokens(TokenSettings(private_key=b"not a key"))


async def test_trusted_jwks_by_url(tmp_path: Path) -> None:
    write_key_set(tmp_path / "jwks.json", ("first", RSA_KEY))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            good = Tokens(TokenSettings(secret="s" * 64, trusted_jwks_url=f"{url}/jwks.json"))
            encoded = jwt.encode(claims(), RSA_KEY, "RS256", headers={"kid": "first"})
            assert (await good.verify(encoded)).id == SUBJECT
            missing = Tokens(TokenSettings(secret="s" * 64, trusted_jwks_url=f"{url}/nowhere.json"))
            with pytest.raises(KeySetUnavailable):
                await missing.verify(encoded)
        finally:
            server.shutdown()


async def test_who_comes_while_the_key_set_is_read_waits_for_it(tmp_path: Path) -> None:
    """After a start, and after a rotation, many ask at once with a key that is not known yet."""
    os.mkfifo(path := tmp_path / "jwks.json")  # whoever reads it waits for a writer
    tokens = Tokens(TokenSettings(secret="s" * 64, trusted_jwks_url=str(path)))
    encoded = [jwt.encode(claims(jti=str(each)), RSA_KEY, "RS256", headers={"kid": "first"}) for each in range(10)]
    asking = [asyncio.create_task(tokens.verify(each)) for each in encoded]
    await asyncio.to_thread(write_key_set, path, ("first", RSA_KEY))
    assert {token.id for token in await asyncio.gather(*asking)} == {SUBJECT}


async def test_a_file_that_hangs_costs_one_thread_and_no_more_than_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_set, "JWKS_PAUSE", -1.0)
    monkeypatch.setattr(key_set, "JWKS_TIMEOUT", 0.2)
    os.mkfifo(path := tmp_path / "jwks.json")
    tokens = Tokens(TokenSettings(secret="s" * 64, trusted_jwks_url=str(path)))
    encoded = jwt.encode(claims(), RSA_KEY, "RS256", headers={"kid": "first"})
    async with asyncio.timeout(20):
        for _ in range(3):
            with pytest.raises(KeySetUnavailable):
                await tokens.verify(encoded)
    assert tokens._key_set is not None
    reading = tokens._key_set._reading
    assert reading is not None
    assert not reading.done()
    await asyncio.to_thread(write_key_set, path, ("first", RSA_KEY))  # it was the only one, and is heard in the end
    await reading
    assert (await tokens.verify(encoded)).id == SUBJECT


@pytest.mark.parametrize("trickles", [False, True], ids=["silent", "trickles"])
async def test_a_key_set_that_does_not_come_to_its_end(trickles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header now and then is no answer: an HTTP client's own time-out begins anew with each of them."""
    monkeypatch.setattr(key_set, "JWKS_TIMEOUT", 0.5)

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        with suppress(ConnectionError):
            while trickles and not writer.is_closing():
                writer.write(b"X-More: x\r\n")
                await writer.drain()
                await asyncio.sleep(0.05)
        await left.wait()
        writer.close()

    left = asyncio.Event()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    tokens = Tokens(TokenSettings(secret="s" * 64, trusted_jwks_url=url))
    try:
        async with asyncio.timeout(20):
            with pytest.raises(KeySetUnavailable):
                await tokens.verify(jwt.encode(claims(), RSA_KEY, "RS256", headers={"kid": "first"}))
    finally:
        left.set()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("settings", "algorithm"),
    [
        (TokenSettings(secret="s" * 64, algorithms=("RS256", "HS256")), "HS256"),
        (TokenSettings(private_key=pem(RSA_KEY), algorithms=("HS512", "EdDSA", "PS256")), "PS256"),
        (TokenSettings(private_key=pem(ED_KEY), algorithms=("RS256", "EdDSA")), "EdDSA"),
        (TokenSettings(secret="s" * 64, algorithms=("RS256", "EdDSA")), None),
        (TokenSettings(private_key=pem(RSA_KEY), algorithms=("HS512",)), None),
        (TokenSettings(private_key=pem(ED_KEY), algorithms=("RS256",)), None),
    ],
    ids=str,
)
def test_tokens_are_signed_with_an_algorithm_that_the_key_is_for(settings: TokenSettings, algorithm: str | None) -> None:
    """One that it is not for could not sign anything: every request near a token's end would be a 500."""
    if algorithm is None:
        with pytest.raises(ConfigurationError, match="jwt_algorithm lists"):
            Tokens(settings)
    else:
        assert jwt.get_unverified_header(Tokens(settings).mint({"sub": str(SUBJECT)}))["alg"] == algorithm
