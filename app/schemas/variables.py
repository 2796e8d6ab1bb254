"""Variables."""

from __future__ import annotations

from pydantic import Field

from app.schemas.base import StrictBaseModel


class VariableResponse(StrictBaseModel):
    """A variable, decrypted."""

    key: str
    val: str | None = Field(alias="value")


class VariablePostBody(StrictBaseModel):
    """What a variable is set to."""

    value: str | None = Field(alias="val")
    description: str | None = Field(default=None)


class VariableKeysResponse(StrictBaseModel):
    """Some keys of variables, and how many there are."""

    keys: list[str]
    total_entries: int
