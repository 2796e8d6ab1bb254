"""Assets."""

from __future__ import annotations

from app.schemas.base import StrictBaseModel


class AssetProfile(StrictBaseModel):
    """What names an asset, an alias or a reference; ``type`` says which."""

    name: str | None = None
    uri: str | None = None
    type: str
