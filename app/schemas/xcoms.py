"""XComs."""

from __future__ import annotations

from pydantic import JsonValue, RootModel

from app.schemas.base import BaseModel
from app.schemas.values import BigInteger, Integer


class XComResponse(BaseModel):
    """One XCom."""

    key: str
    value: JsonValue


class XComSequenceIndexResponse(RootModel[JsonValue]):
    """One value of a mapped task's XComs."""


class XComSequenceSliceResponse(RootModel[list[JsonValue]]):
    """Several values of a mapped task's XComs."""


class GetXcomFilterParams(BaseModel):
    """Which of the XComs with this key to return."""

    map_index: Integer = -1
    include_prior_dates: bool = False
    offset: BigInteger | None = None
    previous_iteration: bool = False


class GetXComSliceFilterParams(BaseModel):
    """A slice, as Python's, of a mapped task's XComs in map-index order."""

    start: BigInteger | None = None
    stop: BigInteger | None = None
    step: BigInteger | None = None
    include_prior_dates: bool = False
    previous_iteration: bool = False
