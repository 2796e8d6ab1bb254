"""Values that tasks keep between their tries, and tasks and watchers keep for assets."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, JsonValue

from app.schemas.base import StrictBaseModel
from app.schemas.values import Json, UtcDateTime

KEY_LENGTH = 512  # characters of the key columns of both stores


def _not_null(value: JsonValue) -> JsonValue:
    if value is None:
        raise ValueError("value cannot be null")
    return value


StoredValue = Annotated[Json, AfterValidator(_not_null)]


class TaskStateStoreResponse(StrictBaseModel):
    """A stored value."""

    value: JsonValue


class TaskStateStorePutBody(StrictBaseModel):
    """What a key is set to, and until when it is kept."""

    value: StoredValue
    expires_at: UtcDateTime | None = None


class AssetStateStoreResponse(StrictBaseModel):
    """A stored value."""

    value: JsonValue


class AssetStateStorePutBody(StrictBaseModel):
    """What a key is set to."""

    value: StoredValue
