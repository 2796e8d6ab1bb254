"""Times on the wire to PostgreSQL.

asyncpg's own codec sends the first and the last moment of Python's calendar as PostgreSQL's infinities. psycopg 3, which
Airflow offers too, cannot read those back, so such a row would end the processes of Airflow's that come across it. Here
every moment is sent as itself.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # where PostgreSQL counts microseconds from
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


async def send_moments_as_they_are(connection: asyncpg.Connection) -> None:
    """Give a connection this module's codec; that asks the server nothing."""
    await connection.set_type_codec("timestamptz", schema="pg_catalog", encoder=_encoded, decoder=_decoded, format="tuple")


def _encoded(moment: datetime) -> tuple[int]:
    since = moment - EPOCH
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds,)


def _decoded(wire: tuple[int]) -> datetime:
    (microseconds,) = wire
    try:
        return EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:  # an infinity, or a year that Python does not have
        return _LAST if microseconds > 0 else _FIRST
