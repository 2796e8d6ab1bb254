"""The serialization that Task SDKs before 1.2 read: a deferred task's arguments, for them.

The database holds what a newer SDK's ``serde`` wrote: plain JSON, with ``{"__classname__", "__version__", "__data__"}`` for
anything else. Older workers read ``{"__type", "__var"}``. Both forms were observed on Airflow 3.3.2; what it cannot convert
either (classes outside its allow list) is passed on as it is.
"""

from __future__ import annotations

import json
from typing import Any

from app.routes.rendering import RawJson

CLASS, DATA, TYPE, VALUE = "__classname__", "__data__", "__type", "__var"
DATETIMES = ("datetime.datetime", "pendulum.datetime.DateTime")
TEXTS = ("datetime.date", "uuid.UUID", "zoneinfo.ZoneInfo")


class Unknown(ValueError):
    """A class that cannot be converted."""


def downgraded(next_kwargs: Any) -> Any:
    """Return a deferred task's arguments as older workers read them.

    :param next_kwargs: JSON, or its text as a :class:`RawJson`.
    """
    value = json.loads(next_kwargs.text) if isinstance(next_kwargs, RawJson) else next_kwargs
    try:
        return _converted(value)
    except (Unknown, KeyError, TypeError, AttributeError):
        return next_kwargs


def _converted(value: Any) -> Any:
    if isinstance(value, list):
        return [_converted(item) for item in value]
    if not isinstance(value, dict):
        return value
    if CLASS in value:
        return _converted_instance(value[CLASS], value[DATA])
    if TYPE in value and VALUE in value:
        return value  # written by an older worker
    return {TYPE: "dict", VALUE: {name: _converted(item) for name, item in value.items()}}


def _converted_instance(name: str, data: Any) -> Any:
    if name in DATETIMES:
        return {TYPE: "datetime", VALUE: data["timestamp"]}
    if name == "datetime.timedelta":
        return {TYPE: "timedelta", VALUE: data}
    if name in ("builtins.tuple", "builtins.set"):
        return {TYPE: name.rpartition(".")[2], VALUE: [_converted(item) for item in data]}
    if name in TEXTS:
        return data
    if name == "decimal.Decimal":
        return str(data)
    if name == "builtins.frozenset":
        return f"frozenset({{{', '.join(map(repr, data))}}})"
    raise Unknown(name)
