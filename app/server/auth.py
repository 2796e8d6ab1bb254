"""Task tokens: verified once at the door, renewed near their end.

A token is a JWT whose ``sub`` is a task instance's id. Its ``scope`` is ``execution`` (the default) or ``workload``: the
long-lived token that an executor sends along with a queued task, which only ``/run`` takes and swaps. Keys, algorithms
and claims follow Airflow's ``[api_auth]`` and ``[execution_api]`` settings.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from fastapi import Request
from jwt.algorithms import OKPAlgorithm, RSAAlgorithm
from jwt.utils import base64url_encode

from app.errors import ConfigurationError, KeySetUnavailable, RefusedRequest
from app.server import metrics
from app.server.key_set import KeySet
from app.server.middleware import header
from app.settings import TokenSettings

log = structlog.get_logger(__name__)
warnings.filterwarnings("ignore", category=jwt.InsecureKeyLengthWarning)  # said once, by :attr:`Tokens.weakness`

EXECUTION, WORKLOAD, CALLBACK = "execution", "workload", "callback"
SCOPES = (EXECUTION, WORKLOAD, CALLBACK)
REFRESH_HEADER = "Refreshed-API-Token"
REFRESH_SHARE = 5  # renew inside the last fifth of a token's life ...
REFRESH_SECONDS = 30  # ... or inside its last 30 s: at least six heartbeats of 5 s to pass the new one on
VERIFIED_TOKENS = 2_000  # about 1 KiB each; a worker process serves fewer tasks at a time
EVERY_TOKENS = frozenset({"sub", "scope", "aud", "iss", "iat", "nbf", "exp", "jti"})
NO_OTHERS: Mapping[str, Any] = {}
SHORTEST_SECRETS = {"HS256": 32, "HS384": 48, "HS512": 64}  # bytes: a hash's own length (RFC 7518, 3.2)
SHORTEST_RSA = 2048  # bits (RFC 7518, 3.3)


@dataclass(frozen=True, slots=True)
class TaskToken:
    """A verified token.

    :param id: the task instance, connection test or callback that it speaks for.
    :param scope: one of :data:`SCOPES`.
    :param issued: when it was signed, in seconds since the epoch.
    :param expires: when it ends, the same.
    :param others: its claims beyond those that every token has, which its successor keeps.
    :param key: what verified it, if that is one of a key set: it may be taken back.
    """

    id: uuid.UUID
    scope: str
    issued: int
    expires: int
    others: Mapping[str, Any]
    key: jwt.PyJWK | None = None

    @property
    def claims(self) -> dict[str, Any]:
        """What a token that follows this one says, but for what is set anew (see :meth:`Tokens.mint`)."""
        return {**self.others, "sub": str(self.id), "scope": self.scope}

    def needs_refresh(self, now: float) -> bool:
        """Say whether this token is near its end at ``now``, in seconds since the epoch."""
        lifetime = self.expires - self.issued
        return self.expires - int(now) <= max(lifetime // REFRESH_SHARE, REFRESH_SECONDS)


class Tokens:
    """Verifies and mints the task tokens of one deployment.

    :param settings: keys, algorithms, issuers and audiences.
    :raises ConfigurationError: when the private key cannot be used, or with none of the algorithms.
    """

    def __init__(self, settings: TokenSettings) -> None:
        self.settings = settings
        self._verified: OrderedDict[str, TaskToken] = OrderedDict()
        self._key_set = KeySet(settings.trusted_jwks_url) if settings.trusted_jwks_url else None
        self._private_key = _load_private_key(settings.private_key)
        self._signing_algorithm = self._choose_algorithm()
        self._required = ["aud", "exp", "iat", *(["iss"] if settings.issuers else [])]

    async def verify(self, encoded: str) -> TaskToken:
        """Return the verified token; a token verified before is not verified again, until it expires or its key is gone.

        :param encoded: the JWT as it came.
        :raises RefusedRequest: 403, when it does not verify or does not name a task instance.
        :raises KeySetUnavailable: when its key is not known, and the key set cannot be read now.
        """
        if (token := self._verified.get(encoded)) is not None:
            if await self._is_still_good(token):
                return token
            self._verified.pop(encoded, None)
        try:
            token = await self._decoded(encoded)
        except RefusedRequest:
            metrics.TOKEN_REFUSALS.labels("claims").inc()
            raise
        except KeySetUnavailable:
            raise
        except Exception as error:  # PyJWT's own, or any that a stranger's token causes in it or in cryptography
            reason = type(error).__name__ if isinstance(error, jwt.PyJWTError) else "malformed"
            metrics.TOKEN_REFUSALS.labels(reason).inc()
            log.warning("token refused", reason=reason)
            raise RefusedRequest(403, "Invalid auth token") from error
        self._verified[encoded] = token
        if len(self._verified) > VERIFIED_TOKENS:
            self._verified.popitem(last=False)
        return token

    async def trusted_key_ids(self) -> frozenset[str]:
        """Return the ids of the keys of ``trusted_jwks_url``, as they are now; none if they cannot be read."""
        return await self._key_set.read() if self._key_set else frozenset()

    async def refusal_of_own(self) -> str | None:
        """Return why a token that we sign is refused; None if it is not, or if the key set cannot be read now.

        It is where the key set lacks our key, or all that we have is a secret. Airflow's own server says nothing of it, and
        refuses its own tokens.
        """
        try:
            await self._decoded(self.mint({"sub": str(uuid.UUID(int=0)), "scope": EXECUTION}))
        except KeySetUnavailable:
            return None
        except Exception as error:  # whatever a key that is not for its algorithm makes PyJWT raise
            return str(error)
        return None

    async def _is_still_good(self, token: TaskToken) -> bool:
        now = time.time()
        if now >= token.expires + self.settings.leeway:
            return False
        if token.key is None or self._key_set is None:
            return True
        return await self._key_set.still_trusts(token.key, for_renewal=token.needs_refresh(now))

    def renewed(self, token: TaskToken, now: float) -> str | None:
        """Return the successor of a token that is near its end, else None.

        Ours is signed with our own key, so a token whose key was taken back has none.

        :param token: as it was verified at the door.
        :param now: seconds since the epoch.
        """
        if token.scope != EXECUTION or not token.needs_refresh(now):
            return None
        if token.key is not None and self._key_set is not None and not self._key_set.has(token.key):
            return None
        return self.mint(token.claims)

    @property
    def weakness(self) -> str | None:
        """What is wrong with the key that tokens are signed with, though it can be used; None for nothing."""
        algorithm = self._signing_algorithm
        if self._private_key is None and self.settings.secret is not None:
            length, shortest = len(self.settings.secret.encode()), SHORTEST_SECRETS.get(algorithm, 0)
            if length < shortest:
                return f"[api_auth] jwt_secret has {length} bytes: {algorithm} needs {shortest} at least (RFC 7518, 3.2)"
        if isinstance(self._private_key, RSAPrivateKey) and self._private_key.key_size < SHORTEST_RSA:
            size = self._private_key.key_size
            return f"[api_auth] jwt_private_key_path has {size} bits: RSA needs {SHORTEST_RSA} at least (RFC 7518, 3.3)"
        return None

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

    async def _decoded(self, encoded: str) -> TaskToken:
        key: Any
        from_set: jwt.PyJWK | None = None
        algorithms = list(self.settings.algorithms)
        if self._key_set:
            key_id = jwt.get_unverified_header(encoded).get("kid")
            if not isinstance(key_id, str):
                raise jwt.InvalidTokenError("the token's header has no kid")
            from_set = await self._key_set.get(key_id)
            key, algorithms = from_set.key, algorithms or [from_set.algorithm_name]
        elif self._private_key:
            key, algorithms = self._private_key.public_key(), algorithms or [self._signing_algorithm]
        else:
            key, algorithms = self.settings.secret, algorithms or ["HS512"]
        claims = jwt.decode(
            encoded,
            key,
            algorithms=algorithms,
            audience=list(self.settings.audiences),
            issuer=list(self.settings.issuers) or None,
            leeway=self.settings.leeway,
            options={"require": self._required},
        )
        return _task_token(claims, from_set)

    def _choose_algorithm(self) -> str:
        """Return what tokens are signed with: of the algorithms that are listed, the first that our key is for.

        :raises ConfigurationError: when none is.
        """
        fitting = _algorithms_of(self._private_key)
        listed = self.settings.algorithms or fitting
        if (chosen := next((algorithm for algorithm in listed if algorithm in fitting), None)) is not None:
            return chosen
        setting = "jwt_secret" if self._private_key is None else "jwt_private_key_path"
        raise ConfigurationError(
            f"[api_auth] jwt_algorithm lists {', '.join(listed)}, none of which {setting} can sign with: tokens could not be"
            " renewed"
        )

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
    """Verify the request's token once and keep it on the scope, where whoever asks again finds it.

    The answer has a fresh one when it is near its end. That is decided here: verifying it again after the handler would lose
    the refresh of a token that expired in between (Airflow #67939). Tokens of other scopes have none; ``/run`` swaps them.

    :raises RefusedRequest: 401 without a bearer token, 403 with one that does not verify.
    """
    scope = request.scope
    known: TaskToken | None = scope.get("token")
    if known is not None:
        return known
    scheme, _, credentials = (header(scope, b"authorization") or b"").decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not credentials:
        metrics.TOKEN_REFUSALS.labels("missing").inc()
        raise RefusedRequest(401, "Missing auth token")
    tokens: Tokens = scope["app"].state.service.tokens
    token = scope["token"] = await tokens.verify(credentials.strip())
    if (renewed := tokens.renewed(token, time.time())) is not None:
        scope["added_headers"].append((REFRESH_HEADER.lower().encode(), renewed.encode()))
    return token


async def execution_token(request: Request) -> TaskToken:
    """Require a token of scope ``execution``."""
    return _require_scope(await authenticate(request), (EXECUTION,))


async def own_execution_token(request: Request) -> TaskToken:
    """Require a token of scope ``execution`` whose subject is the task instance in the path."""
    return _require_self(request, _require_scope(await authenticate(request), (EXECUTION,)))


async def own_run_token(request: Request) -> TaskToken:
    """Require the token of the task instance in the path, of a scope that may start it."""
    accepted = (EXECUTION, WORKLOAD) if request.app.state.service.revision.tasks.start_with_workload_tokens else (EXECUTION,)
    return _require_self(request, _require_scope(await authenticate(request), accepted))


async def own_connection_test_token(request: Request) -> TaskToken:
    """Require the workload token of the connection test in the path."""
    token = _require_scope(await authenticate(request), (WORKLOAD,))
    if str(token.id) != request.path_params["connection_test_id"]:
        raise RefusedRequest(403, "Token subject does not match connection test ID")
    return token


async def own_callback_token(request: Request) -> TaskToken:
    """Require the token of the callback in the path."""
    token = _require_scope(await authenticate(request), (CALLBACK,))
    if str(token.id) != request.path_params["callback_id"]:
        raise RefusedRequest(403, "Token subject does not match callback ID")
    return token


# What each requires beyond a token that verifies, in the words of the released documents.
REQUIREMENTS: Mapping[Any, tuple[str, ...]] = {
    execution_token: (),
    own_execution_token: ("ti:self",),
    own_run_token: ("ti:self", "token:execution", "token:workload"),
    own_connection_test_token: ("ct:self", "token:workload"),
    own_callback_token: ("cb:self", "token:callback"),
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


def _task_token(claims: dict[str, Any], key: jwt.PyJWK | None) -> TaskToken:
    scope = claims.get("scope", EXECUTION)
    if scope not in SCOPES:
        raise RefusedRequest(403, f"Invalid token scope: {scope}")
    others = {name: value for name, value in claims.items() if name not in EVERY_TOKENS} or NO_OTHERS
    times = {"issued": int(claims["iat"]), "expires": int(claims["exp"])}
    try:
        return TaskToken(id=uuid.UUID(claims["sub"]), scope=sys.intern(scope), **times, others=others, key=key)
    except (KeyError, ValueError, AttributeError, TypeError):
        raise RefusedRequest(403, "Invalid auth token: its sub is not a task instance's id") from None


def _algorithms_of(private_key: Any) -> tuple[str, ...]:
    """Return what a key signs with, the secret if it is None; first what is used where no algorithm is listed."""
    if private_key is None:
        return ("HS512", "HS256", "HS384")
    if isinstance(private_key, RSAPrivateKey):
        return ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
    if isinstance(private_key, EllipticCurvePrivateKey):
        return ("ES256", "ES384", "ES512", "ES521", "ES256K")
    return ("EdDSA",)


def _load_private_key(pem: bytes | None) -> Any:
    if pem is None:
        return None
    try:
        return load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError("[api_auth] jwt_private_key_path is not a PEM private key without a password") from error
