"""The parameters of libpq, PostgreSQL's client library: which are translated for our driver, and which are not, and why.

Each is in one of three tables: translated (:data:`TAKEN`), without effect here (:data:`DROPPED` says why), or refused by
name (:data:`REFUSED` says why, and which values ask for nothing).
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from app.errors import ConfigurationError

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
TLS_VERSIONS = ("TLSv1.2", "TLSv1.3")  # older ones are no longer in TLS libraries

TEXT, NUMBER = "text", "a whole number"
TAKEN: Mapping[str, str | tuple[str, ...]] = {
    **dict.fromkeys(("host", "hostaddr", "port", "dbname", "user", "password", "passfile", "service"), TEXT),
    "options": TEXT,
    "target_session_attrs": ("any", "read-write", "primary"),  # and in each case a server that writes is taken
    "sslmode": SSL_MODES,
    "sslnegotiation": ("postgres", "direct"),
    **dict.fromkeys(("sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl"), TEXT),
    **dict.fromkeys(("ssl_min_protocol_version", "ssl_max_protocol_version"), TLS_VERSIONS),
    "krbsrvname": TEXT,
    "gsslib": ("gssapi", "sspi"),
    **dict.fromkeys(("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"), NUMBER),
    "tcp_user_timeout": NUMBER,
}
_OURS = "the service has bounds of its own"
_POOL = "the service has its own pool, and [execution_api_service] pgbouncer for what it prepares"
DROPPED: Mapping[str, str] = {
    "application_name": "pg_stat_activity shows execution-api, so that it can be told from Airflow's components",
    "fallback_application_name": "as application_name",
    "client_encoding": "texts are exchanged in UTF-8, whatever the database's encoding",
    "connect_timeout": _OURS,
    "load_balance_hosts": "one host alone is the one that writes",
    "sslcompression": "PostgreSQL 14 and newer ignore it",
    "sslkeylogfile": "it helps to debug, no connection depends on it",
    # Of asyncpg and SQLAlchemy, in a URL for them.
    "timeout": _OURS,
    "command_timeout": _OURS,
    **dict.fromkeys(("prepared_statement_cache_size", "prepared_statement_name_func", "statement_cache_size"), _POOL),
    **dict.fromkeys(("max_cached_statement_lifetime", "max_cacheable_statement_size"), _POOL),
}
_OAUTH = "the driver has no OAuth"
REFUSED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "channel_binding": (
        ("disable", "prefer"),
        "the driver cannot bind to a TLS channel; sslmode=verify-full verifies the server",
    ),
    "gssdelegation": (("0",), "the driver delegates no credentials"),
    "gssencmode": (("disable", "prefer"), "the driver encrypts by TLS alone"),
    "max_protocol_version": (("3.0", "3.2", "latest"), "the driver speaks 3.0"),
    "min_protocol_version": (("3.0",), "the driver speaks 3.0"),
    **dict.fromkeys(("oauth_client_id", "oauth_client_secret", "oauth_issuer", "oauth_scope"), ((), _OAUTH)),
    "replication": (("0", "false", "no", "off"), "replication is no way to read tables"),
    "require_auth": ((), "the driver takes the way of authentication that the server chooses"),
    "requirepeer": ((), "the driver does not ask who owns a socket"),
    "scram_client_key": ((), "the driver computes it from the password"),
    "scram_server_key": ((), "the driver computes it from the password"),
    "sslcertmode": (("allow",), "the driver sends sslcert when the server asks for it"),
    "sslcrldir": ((), "the driver takes a file, sslcrl"),
    "sslsni": (("1",), "the driver always names the host"),
}
ALIASES = {"ssl": "sslmode", "database": "dbname"}  # asyncpg's names
VARIABLES = {  # of the environment, where a parameter is given neither in a URL nor in a service
    "PGAPPNAME": "application_name",
    "PGCHANNELBINDING": "channel_binding",
    "PGCLIENTENCODING": "client_encoding",
    "PGCONNECT_TIMEOUT": "connect_timeout",
    "PGDATABASE": "dbname",
    "PGGSSDELEGATION": "gssdelegation",
    "PGGSSENCMODE": "gssencmode",
    "PGGSSLIB": "gsslib",
    "PGHOST": "host",
    "PGHOSTADDR": "hostaddr",
    "PGKRBSRVNAME": "krbsrvname",
    "PGLOADBALANCEHOSTS": "load_balance_hosts",
    "PGMAXPROTOCOLVERSION": "max_protocol_version",
    "PGMINPROTOCOLVERSION": "min_protocol_version",
    "PGOPTIONS": "options",
    "PGPASSFILE": "passfile",
    "PGPASSWORD": "password",
    "PGPORT": "port",
    "PGREQUIREAUTH": "require_auth",
    "PGREQUIREPEER": "requirepeer",
    "PGSERVICE": "service",
    "PGSSLCERT": "sslcert",
    "PGSSLCERTMODE": "sslcertmode",
    "PGSSLCOMPRESSION": "sslcompression",
    "PGSSLCRL": "sslcrl",
    "PGSSLCRLDIR": "sslcrldir",
    "PGSSLKEY": "sslkey",
    "PGSSLMAXPROTOCOLVERSION": "ssl_max_protocol_version",
    "PGSSLMINPROTOCOLVERSION": "ssl_min_protocol_version",
    "PGSSLMODE": "sslmode",
    "PGSSLNEGOTIATION": "sslnegotiation",
    "PGSSLROOTCERT": "sslrootcert",
    "PGSSLSNI": "sslsni",
    "PGTARGETSESSIONATTRS": "target_session_attrs",
    "PGUSER": "user",
}
LARGEST = 2**31 - 1


def known(parameters: Mapping[str, Any], setting: str) -> dict[str, str]:
    """Return those parameters that are translated, as texts.

    :raises ConfigurationError: when one is not known, has a value that is none of its own, or is refused.
    """
    taken = {}
    for given, value in parameters.items():
        name = ALIASES.get(given, given)
        if name not in TAKEN and name not in DROPPED and name not in REFUSED:
            near = get_close_matches(name, [*TAKEN, *REFUSED, *DROPPED], 1)
            raise ConfigurationError(f"{setting} has a parameter {name[:40]!r}, which PostgreSQL does not know"
                                     + (f": did you mean {near[0]}?" if near else ""))  # fmt: skip
        if name in DROPPED or value is None:
            continue
        if isinstance(value, bool):
            value = int(value)
        if not isinstance(value, str | int | float | Path):
            raise ConfigurationError(f"{setting} has {name} more than once, or not as a text: expected one text")
        text = str(value)
        if not text:  # as if it had not been given
            continue
        if name in REFUSED:
            harmless, why = REFUSED[name]
            if text not in harmless:
                raise ConfigurationError(f"{setting} has {name}, which cannot be had here: {why}")
            continue
        taken[name] = _value(name, text, setting)
    return taken


def _value(name: str, text: str, setting: str) -> str:
    kind = TAKEN[name]
    if "\0" in text or not _is_encodable(text):
        raise ConfigurationError(f"{setting} has a {name} with a character that no text has")
    if name == "target_session_attrs" and text in {"read-only", "standby", "prefer-standby"}:
        raise ConfigurationError(f"{setting} has {name}={text}: expected read-write, since the service writes")
    if kind is NUMBER:
        if not re.fullmatch(r"\s*-?[0-9]{1,10}\s*", text) or abs(int(text)) > LARGEST:
            raise ConfigurationError(f"{setting} has a {name} that is not {NUMBER}")
        return str(max(int(text), 0))
    if isinstance(kind, tuple):
        for choice in kind:
            if text == choice or (name.startswith("ssl_") and text.lower() == choice.lower()):
                return choice
        raise ConfigurationError(f"{setting} has {name}={text[:40]!r}: expected one of {', '.join(kind)}")
    return text


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def of_environment(given: Collection[str]) -> dict[str, str]:
    """Return the parameters that the environment gives.

    :param given: the names of those that something gives that goes before.
    :raises ConfigurationError: when one of the others has a value that is none of its own, or is refused.
    """
    found: dict[str, str] = {}
    for variable, name in VARIABLES.items():
        if name not in given and variable in os.environ:
            found |= known({name: os.environ[variable]}, variable)
    return found


def of_service(service: str, setting: str) -> dict[str, str]:
    """Return the parameters of a service, from the file where libpq looks for it."""
    named = os.environ.get("PGSERVICEFILE")
    files = [Path(named or os.path.expanduser("~/.pg_service.conf"))]
    if folder := os.environ.get("PGSYSCONFDIR"):
        files.append(Path(folder) / "pg_service.conf")
    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#",), strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # names are told apart by case
    for file in files:
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, OSError, ValueError):
            raise ConfigurationError(f"{setting} has a service, and {file} cannot be read") from None
        if parser.has_section(service):
            found = dict(parser[service])
            if "service" in found:
                raise ConfigurationError(f"{setting} has a service, which names a service itself in {file}")
            return found
    raise ConfigurationError(f"{setting} has service={service[:40]!r}, which is not in {' or '.join(map(str, files))}")
