"""Values that tasks keep between their tries, and tasks and watchers keep for assets."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, JsonValue

from app.schemas.base import StrictBaseModel


def _representable(value: JsonValue) -> JsonValue:
    if value is None:
        raise ValueError("value cannot be null")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("value must be a finite number; NaN and Inf are not JSON representable")
    return value


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("must have a time zone")
    return moment


Expiry = Annotated[datetime, AfterValidator(_aware)]
StoredValue = Annotated[JsonValue, AfterValidator(_representable)]


class TaskStateStoreResponse(StrictBaseModel):
    """A stored value."""

    value: JsonValue


class TaskStateStorePutBody(StrictBaseModel):
    """What a key is set to, and until when it is kept."""

    value: StoredValue
    expires_at: Expiry | None = None


class AssetStateStoreResponse(StrictBaseModel):
    """A stored value."""

    value: JsonValue


class AssetStateStorePutBody(StrictBaseModel):
    """What a key is set to."""

    value: StoredValue
