"""Variables and connections, from where Airflow looks for them: a custom secrets backend, the environment, the database.

Stored values are encrypted with Fernet; several keys, newest first, allow for rotation.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
from collections.abc import Mapping
from typing import Any

import structlog
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from app.db import connections, variables
from app.db.session import Database
from app.errors import ConfigurationError, RefusedRequest, SecretsBackendTimeout
from app.server.bodies import QUICK
from app.settings import Settings
from app.settings.connection import Connection
from app.settings.secrets_backend import load_backend
from app.tasks.foreign_calls import ForeignCalls

log = structlog.get_logger(__name__)

CONNECTION_PREFIX, VARIABLE_PREFIX = "AIRFLOW_CONN_", "AIRFLOW_VAR_"
TEAM_SEPARATOR = "___"  # AIRFLOW_VAR__<TEAM>___<KEY>

# Airflow's built-in list (3.3.2); `[core] sensitive_var_conn_names` adds to it.
SENSITIVE_NAMES = frozenset(
    [
        "access_key",
        "access_token",
        "api_key",
        "apikey",
        "auth_header",
        "authorization",
        "bearer",
        "connection_string",
        "dsn",
        "passphrase",
        "passwd",
        "password",
        "private_key",
        "proxy",
        "proxy_password",
        "proxies",
        "secret",
        "service_account",
        "service_key",
        "token",
        "keyfile_dict",
    ]
)
NOT_WORDS = re.compile(r"\W+")
REDACTED = "***"
ACCESS_DENIED = "AirflowSecretsBackendAccessDenied"  # known by its name: Airflow is not installed here


class Secrets:
    """Looks variables and connections up, and keeps values out of what is shown.

    :param settings: Fernet keys, the custom backend, multi-team mode.
    :param environment: where ``AIRFLOW_VAR_*`` and ``AIRFLOW_CONN_*`` are.
    :raises ConfigurationError: when a Fernet key or the backend cannot be used.
    """

    def __init__(self, settings: Settings, database: Database, environment: Mapping[str, str] = os.environ) -> None:
        self._database = database
        self._backend_calls = ForeignCalls()
        self._environment = environment
        self._multi_team = settings.multi_team
        self._fernet = _fernet(settings.fernet_keys)
        self._backend = (
            load_backend(settings.secrets_backend, settings.secrets_backend_kwargs) if settings.secrets_backend else None
        )
        if self._backend is not None and hasattr(self._backend, "_set_connection_class"):
            self._backend._set_connection_class(Connection)
        sensitive = SENSITIVE_NAMES | set(settings.sensitive_names) if settings.hide_sensitive_names else ()
        self._sensitive = re.compile("|".join(map(re.escape, sensitive))) if sensitive else None

    async def variable(self, key: str, team_name: str | None) -> str | None:
        """Return a variable's value, or None when it is defined nowhere.

        :raises RefusedRequest: when the custom backend denies access.
        :raises SecretsBackendTimeout: when the custom backend hangs.
        """
        if (found := await self._from_backend("get_variable", team_name, key=key)) is not None:
            return str(found)
        if (found := self._from_environment(VARIABLE_PREFIX, key, team_name)) is not None:
            return found
        async with self._database.autocommit() as session:
            row = await variables.get(session, key=key, team_name=team_name)
        if row is None:
            return None
        stored = (row.val, row.is_encrypted, f"variable {key!r}")
        return await asyncio.to_thread(self._decrypted, *stored) if len(row.val or "") > QUICK else self._decrypted(*stored)

    async def connection(self, conn_id: str, team_name: str | None) -> Connection | None:
        """Return a connection, or None when it is defined nowhere or no Fernet key decrypts it.

        :raises RefusedRequest: when the custom backend denies access.
        :raises SecretsBackendTimeout: when the custom backend hangs.
        """
        if (found := await self._from_backend("get_connection", team_name, conn_id=conn_id)) is not None:
            return _from_foreign(found, conn_id)
        if text := self._from_environment(CONNECTION_PREFIX, conn_id, team_name):
            try:
                parse = Connection.from_json if text.lstrip().startswith("{") else Connection.from_uri
                return parse(text.strip(), conn_id=conn_id)
            except (ValueError, KeyError) as error:
                log.warning("a connection in the environment cannot be read", conn_id=conn_id, error=type(error).__name__)
        async with self._database.autocommit() as session:
            row = await connections.get(session, conn_id=conn_id, team_name=team_name)
        return None if row is None else self.decrypted(row, conn_id=conn_id)

    def decrypted(self, row: Any, *, conn_id: str) -> Connection | None:
        """Return a stored connection, decrypted, or None when no Fernet key decrypts its password or its extra.

        Half a connection would fail its task in a stranger place.

        :param row: the columns of a connection, encrypted or not.
        """
        password = self._decrypted(row.password, row.is_encrypted, f"the password of connection {conn_id!r}")
        extra = self._decrypted(row.extra, row.is_extra_encrypted, f"the extra of connection {conn_id!r}")
        if (row.password and password is None) or (row.extra and extra is None):
            return None
        plain = {name: getattr(row, name) for name in ("conn_type", "host", "login", "schema", "port")}
        return Connection(conn_id=conn_id, **plain, password=password, extra=extra)

    def stored(self, connection: Connection) -> dict[str, Any]:
        """Return the columns of a connection as they are stored, password and extra encrypted if there is a key.

        Those of an empty password are left out, so that a stored one stays; an empty extra replaces one. So Airflow has it.
        """
        values: dict[str, Any] = {
            name: getattr(connection, name) for name in ("conn_type", "host", "schema", "login", "port")
        }
        if connection.password:
            values["password"], values["is_encrypted"] = self.encrypt(connection.password)
        extra = connection.extra
        values["extra"], values["is_extra_encrypted"] = self.encrypt(extra) if extra else (extra, False)
        return values

    def encrypt(self, value: str) -> tuple[str, bool]:
        """Return a value as it is stored, and whether it is encrypted: without a Fernet key it is not."""
        if self._fernet is None:
            return value, False
        return self._fernet.encrypt(value.encode()).decode(), True

    def can_decrypt(self, value: str) -> bool:
        """Say whether a Fernet key decrypts a value that is stored encrypted."""
        try:
            return self._fernet is not None and self._fernet.decrypt(value.encode()) is not None
        except InvalidToken:
            return False

    async def encrypted(self, value: str) -> tuple[str, bool]:
        """Return what :meth:`encrypt` does, of a large value from a thread: it takes 15 ms a megabyte."""
        return await asyncio.to_thread(self.encrypt, value) if len(value) > QUICK else self.encrypt(value)

    def redact(self, value: Any, name: str | None = None) -> Any:
        """Return a JSON value with ``***`` for every text under a name that sounds secret."""
        if name is not None and self._sounds_secret(name):
            return _blank(value)
        if isinstance(value, dict):
            return {key: self.redact(inner, key) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.redact(inner) for inner in value]
        return value

    def _sounds_secret(self, name: str) -> bool:
        return self._sensitive is not None and bool(self._sensitive.search(NOT_WORDS.sub("_", name.strip().lower())))

    async def _from_backend(self, method: str, team_name: str | None, **named: str) -> Any:
        """Ask the custom backend, by keyword as Airflow does; what it raises means that it has no answer, or denies access.

        :raises RefusedRequest: 403, when it denies access: no place that knows less may be asked then.
        :raises SecretsBackendTimeout: when it does not answer in time.
        """
        if self._backend is None:
            return None
        ask = getattr(self._backend, method)
        parameters = inspect.signature(ask).parameters
        takes_team = "team_name" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        arguments = {**named, "team_name": team_name} if takes_team else named
        (name,) = named.values()
        try:
            return await self._backend_calls.call(ask, **arguments)
        except SecretsBackendTimeout:
            raise
        except Exception as error:  # a foreign backend's own, whatever it is
            if any(kind.__name__ == ACCESS_DENIED for kind in type(error).__mro__):
                message = f"The secrets backend denies access to {name!r}"
                raise RefusedRequest(403, {"reason": "access_denied", "message": message}) from error
            log.warning("the secrets backend failed", method=method, name=name, error=type(error).__name__)
            return None

    def _from_environment(self, prefix: str, name: str, team_name: str | None) -> str | None:
        if self._multi_team and TEAM_SEPARATOR in name:
            return None  # it would spell out another team's name
        if team_name and (own := self._environment.get(f"{prefix}_{team_name.upper()}{TEAM_SEPARATOR}{name.upper()}")):
            return own
        return self._environment.get(prefix + name.upper())

    def _decrypted(self, value: str | None, is_encrypted: bool, what: str) -> str | None:
        if not value or not is_encrypted:
            return value
        try:
            if self._fernet is not None:
                return self._fernet.decrypt(value.encode()).decode()
            log.error("no Fernet key to decrypt with", what=what)
        except InvalidToken:
            log.error("no Fernet key decrypts this", what=what)
        return None


def _fernet(keys: tuple[str, ...]) -> MultiFernet | None:
    try:
        return MultiFernet([Fernet(key) for key in keys]) if keys else None
    except ValueError:
        raise ConfigurationError(
            "[core] fernet_key is not usable: expected one or more comma-separated keys of 32 url-safe base64-encoded bytes"
        ) from None


def _from_foreign(found: Any, conn_id: str) -> Connection:
    """Return our connection for one that a custom backend built with a class of its own."""
    if isinstance(found, Connection):
        return found
    names = ("conn_type", "host", "login", "password", "schema", "port", "extra")
    return Connection(conn_id=conn_id, **{name: getattr(found, name, None) for name in names})


def _blank(value: Any) -> Any:
    if isinstance(value, str):
        return REDACTED
    if isinstance(value, dict):
        return {key: _blank(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_blank(inner) for inner in value]
    return value
