"""The metadata database's URL, from the form that Airflow has it in to what our driver takes.

Airflow's URL speaks to libpq, ours to asyncpg; :mod:`app.settings.libpq` knows the parameters.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from app.errors import ConfigurationError
from app.settings import tls
from app.settings.libpq import SSL_MODES, known, of_environment, of_service

ENCRYPTED = SSL_MODES[3:]  # require, verify-ca and verify-full
DEFAULT_FILES = {"sslrootcert": "root.crt", "sslcrl": "root.crl", "sslcert": "postgresql.crt", "sslkey": "postgresql.key"}
KEEPALIVE = {  # by name, the socket's option
    "keepalives_idle": (socket.IPPROTO_TCP, "TCP_KEEPIDLE"),
    "keepalives_interval": (socket.IPPROTO_TCP, "TCP_KEEPINTVL"),
    "keepalives_count": (socket.IPPROTO_TCP, "TCP_KEEPCNT"),
    "tcp_user_timeout": (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT"),
}


def async_url(text: str, *, setting: str, given: Mapping[str, Any] | None = None) -> URL:
    """Return the form of an Airflow database URL that :func:`driver_arguments` takes.

    Its query has libpq's names, of those that are translated; several hosts are separated by commas, as libpq has them.

    :param text: any PostgreSQL URL that SQLAlchemy takes (``postgresql://``, ``postgresql+psycopg2://``, ``postgres://``).
    :param setting: the setting it came from, for the error.
    :param given: further parameters, which win over the URL's.
    :raises ConfigurationError: when it is no URL, not PostgreSQL, or has a parameter that is not known, wrong or refused.
        It does not show the URL, which may hold a password.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            f"{setting} is not a database URL: expected postgresql://user:password@host/database"
        ) from None
    if url.get_backend_name() not in {"postgresql", "postgres"}:
        raise ConfigurationError(f"{setting} is a {url.get_backend_name()} URL: only PostgreSQL is supported")
    in_query = {name: ",".join(v) if name == "host" and not isinstance(v, str) else v for name, v in url.query.items()}
    written = {"user": url.username, "password": url.password, "host": url.host, "port": url.port, "dbname": url.database}
    asked = {name for name, value in (written | in_query | dict(given or {})).items() if value}
    parameters = known({**written, **in_query, **(given or {})}, setting)
    if service := parameters.pop("service", os.environ.get("PGSERVICE", "")):
        in_file = of_service(service, setting)
        asked |= in_file.keys()
        parameters = {**known(in_file, setting), **parameters}
    return _checked({**of_environment({"service", *asked, *parameters}), **parameters}, setting)


def driver_arguments(url: URL) -> dict[str, Any]:
    """Return what :func:`asyncpg.connect` is to be called with for a URL of :func:`async_url`'s."""
    query: dict[str, Any] = dict(url.query)
    arguments: dict[str, Any] = {
        "host": query["host"].split(",") if "host" in query else url.host,
        "port": [int(port) for port in query["port"].split(",")] if "port" in query else url.port,
        "user": url.username,
        "password": url.password,
        "database": url.database,
        "passfile": query.get("passfile"),
        "ssl": query.get("sslmode"),
        "krbsrvname": query.get("krbsrvname"),
        "gsslib": query.get("gsslib"),
    }
    if query.get("sslmode") in ENCRYPTED:
        arguments["ssl"] = tls.context(query)
        arguments["direct_tls"] = query.get("sslnegotiation") == "direct"
    elif others := {name: query[name] for name in query if name.startswith("ssl") and name != "sslmode"}:
        arguments["dsn"] = f"postgresql://?{urlencode(others)}"  # where the driver takes them
    if options := query.get("options"):
        arguments["server_settings"] = {"options": options}
    return {name: value for name, value in arguments.items() if value is not None}


def socket_options(url: URL) -> list[tuple[int, int, int]]:
    """Return what the socket of a connection is told, as libpq tells it: keep-alive is on unless it is turned off."""
    query: dict[str, Any] = dict(url.query)
    if query.get("keepalives") == "0":
        query = {"tcp_user_timeout": query.get("tcp_user_timeout", "0")}
    options = [] if url.query.get("keepalives") == "0" else [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, (level, option) in KEEPALIVE.items():
        if int(query.get(name, "0")) and hasattr(socket, option):  # 0 is the system's default
            options.append((level, getattr(socket, option), int(query[name])))
    return options


def place_of(url: URL) -> str:
    """Return where a URL of :func:`async_url`'s leads: hosts or a socket, and the database."""
    hosts = str(url.query.get("host") or url.host or "localhost").split(",")
    ports = str(url.query.get("port") or url.port or 5432).split(",")
    ports *= len(hosts) if len(ports) == 1 else 1
    places = [f"socket {h}/.s.PGSQL.{p}" if h.startswith("/") else f"{h}:{p}" for h, p in zip(hosts, ports, strict=True)]
    return f"{','.join(places)}/{url.database or ''}"


def _checked(parameters: dict[str, str], setting: str) -> URL:
    """Return parameters as a URL, if they go together."""
    hosts, ports = _hosts(parameters, setting)
    mode = parameters.get("sslmode")
    if parameters.get("sslrootcert") == tls.SYSTEM:
        mode = parameters.setdefault("sslmode", "verify-full")
        if mode != "verify-full":
            raise ConfigurationError(f"{setting} has sslrootcert=system and sslmode={mode}: expected verify-full with it")
    if addresses := parameters.pop("hostaddr", ""):
        if mode == "verify-full":
            raise ConfigurationError(
                f"{setting} has hostaddr and sslmode=verify-full: the driver verifies the name that it connects to,"
                " expected host alone"
            )
        if len(hosts) > 1 and len(hosts) != len(addresses.split(",")):
            raise ConfigurationError(f"{setting} has not as many addresses in hostaddr as hosts")
        hosts = addresses.split(",")
    if len(ports) not in {0, 1, len(hosts) or 1}:
        raise ConfigurationError(f"{setting} has not as many ports as hosts: expected one for each, or one for all")
    if parameters.get("sslnegotiation") == "direct" and mode not in ENCRYPTED:
        raise ConfigurationError(
            f"{setting} has sslnegotiation=direct: expected sslmode=require, verify-ca or verify-full with it"
        )
    for host in hosts:
        if not host.startswith("/") and not _is_host(host):
            name = "hostaddr" if addresses else "host"
            raise ConfigurationError(f"{setting} has a {name} that is no name, address or folder of a socket")
    if mode in ENCRYPTED:
        for name, file in DEFAULT_FILES.items():
            path = os.path.expanduser(f"~/.postgresql/{file}")
            if name not in parameters and os.path.exists(path):
                parameters[name] = path
    if mode != "disable":
        _check_files(parameters, setting)
    url = {name: parameters.pop(name, None) for name in ("user", "password", "dbname")}
    if len(hosts) > 1:
        ports = ports if len(ports) > 1 else (ports or [5432]) * len(hosts)
        parameters |= {"host": ",".join(hosts), "port": ",".join(map(str, ports))}
    return URL.create(
        "postgresql+asyncpg",
        username=url["user"],
        password=url["password"],
        host=hosts[0] if hosts else None,
        port=ports[0] if ports else None,
        database=url["dbname"],
        query=parameters,
    )


def _hosts(parameters: dict[str, str], setting: str) -> tuple[list[str], list[int]]:
    """Take hosts and ports out of the parameters: ``h1,h2`` with ``p1,p2``, or SQLAlchemy's ``h1:p1,h2:p2``."""
    hosts = parameters.pop("host").split(",") if "host" in parameters else []
    ports = parameters.pop("port").split(",") if "port" in parameters else []
    split = [re.fullmatch(r"([^:/]+):([0-9]*)", host) for host in hosts]
    if any(split):
        hosts = [found[1] if found else host for found, host in zip(split, hosts, strict=True)]
        ports = [found[2] if found else "" for found in split]
    numbers = []
    for port in ports:
        if not re.fullmatch(r"\s*[0-9]{0,5}\s*", port) or not 0 < int(port.strip() or 5432) < 65536:
            raise ConfigurationError(f"{setting} has a port that is not a number from 1 to 65535")
        numbers.append(int(port.strip() or 5432))
    return hosts, numbers


def _is_host(host: str) -> bool:
    try:
        host.encode("ascii" if ":" in host else "idna")
    except UnicodeError:
        return False
    return bool(host.strip())


def _check_files(parameters: Mapping[str, str], setting: str) -> None:
    """Read what the driver will read for each connection: what is wrong with it is told now, by its name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    password = parameters.get("sslpassword", "")
    for name in ("sslrootcert", "sslcrl", "sslkey", "sslcert"):
        path = parameters.get(name)
        if not path or (name == "sslrootcert" and path == tls.SYSTEM):
            continue
        try:
            if name == "sslcert":
                context.load_cert_chain(path, parameters.get("sslkey"), password=lambda: password)
            elif name == "sslkey":
                Path(path).read_bytes()
            else:
                context.load_verify_locations(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
            raise ConfigurationError(
                f"{setting} has {name}={path!r}, which cannot be read ({reason}): expected a PEM file"
            ) from None
    if parameters.get("sslmode", "").startswith("verify") and "sslrootcert" not in parameters:
        raise ConfigurationError(
            f"{setting} has sslmode={parameters['sslmode']} and no sslrootcert: expected the file with the certificate of"
            " the server's authority, or sslrootcert=system"
        )
