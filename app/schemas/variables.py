"""Variables."""

from __future__ import annotations

from pydantic import Field

from app.schemas.base import StrictBaseModel
from app.schemas.values import Encodable, Text


class VariableResponse(StrictBaseModel):
    """A variable, decrypted."""

    key: str
    val: str | None = Field(alias="value")


class VariablePostBody(StrictBaseModel):
    """What a variable is set to."""

    value: Encodable | None = Field(alias="val")
    description: Text | None = Field(default=None)


class VariableKeysResponse(StrictBaseModel):
    """Some keys of variables, and how many there are."""

    keys: list[str]
    total_entries: int
