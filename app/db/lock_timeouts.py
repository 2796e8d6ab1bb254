"""One line in the log that says who holds what a request could not have.

It is found out beside the requests, not by one: rarely, on a connection that is free, within a bound of its own.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any
from uuid import UUID

import structlog

from app.db.holders import Held, Picture, Place, holders_of, look
from app.db.session import Database
from app.errors import LockTimeout, RetryableDatabaseError

log = structlog.get_logger(__name__)

EVERY = 10.0  # seconds between two lines at least
WITHIN = 1.0  # seconds that finding out may take, all in all
LONGEST_STATEMENT = 500  # characters of a statement's shape


class LockTimeouts:
    """Tells who holds what; called with the error of each request that gave up, and returns at once.

    :param database: which one statement after the other is sent to, if not all of its connections are used.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._next = 0.0  # by the event loop's clock
        self._untold = 0
        self._task: asyncio.Task[None] | None = None
        self._has_told_of_privileges = False

    def __call__(self, error: LockTimeout) -> None:
        """Find out who holds what this error is about, unless that was just done."""
        now = asyncio.get_running_loop().time()
        if now < self._next or self._database.slots.used() >= self._database.settings.pool_size:
            self._untold += 1
            return
        self._next = now + EVERY
        # In the request's context: the line has its correlation id.
        self._task = asyncio.create_task(
            self._tell(Place.in_context(getattr(error.__cause__, "context", None)), error.ti_id)
        )

    async def _tell(self, place: Place | None, ti_id: UUID | None) -> None:
        with suppress(RetryableDatabaseError, TimeoutError):
            async with asyncio.timeout(WITHIN):
                picture = await self._picture(place, ti_id)
            untold, self._untold = self._untold, 0
            if picture.held:
                others = {"more_held": len(picture.held) - 1, "other_lock_timeouts": untold}
                log.warning("what a request needed is held", **_described(picture.held[0]), **others)
            else:
                table = place and place.table
                log.warning("what a request needed was held, and is no more", table=table, other_lock_timeouts=untold)
            if not picture.is_whole and not self._has_told_of_privileges:
                self._has_told_of_privileges = True
                log.warning("this role may not see what others' sessions do: grant it pg_read_all_stats")

    async def _picture(self, place: Place | None, ti_id: UUID | None) -> Picture:
        """Return who holds the row; where it is not known which, what has been held for as long as a request comes back."""
        if place is not None:
            return await holders_of(self._database, place)
        if ti_id is None:
            return await look(self._database, since=self._database.settings.lock_timeout)
        picture = await look(self._database, since=0.0)
        return replace(picture, held=tuple(held for held in picture.held if held.row.get("id") == str(ti_id)))


def _described(held: Held) -> dict[str, Any]:
    """Return the fields of a line: ids of Airflow's, and nobody's values."""
    holder = held.holders[0] if held.holders else None
    fields = {"kind": held.kind, "table": held.table, "row_id": held.row.get("id"), "waiting": len(held.waiting)}
    if holder is None:
        return fields
    return fields | {
        "holder": str(holder.component),
        "holder_pid": holder.pid,
        "holder_role": holder.role,
        "holder_client": holder.client,
        "holder_application": holder.application,
        "holder_state": holder.state,
        "holder_seconds": holder.in_transaction and round(holder.in_transaction, 1),
        "holder_statement": holder.statement[:LONGEST_STATEMENT],
        "more_holders": len(held.holders) - 1,
    }
