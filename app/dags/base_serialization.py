"""Airflow's older serialization: for Task SDKs before 1.2 a deferred task's arguments, serialized Dags, and some columns.

A newer SDK's ``serde`` writes plain JSON, with ``{"__classname__", "__version__", "__data__"}`` for anything else. The older
form is ``{"__type", "__var"}``. Both forms were observed on Airflow 3.3.2; what it cannot convert
either (classes outside its allow list) is passed on as it is.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

CLASS, DATA, TYPE, VALUE = "__classname__", "__data__", "__type", "__var"
DATETIMES = ("datetime.datetime", "pendulum.datetime.DateTime")
RESERVED = {CLASS, DATA, TYPE, VALUE, "__version__", "__id__", "__cache__", "__source"}
TEXTS = ("datetime.date", "uuid.UUID", "zoneinfo.ZoneInfo")


class Unknown(ValueError):
    """A class that cannot be converted."""


def place_of_reserved(value: Any) -> tuple[str, ...] | None:
    """Return where in a value the first object is that has a key of these forms, or None: what reads it takes it for one."""
    if isinstance(value, dict) and not RESERVED.isdisjoint(value):
        return ()
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        if (below := place_of_reserved(part)) is not None:
            return (str(name), *below)
    return None


def converted(value: Any) -> Any:
    """Return what ``serde`` wrote in the older form.

    :raises Unknown: for a class that has none.
    """
    if isinstance(value, list):
        return [converted(item) for item in value]
    if not isinstance(value, dict):
        return value
    if CLASS in value:
        return _converted_instance(value[CLASS], value[DATA])
    if TYPE in value and VALUE in value:
        return value  # written by an older worker
    return {TYPE: "dict", VALUE: {name: converted(item) for name, item in value.items()}}


def wrapped(value: Any) -> Any:
    """Return JSON in the older form; what ``serde`` wrote in it stays as it wrote it."""
    if isinstance(value, list):
        return [wrapped(item) for item in value]
    return {TYPE: "dict", VALUE: {name: wrapped(item) for name, item in value.items()}} if isinstance(value, dict) else value


def _converted_instance(name: str, data: Any) -> Any:
    if name in DATETIMES:
        return {TYPE: "datetime", VALUE: data["timestamp"]}
    if name == "datetime.timedelta":
        return {TYPE: "timedelta", VALUE: data}
    if name in ("builtins.tuple", "builtins.set"):
        return {TYPE: name.rpartition(".")[2], VALUE: [converted(item) for item in data]}
    if name in TEXTS:
        return data
    if name == "decimal.Decimal":
        return str(data)
    if name == "builtins.frozenset":
        return f"frozenset({{{', '.join(map(repr, data))}}})"
    raise Unknown(name)


def decoded(value: Any) -> Any:
    """Return what the older form stands for, as Python's own types.

    What it has no such type for (a Kubernetes pod, an asset, a reference to an XCom) stays as it is serialized.
    """
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if TYPE not in value or VALUE not in value:
        return {name: decoded(item) for name, item in value.items()}
    inner = value[VALUE]
    match value[TYPE]:
        case "dict":
            return {name: decoded(item) for name, item in inner.items()}
        case "tuple":
            return tuple(decoded(item) for item in inner)
        case "set":
            return {decoded(item) for item in inner}
        case "datetime":
            return datetime.fromtimestamp(inner, UTC)
        case "timedelta":
            return timedelta(seconds=inner)
    return value
