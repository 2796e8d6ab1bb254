"""``[database] sql_alchemy_connect_args``: a dict in the operator's own Python, named by its path."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from app.errors import FOREIGN, ConfigurationError


def import_connect_args(path: str, *, setting: str, home: Path) -> Mapping[str, Any]:
    """Return the dict at a path, such as ``airflow_local_settings.connect_args``.

    :param home: ``AIRFLOW_HOME``; its folder ``config`` is on the import path, as it is in Airflow.
    :raises ConfigurationError: when there is none. It does not show what the foreign module said, which may be a password.
    """
    if not path:
        return {}
    if (folder := str(home / "config")) not in sys.path:
        sys.path.append(folder)
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except FOREIGN as error:  # which ends the start-up with one sentence
        raise ConfigurationError(f"{setting} names {path!r}, which cannot be imported ({type(error).__name__})") from None
    if not isinstance(found, Mapping) or not all(isinstance(each, str) for each in found):
        raise ConfigurationError(f"{setting} names {path!r}, which is no dict: expected one with the driver's arguments")
    return found


def split_tls(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], ssl.SSLContext | None]:
    """Return a driver's arguments as libpq has them, and the TLS context that only asyncpg takes."""
    found = dict(arguments)
    tls = found.pop("ssl") if isinstance(found.get("ssl"), ssl.SSLContext) else None
    if isinstance(found.get("ssl"), bool):  # asyncpg's: what the system trusts, or no TLS
        found |= {"sslmode": "verify-full", "sslrootcert": "system"} if found.pop("ssl") else {"sslmode": "disable"}
    if isinstance(direct := found.pop("direct_tls", None), bool):
        found["sslnegotiation"] = "direct" if direct else "postgres"
    if isinstance(server := found.pop("server_settings", None), Mapping):
        found["options"] = " ".join(f"-c {name}={_escaped(value)}" for name, value in server.items())
    return found, tls


def _escaped(value: object) -> str:
    return str(value).replace("\\", "\\\\").replace(" ", "\\ ")
