"""Tokens like one that PyJWT has verified: signed with the secret, the same header, claims of the usual types.

A task has a token of its own, so who begins or ends something often brings a new one, and PyJWT takes a sixth of what a
small operation costs. What is not accepted here is PyJWT's to judge: every refusal is its own, and nothing is accepted that
it would refuse (decision 37).
"""

from __future__ import annotations

import hmac
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection
from typing import Any

import jwt

from app.settings import TokenSettings

HASHES = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}  # by algorithm
MOST = 16  # headers; a signer has one


class FamiliarTokens:
    """Those of one secret.

    :param required: the claims that each must have.
    """

    def __init__(self, settings: TokenSettings, *, secret: str, required: Collection[str]) -> None:
        self._secret = secret.encode()
        self._settings = settings
        self._required = required
        self._hashes: dict[bytes, str] = {}  # by a token's header, as it is encoded

    def learn(self, encoded: str) -> None:
        """Take the header of a token that PyJWT has verified with the secret for a good one."""
        if len(self._hashes) < MOST and (algorithm := jwt.get_unverified_header(encoded)["alg"]) in HASHES:
            self._hashes[encoded.encode().partition(b".")[0]] = HASHES[algorithm]

    def claims(self, encoded: str) -> dict[str, Any] | None:
        """Return the claims of a token that is beyond doubt, else None."""
        signed, _, signature = encoded.encode().rpartition(b".")
        header, _, payload = signed.partition(b".")
        if (name := self._hashes.get(header)) is None:
            return None
        if not hmac.compare_digest(_encoded(hmac.digest(self._secret, signed, name)), signature):
            return None
        try:
            text = urlsafe_b64decode(payload + b"=" * (-len(payload) % 4))
            found = json.loads(text)
        except (ValueError, RecursionError):
            return None
        return found if _encoded(text) == payload and isinstance(found, dict) and self._are_good(found) else None

    def _are_good(self, claims: dict[str, Any]) -> bool:
        now, leeway = time.time(), self._settings.leeway
        issued, expires, begins = (claims.get(name, 0) for name in ("iat", "exp", "nbf"))
        return (
            all(claims.get(name) is not None for name in self._required)
            and type(issued) is type(expires) is type(begins) is int
            and issued <= now + leeway
            and begins <= now + leeway
            and expires > now - leeway
            and claims["aud"] in self._settings.audiences
            and (not self._settings.issuers or claims["iss"] in self._settings.issuers)
            and type(claims.get("sub", "")) is type(claims.get("jti", "")) is str
        )


def _encoded(value: bytes) -> bytes:
    return urlsafe_b64encode(value).rstrip(b"=")
