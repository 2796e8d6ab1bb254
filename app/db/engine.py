"""What a connection is opened with: where READ COMMITTED, the timeouts and the PgBouncer switches are set, once."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import asyncpg
import sqlalchemy
from sqlalchemy import Engine, NullPool, event
from sqlalchemy.engine import URL

from app.settings import DatabaseSettings

APPLICATION_NAME = "execution-api"  # what pg_stat_activity shows


def create_engine(settings: DatabaseSettings, connect: Callable[..., Awaitable[asyncpg.Connection]]) -> Engine:
    """Return an engine that keeps no connection: its dialect compiles all statements, and the fallback connects with it.

    READ COMMITTED is explicit: after a lock wait PostgreSQL must evaluate our WHERE again on the row's newest version.

    :param connect: opens a connection, whatever it is given.
    """
    arguments: dict[str, Any] = {"async_creator_fn": connect}
    if settings.pgbouncer:
        arguments |= {"prepared_statement_cache_size": 0, "prepared_statement_name_func": _new_statement_name}
    engine = sqlalchemy.create_engine(
        "postgresql+asyncpg://",
        isolation_level="READ COMMITTED",
        poolclass=NullPool,
        connect_args=arguments,
        hide_parameters=True,
        json_serializer=lambda value: json.dumps(value, ensure_ascii=False, allow_nan=False),
    )
    if settings.pgbouncer:
        _set_timeouts_in_each_transaction(engine, settings)
    return engine


def timeouts(settings: DatabaseSettings) -> dict[str, str]:
    """Return the server settings that bound every wait, in milliseconds as PostgreSQL reads them.

    No statement waits for a lock: who meets one lets go of everything and comes back (:class:`app.db.retrying.ComingBack`),
    so that rows which somebody holds keep no connection, and nobody waits for us while we wait for them.
    """
    return {
        "lock_timeout": "1",  # the shortest there is; 0 would mean for ever
        "statement_timeout": str(round(settings.statement_timeout * 1000)),
    }


def connect_arguments(engine: Engine, settings: DatabaseSettings, url: URL) -> dict[str, Any]:
    """Return what asyncpg is to connect to a URL with."""
    arguments: dict[str, Any] = dict(engine.dialect.create_connect_args(url)[1])
    if settings.pgbouncer:
        # Behind a transaction pool the next statement may run on another server connection: nothing may be prepared
        # under a name that is used again, and start-up parameters are refused.
        return arguments | {"statement_cache_size": 0}
    # Our statements look rows up by keys, whatever the values: planning them anew for each took as long as running them.
    planner = {"jit": "off", "plan_cache_mode": "force_generic_plan"}
    server_settings = {"application_name": APPLICATION_NAME, **planner, **timeouts(settings)}
    if settings.schema:
        server_settings["search_path"] = settings.schema
    return arguments | {"server_settings": server_settings}


def _new_statement_name() -> str:
    return f"__asyncpg_{uuid4()}__"


def _set_timeouts_in_each_transaction(engine: Engine, settings: DatabaseSettings) -> None:
    """Bound the waits with ``SET LOCAL`` where a session's own settings do not survive."""
    statement = "; ".join(f"SET LOCAL {name} = {value}" for name, value in timeouts(settings).items())

    @event.listens_for(engine, "begin")
    def set_local(connection: Any) -> None:
        for part in statement.split("; "):
            connection.exec_driver_sql(part)
