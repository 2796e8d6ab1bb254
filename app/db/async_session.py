"""SQLAlchemy's ``AsyncSession``, imported with the first transaction that needs it.

It brings the whole ORM, of which we use nothing: six MiB, and as much time as two hundred requests. A worker that only
reports how its tasks do, and reads and writes for them, never needs it.
"""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker


class Writing(AsyncSession):
    """A session inside one transaction: a :class:`~app.db.session.WriteSession`."""

    reads = writes = True


def maker(engine: Engine) -> async_sessionmaker[Writing]:
    """Return what opens sessions on the pool of an engine."""
    return async_sessionmaker(AsyncEngine(engine), class_=Writing, expire_on_commit=False, autoflush=False)
