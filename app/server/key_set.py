"""The public keys that an operator trusts, as they are published."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import jwt
import structlog

log = structlog.get_logger(__name__)

JWKS_LIFETIME = 60.0  # seconds until the key set is read again: so long may a key be used that was taken back
JWKS_PAUSE = 10.0  # seconds between two readings, so that garbage cannot make us hammer the URL


class KeySet:
    """The trusted public keys of ``[api_auth] trusted_jwks_url``: a URL or a file.

    It is read again after :data:`JWKS_LIFETIME`, beside the requests that go on with the keys that are known; for a key id
    that is not known, and before a token near its end is renewed, which wait for it. What cannot be read changes nothing.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str, jwt.PyJWK] = {}
        self._entries: dict[str, Any] = {}  # what the keys were made from: one that is the same stays the same object
        self._fetched = self._attempted = float("-inf")
        self._fetching = asyncio.Lock()
        self._beside: asyncio.Task[None] | None = None

    async def get(self, key_id: str) -> jwt.PyJWK:
        """Return the key ``key_id``.

        :raises jwt.InvalidTokenError: when it is in no key set that we could read.
        """
        if key_id not in self._keys:
            await self._read_again()
        if key_id not in self._keys:
            raise jwt.InvalidTokenError("no trusted key has this token's kid")
        return self._keys[key_id]

    async def still_trusts(self, key: jwt.PyJWK, *, for_renewal: bool) -> bool:
        """Say whether a key that verified a token before would do so now.

        :param for_renewal: whether to look at once, since what follows outlives the key.
        """
        if for_renewal:
            await self._read_again()
        elif time.monotonic() - self._fetched > JWKS_LIFETIME and (self._beside is None or self._beside.done()):
            self._beside = asyncio.create_task(self._read_again())
        return self.has(key)

    async def read(self) -> frozenset[str]:
        """Read the keys now, and return the ids of those that can be used; none if they cannot be read."""
        await self._fetch()
        return frozenset(self._keys)

    def has(self, key: jwt.PyJWK) -> bool:
        """Say whether a key is among those that were read last."""
        return self._keys.get(key.key_id or "") is key

    async def _read_again(self) -> None:
        """Read the keys, unless that was tried a moment ago."""
        now = time.monotonic()
        if now - self._attempted > JWKS_PAUSE:
            async with self._fetching:
                if self._attempted <= now:
                    await self._fetch()

    async def _fetch(self) -> None:
        import httpx  # most deployments have no key set, and need not hold an HTTP client for it

        self._attempted = time.monotonic()
        try:
            if self._url.startswith(("http://", "https://")):
                async with httpx.AsyncClient(timeout=3.0) as client:  # within the 5 s that our own client waits
                    document = (await client.get(self._url)).raise_for_status().json()
            else:
                document = json.loads(await asyncio.to_thread(Path(self._url).read_text))
            entries = {entry["kid"]: entry for entry in document["keys"] if isinstance(entry.get("kid"), str)}
        except Exception as error:  # whatever a file, a network or what they hold makes a library raise
            log.warning("trusted_jwks_url could not be read", error=type(error).__name__)
            return
        keys = {kid: self._key(kid, entry) for kid, entry in entries.items()}
        self._keys, self._entries = {kid: key for kid, key in keys.items() if key is not None}, entries
        self._fetched = self._attempted

    def _key(self, key_id: str, entry: Any) -> jwt.PyJWK | None:
        """Return the key of an entry, or None for one that we cannot use; the others are not lost with it."""
        if self._entries.get(key_id) == entry:
            return self._keys.get(key_id)
        try:
            return jwt.PyJWK(entry)
        except Exception as error:  # PyJWT's, cryptography's, or any that a malformed entry causes in them
            log.warning("a key of trusted_jwks_url cannot be used", error=type(error).__name__)
            return None
