"""Whether a configuration can serve: what ``execution-api check`` says, and what ``serve`` asks before it starts."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import text

from app import settings as settings_module
from app.db.retrying import DRIVER_ERRORS
from app.db.session import Database
from app.errors import ConfigurationError, RetryableDatabaseError
from app.releases import Revision
from app.server.auth import Tokens
from app.settings import DatabaseSettings, Settings
from app.settings.database_url import place_of
from app.tasks.secrets import Secrets

DATABASE_TIMEOUT = 8.0  # seconds; a wrong configuration must end within ten
RESERVED_CONNECTIONS = 20  # Airflow's scheduler, triggerer and Dag processor hold 5 pooled connections each by default


@dataclass(frozen=True, slots=True)
class Check:
    """One line of ``execution-api check``."""

    name: str
    passed: bool
    message: str


async def require_database(settings: DatabaseSettings) -> Revision:
    """Return the metadata revision of the configured database.

    :raises ConfigurationError: when it cannot be reached within :data:`DATABASE_TIMEOUT`, is no metadata database or of
        a revision that is not supported.
    """
    database = Database(settings, is_patient=False)
    where = place_of(settings.url)
    try:
        return await asyncio.wait_for(database.revision(), DATABASE_TIMEOUT)
    except RetryableDatabaseError as error:
        reason = _one_line(error.__cause__ or error)
        raise ConfigurationError(f"[database] sql_alchemy_conn names {where}, which cannot be reached: {reason}") from error
    except (*DRIVER_ERRORS, TimeoutError) as error:
        reason = _one_line(error)
        raise ConfigurationError(f"[database] sql_alchemy_conn names {where}, which does not let us in: {reason}") from error
    finally:
        await database.close()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or "no answer in time"


async def run(environment: Mapping[str, str]) -> list[Check]:
    """Run every check that the ones before it make possible."""
    try:
        settings = settings_module.load(environment)
    except ConfigurationError as error:
        return [Check("configuration", False, str(error))]
    results = [Check("configuration", True, "every setting can be read"), _keys(settings), _fernet(settings)]
    try:
        revision = await require_database(settings.database)
    except ConfigurationError as error:
        return [*results, Check("database", False, str(error))]
    database = Database(settings.database)
    try:
        results.append(Check("database", True, f"reachable, metadata revision {revision.name} ({revision.alembic_version})"))
        results.append(await _pool(database, settings))
        results.append(await _clock(database, settings))
    except RetryableDatabaseError as error:
        results.append(Check("database", False, str(error)))
    finally:
        await database.close()
    return results


def _keys(settings: Settings) -> Check:
    try:
        tokens = Tokens(settings.tokens)
        tokens.mint({"sub": str(uuid.uuid4())})
    except Exception as error:  # whatever a key or algorithm makes PyJWT raise
        return Check("keys", False, f"no token can be signed with [api_auth] jwt_*: {error}")
    source = (
        "a trusted JWKS"
        if settings.tokens.trusted_jwks_url
        else "jwt_private_key_path"
        if settings.tokens.private_key
        else "jwt_secret"
    )
    said = f"tokens are verified with {source}, and renewed for {settings.tokens.valid_for} s"
    return Check("keys", True, f"{said}; WARNING: {tokens.weakness}" if tokens.weakness else said)


def _fernet(settings: Settings) -> Check:
    try:
        Secrets(settings, Database(settings.database))
    except ConfigurationError as error:
        return Check("fernet", False, str(error))
    if not settings.fernet_keys:
        return Check("fernet", False, "[core] fernet_key is not set: variables and connections would be stored in clear")
    return Check("fernet", True, f"{len(settings.fernet_keys)} usable key(s)")


async def _pool(database: Database, settings: Settings) -> Check:
    async with database.autocommit() as session:
        most = int(await session.scalar(text("SHOW max_connections")) or 0)
    wanted = settings.database.pool_size * settings.server.workers
    left = most - wanted
    message = (
        f"{settings.server.workers} worker(s) x {settings.database.pool_size} connections = {wanted}"
        f" of max_connections {most}"
    )
    if left < RESERVED_CONNECTIONS:
        return Check("pool", False, f"{message}: leave {RESERVED_CONNECTIONS} for Airflow, or put a PgBouncer in between")
    return Check("pool", True, message)


async def _clock(database: Database, settings: Settings) -> Check:
    async with database.autocommit() as session:
        theirs = await session.scalar(text("SELECT clock_timestamp()"))
    skew = abs((datetime.now(UTC) - theirs).total_seconds()) if theirs else 0.0
    message = f"{skew:.1f} s apart from the database's"
    if skew > settings.tokens.leeway:
        return Check("clock", False, f"{message}: more than [api_auth] jwt_leeway, {settings.tokens.leeway:g} s")
    return Check("clock", True, message)
