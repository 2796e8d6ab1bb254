"""Task tokens: verified once at the door, renewed near their end.

A token is a JWT whose ``sub`` is a task instance's id. Its ``scope`` is ``execution`` (the default) or ``workload``: the
long-lived token that an executor sends along with a queued task, which only ``/run`` takes and swaps. Keys, algorithms
and claims follow Airflow's ``[api_auth]`` and ``[execution_api]`` settings.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from fastapi import Request
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm
from jwt.utils import base64url_encode

from app.errors import ConfigurationError, RefusedRequest
from app.settings import TokenSettings

log = structlog.get_logger(__name__)

EXECUTION, WORKLOAD = "execution", "workload"
SCOPES = (EXECUTION, WORKLOAD)
REFRESH_HEADER = "Refreshed-API-Token"
REFRESH_SHARE = 0.2  # renew inside the last fifth of a token's life ...
REFRESH_SECONDS = 30  # ... or inside its last 30 s: at least six heartbeats of 5 s to pass the new one on
VERIFIED_TOKENS = 2_000  # about 1 KiB each; a worker process serves fewer tasks at a time
EVERY_TOKENS = frozenset({"sub", "scope", "aud", "iss", "iat", "nbf", "exp", "jti"})
NO_OTHERS: Mapping[str, Any] = {}
JWKS_LIFETIME = 3600.0  # seconds until a fetched key set is fetched again
JWKS_PAUSE = 10.0  # seconds between two fetches for an unknown key id, so that garbage cannot make us hammer the URL


@dataclass(frozen=True, slots=True)
class TaskToken:
    """A verified token.

    :param id: the task instance that it speaks for.
    :param scope: ``execution`` or ``workload``.
    :param issued: when it was signed, in seconds since the epoch.
    :param expires: when it ends, the same.
    :param others: its claims beyond those that every token has, which its successor keeps.
    """

    id: uuid.UUID
    scope: str
    issued: int
    expires: int
    others: Mapping[str, Any]

    @property
    def claims(self) -> dict[str, Any]:
        """What a token that follows this one says, but for what is set anew (see :meth:`Tokens.mint`)."""
        return {**self.others, "sub": str(self.id), "scope": self.scope}

    def needs_refresh(self, now: float) -> bool:
        """Say whether this token is near its end at ``now``, in seconds since the epoch."""
        lifetime = self.expires - self.issued
        return self.expires - int(now) <= max(int(lifetime * REFRESH_SHARE), REFRESH_SECONDS)


class KeySet:
    """The trusted public keys of ``[api_auth] trusted_jwks_url``: a URL or a file, read again for an unknown key id."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched = self._attempted = float("-inf")
        self._fetching = asyncio.Lock()

    async def get(self, key_id: str) -> jwt.PyJWK:
        """Return the key ``key_id``.

        :raises jwt.InvalidTokenError: when it is in no key set that we could read.
        """
        now = time.monotonic()
        stale = now - self._fetched > JWKS_LIFETIME
        if (stale or key_id not in self._keys) and (not self._keys or now - self._attempted > JWKS_PAUSE):
            async with self._fetching:
                if self._attempted <= now:
                    await self._fetch()
        if key_id not in self._keys:
            raise jwt.InvalidTokenError("no trusted key has this token's kid")
        return self._keys[key_id]

    async def _fetch(self) -> None:
        import httpx  # most deployments have no key set, and need not hold an HTTP client for it

        self._attempted = time.monotonic()
        try:
            if self._url.startswith(("http://", "https://")):
                async with httpx.AsyncClient(timeout=3.0) as client:  # within the 5 s that our own client waits
                    document = (await client.get(self._url)).raise_for_status().json()
            else:
                document = json.loads(await asyncio.to_thread(Path(self._url).read_text))
            keys = jwt.PyJWKSet.from_dict(document).keys
        except (OSError, ValueError, httpx.HTTPError, jwt.PyJWTError) as error:
            log.warning("trusted_jwks_url could not be read", url=self._url, error=repr(error))
            return
        self._keys = {key.key_id: key for key in keys if key.key_id}
        self._fetched = self._attempted


class Tokens:
    """Verifies and mints the task tokens of one deployment.

    :param settings: keys, algorithms, issuers and audiences.
    :raises ConfigurationError: when the private key cannot be used.
    """

    def __init__(self, settings: TokenSettings) -> None:
        self.settings = settings
        self._verified: OrderedDict[str, TaskToken] = OrderedDict()
        self._key_set = KeySet(settings.trusted_jwks_url) if settings.trusted_jwks_url else None
        self._private_key = _load_private_key(settings.private_key)
        self._required = ["aud", "exp", "iat", *(["iss"] if settings.issuers else [])]

    async def verify(self, encoded: str) -> TaskToken:
        """Return the verified token; a token verified before is not verified again until it expires.

        :param encoded: the JWT as it came.
        :raises RefusedRequest: 403, when it does not verify or does not name a task instance.
        """
        if (token := self._verified.get(encoded)) is not None:
            if time.time() < token.expires + self.settings.leeway:
                return token
            del self._verified[encoded]
        try:
            claims = await self._decode(encoded)
        except jwt.PyJWTError as error:
            log.warning("token refused", error=str(error))
            raise RefusedRequest(403, "Invalid auth token") from error
        token = _task_token(claims)
        self._verified[encoded] = token
        if len(self._verified) > VERIFIED_TOKENS:
            self._verified.popitem(last=False)
        return token

    def mint(self, claims: Mapping[str, Any], *, valid_for: int | None = None) -> str:
        """Return a fresh token with ``claims``, its times, id, audience and issuer set anew.

        :param claims: ``sub``, ``scope`` and whatever else the token shall keep.
        :param valid_for: seconds; ``[execution_api] jwt_expiration_time`` by default.
        """
        now = int(time.time())
        fresh = {
            "jti": uuid.uuid4().hex,
            "aud": self.settings.audiences[0],
            "nbf": now,
            "iat": now,
            "exp": now + (self.settings.valid_for if valid_for is None else valid_for),
        }
        if self.settings.issuers:
            fresh["iss"] = self.settings.issuers[0]
        key: Any = self._private_key or self.settings.secret
        return jwt.encode({**claims, **fresh}, key, algorithm=self._signing_algorithm, headers={"kid": self._signing_key_id})

    async def _decode(self, encoded: str) -> dict[str, Any]:
        key: Any
        algorithms = list(self.settings.algorithms)
        if self._key_set:
            key_id = jwt.get_unverified_header(encoded).get("kid")
            if not isinstance(key_id, str):
                raise jwt.InvalidTokenError("the token's header has no kid")
            found = await self._key_set.get(key_id)
            key, algorithms = found.key, algorithms or [found.algorithm_name]
        elif self._private_key:
            key, algorithms = self._private_key.public_key(), algorithms or [self._signing_algorithm]
        else:
            key, algorithms = self.settings.secret, algorithms or ["HS512"]
        return jwt.decode(
            encoded,
            key,
            algorithms=algorithms,
            audience=list(self.settings.audiences),
            issuer=list(self.settings.issuers) or None,
            leeway=self.settings.leeway,
            options={"require": self._required},
        )

    @cached_property
    def _signing_algorithm(self) -> str:
        if self.settings.algorithms:
            return self.settings.algorithms[0]
        if self._private_key is None:
            return "HS512"
        return "RS256" if isinstance(self._private_key, RSAPrivateKey) else "EdDSA"

    @cached_property
    def _signing_key_id(self) -> str:
        """The configured key id, or the key's RFC 7638 thumbprint, computed the way Airflow does."""
        if self.settings.key_id:
            return self.settings.key_id
        if self._private_key is None:
            return "not-used"
        if isinstance(self._private_key, RSAPrivateKey):
            jwk = RSAAlgorithm(RSAAlgorithm.SHA256).to_jwk(self._private_key.public_key(), as_dict=True)
        elif isinstance(self._private_key, Ed25519PrivateKey):
            jwk = OKPAlgorithm().to_jwk(self._private_key.public_key(), as_dict=True)
        else:
            return "not-used"
        digest = Hash(SHA256())
        digest.update(json.dumps(jwk, separators=(",", ":"), sort_keys=True).encode())
        return base64url_encode(digest.finalize()).decode()


async def authenticate(request: Request) -> TaskToken:
    """Verify the request's token once and keep it on the scope, where whoever asks again and the refresh find it.

    :raises RefusedRequest: 401 without a bearer token, 403 with one that does not verify.
    """
    scope = request.scope
    known: TaskToken | None = scope.get("token")
    if known is not None:
        return known
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not credentials:
        raise RefusedRequest(401, "Missing auth token")
    token: TaskToken = await request.app.state.service.tokens.verify(credentials.strip())
    scope["token"] = token
    return token


async def execution_token(request: Request) -> TaskToken:
    """Require a token of scope ``execution``."""
    return _require_scope(await authenticate(request), (EXECUTION,))


async def own_execution_token(request: Request) -> TaskToken:
    """Require a token of scope ``execution`` whose subject is the task instance in the path."""
    return _require_self(request, _require_scope(await authenticate(request), (EXECUTION,)))


async def own_run_token(request: Request) -> TaskToken:
    """Require the token of the task instance in the path, of a scope that may start it."""
    accepted = SCOPES if request.app.state.service.revision.workload_tokens else (EXECUTION,)
    return _require_self(request, _require_scope(await authenticate(request), accepted))


async def own_connection_test_token(request: Request) -> TaskToken:
    """Require the workload token of the connection test in the path."""
    token = _require_scope(await authenticate(request), (WORKLOAD,))
    if str(token.id) != request.path_params["connection_test_id"]:
        raise RefusedRequest(403, "Token subject does not match connection test ID")
    return token


# What each requires beyond a token that verifies, in the words of the released documents.
REQUIREMENTS: Mapping[Any, tuple[str, ...]] = {
    execution_token: (),
    own_execution_token: ("ti:self",),
    own_run_token: ("ti:self", "token:execution", "token:workload"),
    own_connection_test_token: ("ct:self", "token:workload"),
}


def _require_scope(token: TaskToken, accepted: tuple[str, ...]) -> TaskToken:
    if token.scope not in accepted:
        raise RefusedRequest(
            403, f"Token type '{token.scope}' not allowed for this endpoint. Allowed types: {', '.join(accepted)}"
        )
    return token


def _require_self(request: Request, token: TaskToken) -> TaskToken:
    if str(token.id) != request.path_params["task_instance_id"]:
        raise RefusedRequest(403, "Token subject does not match task instance ID")
    return token


def _task_token(claims: dict[str, Any]) -> TaskToken:
    scope = claims.get("scope", EXECUTION)
    if scope not in SCOPES:
        raise RefusedRequest(403, f"Invalid token scope: {scope}")
    others = {name: value for name, value in claims.items() if name not in EVERY_TOKENS} or NO_OTHERS
    times = {"issued": int(claims["iat"]), "expires": int(claims["exp"])}
    try:
        return TaskToken(id=uuid.UUID(claims["sub"]), scope=sys.intern(scope), **times, others=others)
    except (KeyError, ValueError, AttributeError, TypeError):
        raise RefusedRequest(403, "Invalid auth token: its sub is not a task instance's id") from None


def _load_private_key(pem: bytes | None) -> Any:
    if pem is None:
        return None
    try:
        return load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError("[api_auth] jwt_private_key_path is not a PEM private key without a password") from error
