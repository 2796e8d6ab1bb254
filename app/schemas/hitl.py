"""Human-in-the-loop requests and their responses."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from pydantic import Field

from app.schemas.base import BaseModel
from app.schemas.values import Encodable, JsonObject, JsonTexts, Text, UtcDateTime


class HITLUser(BaseModel):
    """A person who may respond, or did."""

    id: Encodable
    name: Encodable


class HITLDetailRequest(BaseModel):
    """What a task asks a person."""

    ti_id: UUID
    options: JsonTexts = Field(min_length=1)
    subject: Text
    body: Text | None = None
    defaults: JsonTexts | None = None
    multiple: bool = False
    params: JsonObject = Field(default_factory=dict)
    assigned_users: list[HITLUser] = Field(default_factory=list)


class UpdateHITLDetailPayload(BaseModel):
    """A response."""

    ti_id: UUID
    chosen_options: JsonTexts = Field(min_length=1)
    params_input: JsonObject = Field(default_factory=dict)


class HITLDetailResponse(BaseModel):
    """The response to a request, or that there is none yet."""

    response_received: bool
    responded_by_user: HITLUser | None = None
    responded_at: UtcDateTime | None
    chosen_options: Iterable[str] | None
    params_input: JsonObject = Field(default_factory=dict)
