"""SQLAlchemy's ``AsyncSession``, imported when the first report fails that is no fault of the database.

It brings the whole ORM, of which we use nothing: six MiB, and as much time as two hundred requests. A worker process in
which nothing is broken never needs it.
"""

from __future__ import annotations

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker


def maker(engine: Engine) -> async_sessionmaker[AsyncSession]:
    """Return what opens sessions on the pool of an engine."""
    return async_sessionmaker(AsyncEngine(engine), expire_on_commit=False, autoflush=False)
