"""Whether a configuration can serve: what ``execution-api check`` says, and what ``serve`` asks before it starts."""

from __future__ import annotations

import asyncio
import ssl
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import asyncpg
from cryptography.x509 import load_pem_x509_certificate

from app import releases
from app import settings as settings_module
from app.commands.counting import number_of
from app.db.engine import APPLICATION_NAME, beginning, connect_arguments
from app.db.hosts import connect_to_one
from app.db.pool import ANSWER_MARGIN, UNREACHABLE
from app.db.retrying import DRIVER_ERRORS
from app.db.session import Database
from app.errors import ConfigurationError, ReadOnlyServer, RefusedRequest, RetryableDatabaseError
from app.releases import Revision
from app.server import extras, patience
from app.server.auth import Tokens
from app.settings import DatabaseSettings, ServerSettings, Settings
from app.settings.airflow import AirflowConfiguration
from app.settings.database_url import place_of
from app.tasks.secrets import Secrets

CERTIFICATE_OPTIONS = ("[api] ssl_cert", "[api] ssl_key")
LOGIN_REFUSED = "28"  # class of SQLSTATEs
DATABASE_TIMEOUT = 8.0  # seconds; a wrong configuration must end within ten
RESERVED_CONNECTIONS = 20  # Airflow's scheduler, triggerer and Dag processor hold 5 pooled connections each by default
WAIT_PAUSE = 1.0  # seconds between two attempts of a check that waits
PASSING = frozenset({"database", "jwks"})  # checks that may pass without anybody changing a setting

_FACTS = f"""
    SELECT current_setting('server_version') AS server, pg_backend_pid() AS pid, clock_timestamp() AS now,
           (SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS encryption,
           current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
             - coalesce(current_setting('reserved_connections', true), '0')::int AS slots,
           (SELECT min(most) FROM (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user UNION ALL
                                   SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS limits (most)
             WHERE most >= 0) AS most,
           (SELECT count(*) FROM pg_stat_activity
             WHERE application_name <> '{APPLICATION_NAME}' AND datid IS NOT NULL AND usesysid IS NOT NULL) AS others
"""  # noqa: S608  nothing in it comes from outside
_ENCRYPTED = """
    (SELECT val AS value FROM variable WHERE is_encrypted AND val <> '' ORDER BY id DESC LIMIT 100) UNION ALL
    (SELECT password FROM connection WHERE is_encrypted AND password <> '' ORDER BY id DESC LIMIT 100) UNION ALL
    (SELECT extra FROM connection WHERE is_extra_encrypted AND extra <> '' ORDER BY id DESC LIMIT 100)
"""

_Answer = TypeVar("_Answer")


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
    return await asked(settings, releases.of)


async def asked(settings: DatabaseSettings, question: Callable[[Database], Awaitable[_Answer]]) -> _Answer:
    """Return what the configured database answers.

    :raises ConfigurationError: when it cannot be reached within :data:`DATABASE_TIMEOUT`, or the question raises it.
    """
    database = Database(settings, is_patient=False)
    where = place_of(settings.url)
    try:
        return await asyncio.wait_for(question(database), DATABASE_TIMEOUT)
    except RetryableDatabaseError as error:
        reason = "it only reads" if isinstance(error, ReadOnlyServer) else _one_line(error.__cause__ or error)
        if "startup parameter" in reason:
            reason += f"; before PostgreSQL stands a PgBouncer: set [{settings_module.OWN_SECTION}] pgbouncer to True"
        refused = (getattr(error.__cause__, "sqlstate", None) or "").startswith(LOGIN_REFUSED)
        what = "does not let us in" if refused else "cannot be reached"
        raise ConfigurationError(f"[database] sql_alchemy_conn names {where}, which {what}: {reason}") from error
    except (*DRIVER_ERRORS, TimeoutError) as error:
        reason = _one_line(error)
        raise ConfigurationError(f"[database] sql_alchemy_conn names {where}, which does not let us in: {reason}") from error
    finally:
        await database.close()


def require_certificate(certificate: Path, key: Path, *, options: tuple[str, str] = CERTIFICATE_OPTIONS) -> None:
    """Load the server's own certificate, as its workers will do.

    :param options: where each of the two was said.
    :raises ConfigurationError: when they could not.
    """
    for option, path in zip(options, (certificate, key), strict=True):
        try:
            path.read_bytes()
        except OSError as error:
            reason = f"names {str(path)!r}, which cannot be read ({error.strerror})"
            raise ConfigurationError(f"{option} {reason}: expected a PEM file") from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")  # nobody is asked for one
    except ssl.SSLError as error:
        what = f"{options[0]} {certificate} and {options[1]} {key}"
        raise ConfigurationError(
            f"{what} cannot be used together ({error.reason or 'no PEM'}): expected a certificate and its key, not encrypted"
        ) from error


async def run(environment: Mapping[str, str], *, replicas: int = 1, workers: int | None = None) -> list[Check]:
    """Run every check that the ones before it make possible.

    :param replicas: how many of these services shall run.
    :param workers: of each, if ``serve`` is told another number than ``[api] workers``.
    """
    try:
        settings = settings_module.load(environment)
        conf = AirflowConfiguration(environment)
    except ConfigurationError as error:
        return [Check("configuration", False, str(error))]
    read = f"{conf.path} was read" if conf.is_there else f"there is no {conf.path}: the environment alone was read"
    results = [Check("configuration", True, f"every setting can be read; {read}")]
    results += [*_certificate(settings.server), *await _keys(settings)]
    results.append(_time_outs(settings, conf))
    results += [Check("extras", True, f"WARNING: {warning}") for warning in extras.missing(settings)]
    results += await _traces(settings)
    results += _stats(settings)
    try:
        revision = await require_database(settings.database)
        async with asyncio.timeout(DATABASE_TIMEOUT):
            facts = await _facts(settings)
    except ConfigurationError as error:
        return [*results, _fernet((), settings), Check("database", False, str(error))]
    except asyncpg.PostgresError as error:  # a missing grant
        return [*results, _fernet((), settings), Check("tables", False, _one_line(error))]
    except (*UNREACHABLE, TimeoutError) as error:
        return [*results, _fernet((), settings), Check("database", False, _one_line(error))]
    return [
        *results,
        _fernet(facts.encrypted, settings),
        _database(facts, revision, settings),
        _pooler(facts, settings),
        _pool(facts, settings, replicas * (workers or settings.server.workers)),
        _clock(facts, settings),
    ]


async def run_until(
    environment: Mapping[str, str],
    *,
    wait: float,
    told: Callable[[str], None],
    replicas: int = 1,
    workers: int | None = None,
) -> list[Check]:
    """Run the checks again until they pass, as long as others may still do what they lack.

    :param wait: seconds.
    :param told: takes what is waited for, whenever that is another.
    :param replicas: see :func:`run`; ``workers`` too.
    """
    deadline = time.monotonic() + wait
    last = ""
    while True:
        results = await run(environment, replicas=replicas, workers=workers)
        lacking = "; ".join(result.message for result in results if not result.passed)
        if not lacking or not may_still_pass(results) or time.monotonic() >= deadline:
            return results
        if lacking != last:
            told(lacking)
            last = lacking
        await asyncio.sleep(min(WAIT_PAUSE, max(deadline - time.monotonic(), 0)))


def may_still_pass(results: Sequence[Check]) -> bool:
    """Say whether all that failed may pass without anybody changing a setting."""
    return all(result.passed or result.name in PASSING for result in results)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a database says of itself, and of those who are connected.

    :param server: its version.
    :param encryption: the version of TLS, if the connection has it.
    :param is_pooled: whether who answers is not who was connected to: a pooler stands between.
    :param slots: connections that a role without privileges can have.
    :param limit: of our role or of the database, if there is one.
    :param others: connections that others have now.
    :param now: of its clock.
    :param encrypted: what is stored encrypted, some of it.
    """

    server: str
    encryption: str | None
    is_pooled: bool
    slots: int
    limit: int | None
    others: int
    now: datetime
    encrypted: Sequence[str]


async def _facts(settings: Settings) -> _Facts:
    database = settings.database
    arguments = connect_arguments(database, database.url)
    connection = await connect_to_one(arguments, timeout=DATABASE_TIMEOUT, target_session_attrs="read-write")
    try:
        await connection.execute(beginning(database))
        row = await connection.fetchrow(_FACTS)
        encrypted = await connection.fetch(_ENCRYPTED)
        return _Facts(
            server=row["server"],
            encryption=row["encryption"],
            is_pooled=row["pid"] != connection.get_server_pid(),
            slots=row["slots"],
            limit=row["most"],
            others=row["others"],
            now=row["now"],
            encrypted=[each["value"] for each in encrypted],
        )
    finally:
        connection.terminate()


async def _traces(settings: Settings) -> list[Check]:
    """Say whether spans could be sent; they are no reason not to serve."""
    try:
        traces = extras.traces(settings)
    except ConfigurationError as error:
        return [Check("traces", True, f"WARNING: no spans are sent: {error}")]
    if traces is None:
        return []
    await traces.close()
    return [Check("traces", True, "spans are sent")]


def _certificate(server: ServerSettings) -> list[Check]:
    if server.ssl_cert is None or server.ssl_key is None:
        return []
    try:
        require_certificate(server.ssl_cert, server.ssl_key)
    except ConfigurationError as error:
        return [Check("certificate", False, str(error))]
    ends = load_pem_x509_certificate(server.ssl_cert.read_bytes()).not_valid_after_utc
    return [Check("certificate", ends > datetime.now(UTC), f"{server.ssl_cert} is valid until {ends:%Y-%m-%d %H:%M} UTC")]


def _stats(settings: Settings) -> list[Check]:
    """Say whether counts could be sent to StatsD; they are no reason not to serve."""
    results = []
    if settings.stats.otel:
        results.append(Check("stats", True, "WARNING: [metrics] otel_on is True, which has no effect here: scrape /metrics"))
    try:
        found = extras.counts(settings)
    except ConfigurationError as error:
        return [*results, Check("stats", True, f"WARNING: no counts are sent: {error}")]
    found.close()
    if found.are_on:
        results.append(Check("stats", True, f"counts are sent to {settings.stats.host} port {settings.stats.port}"))
    return results


async def _keys(settings: Settings) -> list[Check]:
    try:
        tokens = Tokens(settings.tokens)
    except ConfigurationError as error:
        return [Check("keys", False, str(error))]
    if (url := settings.tokens.trusted_jwks_url) is None:
        return [await _token(tokens, settings)]
    if not (keys := await tokens.trusted_key_ids()):
        return [Check("jwks", False, f"[api_auth] trusted_jwks_url {url} cannot be read, or has no usable key with a kid")]
    return [Check("jwks", True, f"{url} has {number_of(len(keys), 'usable key')}"), await _token(tokens, settings)]


async def _token(tokens: Tokens, settings: Settings) -> Check:
    """Verify a token that is signed as the scheduler signs one, with the settings that we share."""
    signer = "jwt_private_key_path" if settings.tokens.private_key else "jwt_secret"
    try:
        token = tokens.mint({"sub": str(uuid.uuid4()), "scope": "workload"})
    except Exception as error:  # whatever a key or algorithm makes PyJWT raise
        return Check("keys", False, f"no token can be signed with [api_auth] {signer}: {_one_line(error)}")
    verifier = "a key of trusted_jwks_url" if settings.tokens.trusted_jwks_url else signer
    try:
        await tokens.verify(token)
    except RefusedRequest as error:
        reason = _one_line(error.__cause__ or error)
        return Check("keys", False, f"a token signed with [api_auth] {signer} is not verified by {verifier}: {reason}")
    said = f"a token signed with {signer} is verified by {verifier}, and renewed for {settings.tokens.valid_for} s"
    return Check("keys", True, f"{said}; WARNING: {tokens.weakness}" if tokens.weakness else said)


def _time_outs(settings: Settings, conf: AirflowConfiguration) -> Check:
    client = conf.seconds("workers", "execution_api_timeout", patience.CLIENT)
    lock, statement = settings.database.lock_timeout, settings.database.statement_timeout + ANSWER_MARGIN
    said = f"lock_timeout {lock:g} s, statement_timeout and its answer {statement:g} s, workers wait {client:g} s"
    if client < patience.CLIENT:
        said = f"[workers] execution_api_timeout is {client:g} s: answers may take up to {patience.CLIENT:g} s"
        return Check("time-outs", False, said)
    return Check("time-outs", max(lock, statement) < patience.CLIENT, said)


def _database(facts: _Facts, revision: Revision, settings: Settings) -> Check:
    encryption = facts.encryption or "not encrypted"
    said = f"{place_of(settings.database.url)}, PostgreSQL {facts.server}, {encryption}, takes writes"
    return Check("database", True, f"{said}, metadata revision {revision.name} ({revision.alembic_version})")


def _pooler(facts: _Facts, settings: Settings) -> Check:
    option = f"[{settings_module.OWN_SECTION}] pgbouncer"
    if facts.is_pooled and not settings.database.pgbouncer:
        return Check("pooler", False, f"a pooler such as PgBouncer stands before PostgreSQL: set {option} to True")
    if settings.database.pgbouncer and not facts.is_pooled:
        said = f"PostgreSQL itself answers; WARNING: {option} is True, which costs each statement a plan and a transaction"
        return Check("pooler", True, said)
    return Check("pooler", True, "a pooler such as PgBouncer answers" if facts.is_pooled else "PostgreSQL itself answers")


def _fernet(encrypted: Sequence[str], settings: Settings) -> Check:
    """Decrypt what is stored with the keys that we have."""
    try:
        secrets = Secrets(settings, Database(settings.database))
    except ConfigurationError as error:
        return Check("fernet", False, str(error))
    if not settings.fernet_keys:
        return Check("fernet", False, "[core] fernet_key is not set: variables and connections would be stored in clear")
    lost = sum(not secrets.can_decrypt(value) for value in encrypted)
    stored = number_of(len(encrypted), "stored value")
    if lost:
        return Check("fernet", False, f"[core] fernet_key does not decrypt {lost} of {stored}: Airflow has another")
    decrypted = f", {stored} decrypted" if encrypted else ", nothing found that is encrypted"
    return Check("fernet", True, f"{number_of(len(settings.fernet_keys), 'usable key')}{decrypted}")


def _pool(facts: _Facts, settings: Settings, workers: int) -> Check:
    wanted = settings.database.pool_size * workers
    said = f"{number_of(workers, 'worker')} x {number_of(settings.database.pool_size, 'connection')} = {wanted}"
    if facts.is_pooled:
        ours = f"{said}, which the pooler must take beside Airflow's own (PgBouncer: max_client_conn, 100 by default)"
        return Check("pool", True, f"{ours}; it has {number_of(facts.slots, 'connection')} of PostgreSQL to share")
    said += f" of {facts.slots} that PostgreSQL has for roles without privileges"
    if facts.limit is not None and wanted > facts.limit:
        return Check("pool", False, f"{said}, and of {facts.limit} that the role or the database may have")
    reserved = max(RESERVED_CONNECTIONS, facts.others)
    if facts.slots - wanted < reserved:
        left = f"leave {reserved} for Airflow ({facts.others} in use now), or put a PgBouncer in between"
        return Check("pool", False, f"{said}: {left}")
    return Check("pool", True, f"{said}, {facts.others} in use by others now")


def _clock(facts: _Facts, settings: Settings) -> Check:
    skew = abs((datetime.now(UTC) - facts.now).total_seconds())
    message = f"{skew:.1f} s apart from the database's"
    if skew > settings.tokens.leeway:
        return Check("clock", False, f"{message}: more than [api_auth] jwt_leeway, {settings.tokens.leeway:g} s")
    return Check("clock", True, message)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or "no answer in time"
