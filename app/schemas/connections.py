"""Connections."""

from __future__ import annotations

from pydantic import Field

from app.schemas.base import BaseModel


class ConnectionResponse(BaseModel):
    """A connection, decrypted."""

    conn_id: str
    conn_type: str
    host: str | None
    schema_: str | None = Field(alias="schema")
    login: str | None
    password: str | None
    port: int | None
    extra: str | None
