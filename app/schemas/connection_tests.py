"""Connection tests: a worker fetches the connection once, tries it, and tells the result."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from app.schemas.base import BaseModel, StrictBaseModel
from app.schemas.values import Text


class ConnectionTestState(StrEnum):
    """All states of a connection test."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"


TERMINAL = (ConnectionTestState.SUCCESS, ConnectionTestState.FAILED)


def _terminal(state: ConnectionTestState) -> ConnectionTestState:
    if state not in TERMINAL:
        raise ValueError(f"Workers may only report terminal states (success/failed); got {state.value!r}")
    return state


class ConnectionTestResultBody(StrictBaseModel):
    """The result of a connection test."""

    state: Annotated[ConnectionTestState, AfterValidator(_terminal)]
    result_message: Text | None = Field(default=None, max_length=2000)


class ConnectionTestConnectionResponse(BaseModel):
    """The connection to test, decrypted."""

    conn_id: str
    conn_type: str
    host: str | None = None
    login: str | None = None
    password: str | None = None
    schema_: str | None = Field(None, alias="schema")
    port: int | None = None
    extra: str | None = None
