"""Airflow's older serialization: for Task SDKs before 1.2 a deferred task's arguments, serialized Dags, and some columns.

A newer SDK's ``serde`` writes plain JSON, with ``{"__classname__", "__version__", "__data__"}`` for anything else. The older
form is ``{"__type", "__var"}``. Both forms were observed on Airflow 3.3.2 and 3.4.0b2. As in 3.4, plain values and assets
are converted; what becomes of the rest is the API date's to say (:mod:`app.versions.v2026_04_06`).
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

CLASS, VERSION, DATA, TYPE, VALUE = "__classname__", "__version__", "__data__", "__type", "__var"
DATETIMES = ("datetime.datetime", "pendulum.datetime.DateTime")
RESERVED = {CLASS, DATA, TYPE, VALUE, VERSION, "__id__", "__cache__", "__source"}
TEXTS = ("datetime.date", "pendulum.date.Date", "uuid.UUID", "zoneinfo.ZoneInfo")
ZONES = ("pendulum.tz.timezone.FixedTimezone", "pendulum.tz.timezone.Timezone")
SDK_ASSETS = "airflow.sdk.definitions.asset."
OF_ASSETS, OF_ALIASES = ("name", "uri", "group", "extra"), ("name", "group")
FOR_ALL: dict[str, Any] = {"producer_teams": [], "consumer_teams": None, "allow_global": True}  # who may use an asset
BUILT_IN = ("tuple", "set", "timedelta", "datetime")  # of the older form, as ``serde`` reads it too


class Unknown(ValueError):
    """What cannot be converted; the message names it."""

    @classmethod
    def of_type(cls, name: str) -> Unknown:
        """Return that a value is of a type that has no older form."""
        return cls(f"a value of type {name!r}")


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
    """Return what ``serde`` wrote in the older form; what an older worker wrote is in it.

    :raises Unknown: for a class that has none, and for what an older worker cannot have written.
    """
    if not _is_older(value):
        return _converted(value)
    if not _is_readable(value):
        raise Unknown("a malformed BaseSerialization-encoded value")
    return value


def _converted(value: Any) -> Any:
    if isinstance(value, list):
        return [_converted(item) for item in value]
    if not isinstance(value, dict):
        return value
    if CLASS in value:
        return _converted_instance(value[CLASS], value[DATA])
    if _is_older(value):
        if value[TYPE] in BUILT_IN:
            return value
        if value[TYPE] != "dict":
            raise Unknown.of_type(value[TYPE])
        value = value[VALUE]
    return {TYPE: "dict", VALUE: {name: _converted(item) for name, item in value.items()}}


def _is_older(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {TYPE, VALUE}


def _is_readable(value: Any) -> bool:
    """Say whether an older worker can read a value: all objects in it are in its form."""
    if isinstance(value, list):
        return all(map(_is_readable, value))
    if not isinstance(value, dict):
        return True
    if not _is_older(value):
        return False
    inner = value[VALUE]
    if value[TYPE] == "dict":
        return isinstance(inner, dict) and all(map(_is_readable, inner.values()))
    return value[TYPE] not in ("tuple", "set") or (isinstance(inner, list) and _is_readable(inner))


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
    if name == "builtins.tuple":
        return {TYPE: "tuple", VALUE: _converted(data)}
    if name == "builtins.set":
        items = _converted(data)
        with suppress(TypeError):  # they cannot all be compared
            items = sorted(items)
        return {TYPE: "set", VALUE: items}
    if name in TEXTS:
        return data
    if name in ZONES:
        return {TYPE: "timezone", VALUE: data}
    if name == "decimal.Decimal":
        return str(data)
    if name == "builtins.frozenset" and not any(isinstance(item, dict | list) for item in data):
        return f"frozenset({{{', '.join(map(repr, data))}}})"
    if name == f"{SDK_ASSETS}Asset":
        return {TYPE: "asset", VALUE: _converted_asset(data)}
    if name == f"{SDK_ASSETS}AssetAlias" and data.keys() == set(OF_ALIASES):
        return {TYPE: "asset_alias", VALUE: data}
    raise Unknown.of_type(name)


def _converted_asset(data: Any) -> dict[str, Any]:
    """Return an asset in the older form, which has no watchers, and access only where that is not everybody's."""
    access = data.get("access_control")
    limits = FOR_ALL if access is None else access[DATA]
    is_known = (
        set(OF_ASSETS) <= data.keys() <= {*OF_ASSETS, "watchers", "access_control"} and limits.keys() == FOR_ALL.keys()
    )
    if not is_known or data.get("watchers") or place_of_reserved(data["extra"]) is not None:
        raise Unknown.of_type(f"{SDK_ASSETS}Asset")
    asset = {name: data[name] for name in OF_ASSETS}
    if limits != FOR_ALL:
        asset["access_control"] = {name: value for name, value in limits.items() if value is not None}
    return asset


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
