"""The public keys that an operator trusts, as they are published."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import jwt
import structlog

from app.errors import KeySetUnavailable

log = structlog.get_logger(__name__)

JWKS_LIFETIME = 60.0  # seconds until the key set is read again: so long may a key be used that was taken back
JWKS_PAUSE = 10.0  # seconds between two readings, so that garbage cannot make us hammer the URL
JWKS_TIMEOUT = 3.0  # seconds for a whole reading, however it is spread: within the 5 s that our own client waits


class KeySet:
    """The trusted public keys of ``[api_auth] trusted_jwks_url``: a URL or a file.

    It is read again after :data:`JWKS_LIFETIME`, beside the requests that go on with the keys that are known; for a key id
    that is not known, and before a token near its end is renewed, which wait for it. What cannot be read changes nothing.

    One reading is under way at most: a file system that hangs costs one thread, and nobody waits for it for longer.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str, jwt.PyJWK] = {}
        self._entries: dict[str, Any] = {}  # what the keys were made from: one that is the same stays the same object
        self._fetched = self._attempted = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def get(self, key_id: str) -> jwt.PyJWK:
        """Return the key ``key_id``.

        :raises KeySetUnavailable: when it is not known, and the key set could not be read: who asks is not to blame.
        :raises jwt.InvalidTokenError: when it is in no key set.
        """
        if key_id not in self._keys:
            await self._read_again()
        if (key := self._keys.get(key_id)) is not None:
            return key
        if self._fetched < self._attempted:
            raise KeySetUnavailable
        raise jwt.InvalidTokenError("no trusted key has this token's kid")

    async def still_trusts(self, key: jwt.PyJWK, *, for_renewal: bool) -> bool:
        """Say whether a key that verified a token before would do so now.

        :param for_renewal: whether to look at once, since what follows outlives the key.
        """
        if for_renewal:
            await self._read_again()
        elif time.monotonic() - self._fetched > JWKS_LIFETIME:
            self._begin_reading()
        return self.has(key)

    async def read(self) -> frozenset[str]:
        """Read the keys now, and return the ids of those that can be used; none if they cannot be read."""
        await self._read()
        return frozenset(self._keys)

    def has(self, key: jwt.PyJWK) -> bool:
        """Say whether a key is among those that were read last."""
        return self._keys.get(key.key_id or "") is key

    def _begin_reading(self) -> None:
        """Read the keys beside whoever asks, unless that was begun a moment ago or is under way."""
        if (self._reading is None or self._reading.done()) and time.monotonic() - self._attempted > JWKS_PAUSE:
            self._attempted = time.monotonic()
            self._reading = asyncio.create_task(self._read())

    async def _read_again(self) -> None:
        """Read the keys likewise, and wait for them; also for a reading that somebody else has begun."""
        self._begin_reading()
        left = self._attempted + JWKS_TIMEOUT - time.monotonic()
        if self._reading is not None and not self._reading.done() and left > 0:
            await asyncio.wait([self._reading], timeout=left)

    async def _read(self) -> None:
        self._attempted = time.monotonic()
        try:
            document = json.loads(await self._document())
            entries = {entry["kid"]: entry for entry in document["keys"] if isinstance(entry.get("kid"), str)}
        except Exception as error:  # whatever a file, a network or what they hold makes a library raise
            log.warning("trusted_jwks_url could not be read", error=type(error).__name__)
            return
        keys = {kid: self._key(kid, entry) for kid, entry in entries.items()}
        self._keys, self._entries = {kid: key for kid, key in keys.items() if key is not None}, entries
        self._fetched = self._attempted

    async def _document(self) -> str | bytes:
        if not self._url.startswith(("http://", "https://")):
            return await asyncio.to_thread(Path(self._url).read_text)
        import httpx  # most deployments have no key set, and need not hold an HTTP client for it

        # All of it has a bound: httpx' own begins anew with each piece of an answer.
        async with asyncio.timeout(JWKS_TIMEOUT), httpx.AsyncClient() as client:
            return (await client.get(self._url)).raise_for_status().content

    def _key(self, key_id: str, entry: Any) -> jwt.PyJWK | None:
        """Return the key of an entry, or None for one that we cannot use; the others are not lost with it."""
        if self._entries.get(key_id) == entry:
            return self._keys.get(key_id)
        try:
            return jwt.PyJWK(entry)
        except Exception as error:  # PyJWT's, cryptography's, or any that a malformed entry causes in them
            log.warning("a key of trusted_jwks_url cannot be used", error=type(error).__name__)
            return None
