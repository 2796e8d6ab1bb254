"""A connection, and the two forms in which ``AIRFLOW_CONN_*`` and secrets backends spell one: URI and JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection, decrypted; it is also the class that custom secrets backends build their answers with."""

    conn_id: str | None = None
    conn_type: str | None = None
    host: str | None = None
    login: str | None = None
    password: str | None = None
    schema: str | None = None
    port: int | None = None
    extra: str | None = None

    @classmethod
    def from_uri(cls, uri: str, conn_id: str | None = None) -> Connection:
        """Read Airflow's URI form, in which every part may be percent-encoded and the query is the ``extra``.

        :raises ValueError: when the URI has more than one inner protocol, or a port that is no number.
        """
        conn_type = urlsplit(uri).scheme
        rest = uri.removeprefix(f"{conn_type}://")
        if rest.count("://") > 1:
            raise ValueError("a connection URI has at most one inner protocol")
        protocol, _, authority = rest.rpartition("://")
        parts = urlsplit(f"//{authority}")
        host = unquote(parts.hostname or "")
        if "/" in host:  # an encoded path as host: keep its case
            host = unquote(parts.netloc.rsplit("@", 1)[-1].split(":", 1)[0])
        return cls(
            conn_id=conn_id,
            conn_type=_normalized_type(conn_type),
            host=f"{protocol}://{host}" if protocol and host else host,
            login=unquote(parts.username) if parts.username else parts.username,
            password=unquote(parts.password) if parts.password else parts.password,
            schema=unquote(parts.path[1:]),
            port=parts.port,
            extra=_extra_from_query(parts.query),
        )

    @classmethod
    def from_json(cls, value: str, conn_id: str | None = None) -> Connection:
        """Read Airflow's JSON form.

        :raises ValueError: when it is no JSON object, or its port is no number.
        """
        fields = json.loads(value)
        if not isinstance(fields, dict):
            raise ValueError("a connection in JSON is an object")
        extra, port = fields.get("extra") or None, fields.get("port") or None
        return cls(
            conn_id=conn_id,
            conn_type=_normalized_type(fields["conn_type"]) if fields.get("conn_type") else None,
            extra=extra if isinstance(extra, str | None) else json.dumps(extra),
            port=int(port) if port is not None else None,
            **{name: fields.get(name) for name in ("host", "login", "password", "schema")},
        )


def as_response(connection: Connection) -> dict[str, Any]:
    """Return a connection's fields as the contract names them."""
    return asdict(connection)


def _normalized_type(conn_type: str) -> str:
    return "postgres" if conn_type == "postgresql" else conn_type.replace("-", "_")


def _extra_from_query(query: str) -> str | None:
    """Return the ``extra`` that a connection URI's query stands for."""
    if not query:
        return None
    fields: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    if "__extra__" in fields:
        return str(fields["__extra__"])
    for name, text in fields.items():
        try:
            fields[name] = json.loads(text) if text else text
        except ValueError:
            continue  # plain text
    return json.dumps(fields)
