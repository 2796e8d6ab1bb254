"""Engines and pools: where READ COMMITTED, the timeouts and the PgBouncer switches are set, once."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import sqlalchemy
from sqlalchemy import Engine, event

from app.db.moments import send_moments_as_they_are
from app.settings import DatabaseSettings

APPLICATION_NAME = "execution-api"  # what pg_stat_activity shows
CONNECT_TIMEOUT = 3.0  # seconds; within the client's 5 s, so that a lost database is a 503 and no client time-out


def create_engine(settings: DatabaseSettings) -> Engine:
    """Return the engine of this process, which ``greenlet_spawn`` or an ``AsyncEngine`` runs; it connects on first use.

    READ COMMITTED is explicit: after a lock wait PostgreSQL must evaluate our WHERE again on the row's newest version.
    The pool never overflows: connections to PostgreSQL stay as many as configured, and it is used last in, first out, so
    that under little load the few warm connections do the work.
    """
    engine = sqlalchemy.create_engine(
        settings.url,
        isolation_level="READ COMMITTED",
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_recycle=settings.pool_recycle,
        pool_use_lifo=True,
        connect_args=_connect_arguments(settings),
        json_serializer=lambda value: json.dumps(value, ensure_ascii=False, allow_nan=False),
    )
    event.listen(engine, "connect", _prepare)
    if settings.pgbouncer:
        _set_timeouts_in_each_transaction(engine, settings)
    return engine


def _prepare(connection: Any, _: Any) -> None:
    connection.run_async(send_moments_as_they_are)


def timeouts(settings: DatabaseSettings) -> dict[str, str]:
    """Return the server settings that bound every wait, in milliseconds as PostgreSQL reads them."""
    return {
        "lock_timeout": str(round(settings.lock_timeout * 1000)),
        "statement_timeout": str(round(settings.statement_timeout * 1000)),
    }


def _connect_arguments(settings: DatabaseSettings) -> dict[str, Any]:
    arguments: dict[str, Any] = {"timeout": CONNECT_TIMEOUT}
    if settings.pgbouncer:
        # Behind a transaction pool the next statement may run on another server connection: nothing may be prepared
        # under a name that is used again, and start-up parameters are refused.
        arguments |= {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"__asyncpg_{uuid4()}__",
        }
        return arguments
    # Our statements look rows up by keys, whatever the values: planning them anew for each took as long as running them.
    planner = {"jit": "off", "plan_cache_mode": "force_generic_plan"}
    server_settings = {"application_name": APPLICATION_NAME, **planner, **timeouts(settings)}
    if settings.schema:
        server_settings["search_path"] = settings.schema
    return arguments | {"server_settings": server_settings}


def _set_timeouts_in_each_transaction(engine: Engine, settings: DatabaseSettings) -> None:
    """Bound the waits with ``SET LOCAL`` where a session's own settings do not survive."""
    statement = "; ".join(f"SET LOCAL {name} = {value}" for name, value in timeouts(settings).items())

    @event.listens_for(engine, "begin")
    def set_local(connection: Any) -> None:
        for part in statement.split("; "):
            connection.exec_driver_sql(part)
