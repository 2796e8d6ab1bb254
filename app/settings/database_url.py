"""The metadata database's URL, from the form that Airflow has it in to the one that our driver takes."""

from __future__ import annotations

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from app.errors import ConfigurationError

SSL_MODES = {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}


def async_url(text: str, *, setting: str) -> URL:
    """Return the asyncpg form of an Airflow database URL.

    :param text: any PostgreSQL URL that SQLAlchemy takes (``postgresql://``, ``postgresql+psycopg2://``, ``postgres://``).
    :param setting: the setting it came from, for the error.
    :raises ConfigurationError: when it is no URL, or not PostgreSQL. It does not show the URL, which may hold a password.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            f"{setting} is not a database URL: expected postgresql://user:password@host/database"
        ) from None
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise ConfigurationError(f"{setting} is a {url.get_backend_name()} URL: only PostgreSQL is supported")
    query = dict(url.query)
    if mode := query.pop("sslmode", None):
        if mode not in SSL_MODES:
            raise ConfigurationError(f"{setting} has sslmode={mode!r}: expected one of {', '.join(sorted(SSL_MODES))}")
        query["ssl"] = mode
    for libpq_only in ("connect_timeout", "keepalives", "keepalives_idle", "application_name", "target_session_attrs"):
        query.pop(libpq_only, None)
    return url.set(drivername="postgresql+asyncpg", query=query)
