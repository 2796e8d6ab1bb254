"""A connection, and the two forms in which ``AIRFLOW_CONN_*`` and secrets backends spell one: URI and JSON."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

TEXTS = ("conn_type", "host", "login", "password", "schema")


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

        The host may have a protocol of its own (``http://https://host``), which must come before a user.

        :raises ValueError: when it has more protocols than that, a port that is none, or an ``extra`` that is no object.
        """
        if not uri:
            raise ValueError("a connection URI has a type at least")
        protocols = uri.count("://")
        if protocols > 2:
            raise ValueError("a connection URI has at most one inner protocol")
        conn_type = urlsplit(uri).scheme
        is_nested = protocols == 2
        rest = uri.replace(f"{conn_type}://", "" if is_nested else "//")
        if is_nested and re.search("[@:]", rest.partition("://")[0]):
            raise ValueError("the inner protocol of a connection URI comes before its user")
        parts = urlsplit(rest)
        host = unquote(parts.hostname or "")
        if "/" in host:  # an encoded path as host: keep its case
            host = unquote(parts.netloc.rsplit("@", 1)[-1].split(":", 1)[0])
        return cls(
            conn_id=conn_id,
            conn_type=_normalized_type(conn_type),
            host=f"{parts.scheme}://{host}" if is_nested and parts.scheme and host else host,
            login=unquote(parts.username) if parts.username else parts.username,
            password=unquote(parts.password) if parts.password else None,
            schema=unquote(parts.path[1:]),
            port=parts.port,
            extra=_extra_from_query(parts.query),
        )

    @classmethod
    def from_json(cls, value: str, conn_id: str | None = None) -> Connection:
        """Read Airflow's JSON form.

        :raises ValueError: when it is no JSON object, has a key that is unknown or of another type, or lacks its type.
        """
        fields = json.loads(value)
        if not isinstance(fields, dict):
            raise ValueError("a connection in JSON is an object")
        if uri := fields.get("uri"):
            if fields.keys() != {"uri"} or not isinstance(uri, str):
                raise ValueError("a connection in JSON has a URI or parts, not both")
            return cls.from_uri(uri, conn_id=conn_id)
        if unknown := fields.keys() - {*TEXTS, "port", "extra", "uri", "description"}:
            raise ValueError(f"a connection in JSON has no {', '.join(sorted(unknown))}")
        texts = {name: fields.get(name) for name in TEXTS} | {"password": fields.get("password") or None}
        if not all(isinstance(text, str | None) for text in texts.values()) or not texts["conn_type"]:
            raise ValueError(f"a connection in JSON has a type, and of {', '.join(TEXTS)} each is a text")
        port, extra = fields.get("port") or None, fields.get("extra") or None
        if not isinstance(port, int | float | str | None):
            raise ValueError("the port of a connection is a number")
        return cls(
            conn_id=conn_id,
            conn_type=_normalized_type(str(texts.pop("conn_type"))),
            extra=_checked_extra(extra if isinstance(extra, str | None) else json.dumps(extra)),
            port=int(port) if port is not None else None,
            **texts,
        )


FIELDS = tuple(field.name for field in fields(Connection))


def as_response(connection: Connection) -> dict[str, Any]:
    """Return a connection's fields as the contract names them."""
    return {name: getattr(connection, name) for name in FIELDS}


def _normalized_type(conn_type: str) -> str:
    return "postgres" if conn_type == "postgresql" else conn_type.replace("-", "_")


def _extra_from_query(query: str) -> str | None:
    """Return the ``extra`` that a connection URI's query stands for."""
    if not query:
        return None
    fields: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    if "__extra__" in fields:
        return _checked_extra(str(fields["__extra__"]))
    for name, text in fields.items():
        try:
            fields[name] = json.loads(text) if text else text
        except ValueError:
            continue  # plain text
    return json.dumps(fields)


def _checked_extra(extra: str | None) -> str | None:
    """Return an ``extra`` that is an object in JSON, or none.

    :raises ValueError: when it is anything else.
    """
    if extra and not isinstance(json.loads(extra), dict):
        raise ValueError("the extra of a connection is an object")
    return extra
