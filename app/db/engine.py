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
from app.settings.database_url import driver_arguments

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


def beginning(settings: DatabaseSettings) -> str:
    """Return what begins a transaction: where a session's own settings do not survive, with what they would be."""
    local = _session_settings(settings) if settings.pgbouncer else {}
    return "; ".join(["BEGIN ISOLATION LEVEL READ COMMITTED", *_set_local(local)])


def connect_arguments(settings: DatabaseSettings, url: URL) -> dict[str, Any]:
    """Return what asyncpg is to connect to a URL with."""
    arguments = driver_arguments(url)
    if settings.tls is not None:
        arguments["ssl"] = settings.tls
    if settings.pgbouncer:
        # Behind a transaction pool the next statement may run on another server connection: nothing may be prepared
        # under a name that is used again, and start-up parameters are refused.
        return arguments | {"statement_cache_size": 0}
    # Our statements look rows up by keys, whatever the values: planning them anew for each took as long as running them.
    planner = {"jit": "off", "plan_cache_mode": "force_generic_plan"}
    server_settings = {"application_name": APPLICATION_NAME, **planner, **_session_settings(settings)}
    return arguments | {"server_settings": {**arguments.get("server_settings", {}), **server_settings}}


def _session_settings(settings: DatabaseSettings) -> dict[str, str]:
    """Return the server settings that every statement depends on."""
    found = timeouts(settings)
    if settings.schema:  # Airflow's tables are in it, and its alembic_version where the role's tables are without it
        quoted = settings.schema.replace('"', '""')
        found["search_path"] = f'"{quoted}", "$user", public'
    return found


def _set_local(settings: dict[str, str]) -> list[str]:
    return [f"SET LOCAL {name} = {value}" for name, value in settings.items()]


def _new_statement_name() -> str:
    return f"__asyncpg_{uuid4()}__"


def _set_timeouts_in_each_transaction(engine: Engine, settings: DatabaseSettings) -> None:
    """Bound the waits of the fallback with ``SET LOCAL`` where a session's own settings do not survive."""
    statements = _set_local(_session_settings(settings))

    @event.listens_for(engine, "begin")
    def set_local(connection: Any) -> None:
        for statement in statements:
            connection.exec_driver_sql(statement)
