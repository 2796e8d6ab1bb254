from __future__ import annotations

import json
import threading
import time
import uuid
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm

from app.errors import ConfigurationError, RefusedRequest
from app.server import auth
from app.server.auth import TaskToken, Tokens
from app.settings import TokenSettings

SUBJECT = uuid.uuid4()
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def pem(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


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


async def test_trusted_jwks_is_read_again_for_an_unknown_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "jwks.json"
    write_key_set(path, ("first", RSA_KEY))
    tokens = Tokens(TokenSettings(secret="s" * 64, trusted_jwks_url=str(path)))
    assert (await tokens.verify(jwt.encode(claims(), RSA_KEY, "RS256", headers={"kid": "first"}))).id == SUBJECT
    second = jwt.encode(claims(), ED_KEY, "EdDSA", headers={"kid": "second"})
    write_key_set(path, ("first", RSA_KEY), ("second", ED_KEY))
    with pytest.raises(RefusedRequest):  # so soon after the last reading, nobody makes us read again
        await tokens.verify(second)
    monkeypatch.setattr(auth, "JWKS_PAUSE", 0.0)
    assert (await tokens.verify(second)).id == SUBJECT


async def test_trusted_jwks_that_cannot_be_read_refuses(tmp_path: Path) -> None:
    tokens = Tokens(TokenSettings(secret="s" * 64, trusted_jwks_url=str(tmp_path / "nowhere.json")))
    with pytest.raises(RefusedRequest) as refused:
        await tokens.verify(jwt.encode(claims(), RSA_KEY, "RS256", headers={"kid": "first"}))
    assert refused.value.status == 403


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
    monkeypatch.setattr(tokens, "_decode", lambda encoded: decoded.append(encoded) or claims_later())
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
            with pytest.raises(RefusedRequest):
                await missing.verify(encoded)
        finally:
            server.shutdown()
