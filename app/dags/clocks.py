"""Wall clocks: what a serialized time zone is, and which moment a clock's time means where it is put forward or back."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from app.errors import UnknownInDag


class UnknownZone(UnknownInDag):
    """A time zone that is not known here; the message names it."""


def zone(encoded: Any) -> tzinfo:
    """Return a time zone, serialized by name or as its offset in seconds.

    :raises UnknownZone: when this machine's database of time zones does not have it.
    """
    try:
        return ZoneInfo(encoded) if isinstance(encoded, str) else timezone(timedelta(seconds=encoded))
    except (LookupError, ValueError, OSError, TypeError) as error:  # OSError: a folder of the database, such as "Europe"
        raise UnknownZone(f"the time zone {encoded!r} is not known here") from error


def localized(naive: datetime, local: tzinfo) -> datetime:
    """Put a wall clock's time into its zone: the second of two that clocks show twice, an hour on for one they skip.

    :raises ValueError: when it has a zone already.
    """
    if naive.tzinfo is not None:
        raise ValueError(f"a time without an offset was expected, and {naive.isoformat()} has one")
    moment = naive.replace(tzinfo=local, fold=1)
    before, after = moment.replace(fold=0).utcoffset(), moment.utcoffset()
    assert before is not None
    assert after is not None
    return moment + (after - before) if after > before else moment
