"""Partitions: how the key of an asset event becomes keys of a Dag that waits for it, and which day a key stands for.

Mappers and windows come serialized in their Dag's timetable, as ``{"__type": class path, "__var": fields}``; the rules are
those of Airflow 3.2.1 and 3.3.2, observed. A custom mapper is asked itself, if the operator trusts its class.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from app.dags.clocks import localized, zone
from app.dags.trusted import trusted_class
from app.errors import FOREIGN, ExecutionApiError, UnknownInDag

Encoded = Mapping[str, Any]

MAPPERS = "airflow.partition_mappers."
IDENTITY: Encoded = {"__type": f"{MAPPERS}identity.IdentityMapper", "__var": {}}
LONGEST_KEY = 250  # characters, as the columns of partition keys have
UTC_NAME = "UTC"  # the zone of a mapper that names none: those of 3.2 do not
DIGITS = {"Y": 4, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2, "V": 2, "U": 2, "W": 2}
PLACEHOLDER = re.compile(r"\{\w+\}")
SPECIAL = re.compile(rf"(%\w|{PLACEHOLDER.pattern})")
NORMALIZE: Mapping[str, Callable[[datetime], datetime]] = {
    "StartOfHourMapper": lambda t: t.replace(minute=0, second=0, microsecond=0),
    "StartOfDayMapper": lambda t: _midnight(t),
    "StartOfWeekMapper": lambda t: _midnight(t - timedelta(days=t.weekday())),
    "StartOfMonthMapper": lambda t: _midnight(t.replace(day=1)),
    "StartOfQuarterMapper": lambda t: _midnight(t.replace(day=1, month=(t.month - 1) // 3 * 3 + 1)),
    "StartOfYearMapper": lambda t: _midnight(t.replace(day=1, month=1)),
}
STEPS: Mapping[str, tuple[int, Callable[[datetime, int], datetime]]] = {
    "HourWindow": (60, lambda t, n: t + timedelta(minutes=n)),
    "DayWindow": (24, lambda t, n: t + timedelta(hours=n)),
    "WeekWindow": (7, lambda t, n: t + timedelta(days=n)),
    "QuarterWindow": (3, lambda t, n: _months_later(t, n)),
    "YearWindow": (12, lambda t, n: _months_later(t, n)),
}


class UnknownMapper(UnknownInDag):
    """A partition mapper that cannot be asked here; the message names its class."""


class InvalidPartitionKey(ExecutionApiError):
    """A key that a timetable cannot have made."""


class PartitionedSchedule:
    """The serialized timetable of a Dag whose runs belong to partitions of assets.

    :param timetable: of class ``PartitionedAssetTimetable``.
    :param trusted: prefixes of the classes that may be imported.
    """

    def __init__(self, timetable: Encoded, *, trusted: Sequence[str] = ()) -> None:
        fields = timetable["__var"]
        self._trusted = trusted
        self._condition = fields["asset_condition"]
        self.batches: bool = fields.get("batch_asset_events", True)  # whether events of one partition make one run
        self._default = fields.get("default_partition_mapper", IDENTITY)
        self._by: dict[str, dict[str, Encoded]] = {"name": {}, "uri": {}}
        for asset, mapper in fields.get("partition_mapper_config", ()):
            for part in _assets(asset):
                for field in self._by:
                    if field in part:
                        self._by[field][part[field]] = mapper

    def mapper(self, *, name: str = "", uri: str = "") -> Encoded:
        """Return the mapper of an asset; a name decides before a URI."""
        found: Encoded = self._by["name"].get(name, self._default) if name else self._by["uri"].get(uri, self._default)
        return found

    @property
    def fingerprint(self) -> dict[str, Encoded]:
        """Every asset's mapper: the scheduler drops what waits for a run once it has another (Airflow 3.3)."""
        parts = {f"{part.get('name', '')}|{part.get('uri', '')}": part for part in _assets(self._condition)}
        return {key: self._mapper_of(part) for key, part in sorted(parts.items())}

    def date(self, key: str) -> datetime | None:
        """Return when the period of a key starts, if all assets' mappers that know agree.

        :raises InvalidPartitionKey: when a mapper cannot have made the key.
        """
        try:
            dates = {date_of(self._mapper_of(part), key, self._trusted) for part in _assets(self._condition)} - {None}
        except ValueError as error:
            message = f"Partition key {key!r} is invalid for this timetable's mappers: {error}"
            raise InvalidPartitionKey(message) from error
        return dates.pop() if len(dates) == 1 else None

    def _mapper_of(self, part: Mapping[str, str]) -> Encoded:
        return self.mapper(name=part.get("name", ""), uri=part.get("uri", ""))


def downstream(mapper: Encoded, key: str, trusted: Sequence[str] = ()) -> list[str]:
    """Return the keys of a Dag to which a key of its asset belongs.

    :param trusted: prefixes of the classes that may be imported.
    :raises UnknownInDag: when it is none of Airflow's own and not trusted.
    :raises Exception: whatever the mapper raises for a key that it does not take.
    """
    fields = mapper["__var"]
    match kind(mapper):
        case "IdentityMapper":
            return [key]
        case "AllowedKeyMapper":
            if key not in fields["allowed_keys"]:
                raise ValueError(f"Key {key!r} not in allowed keys {fields['allowed_keys']}")
            return [key]
        case "FixedKeyMapper":
            return [fields["downstream_key"]]
        case "RollupMapper":
            return downstream(fields["upstream_mapper"], key, trusted)
        case "ChainMapper":
            keys = [key]
            for each in fields["mappers"]:
                keys = [mapped for one in keys for mapped in downstream(each, one, trusted)]
            return keys
        case "ProductMapper":
            return [fields["delimiter"].join(_single(each, part, trusted) for each, part in _segments(fields, key))]
        case "FanOutMapper":
            start = _decoded(fields["upstream_mapper"], _single(fields["upstream_mapper"], key, trusted))
            return [_formatted(fields["downstream_mapper"], member) for member in _members(fields["window"], start, trusted)]
        case name if name in NORMALIZE:
            moment = datetime.strptime(key, fields["input_format"])
            local = zone(fields.get("timezone", UTC_NAME))
            moment = localized(moment, local) if moment.tzinfo is None else moment.astimezone(local)
            return [_formatted(mapper, NORMALIZE[name](moment))]
    found = _asked(mapper, trusted).to_downstream(key)
    return [found] if isinstance(found, str) else list(found)


def date_of(mapper: Encoded, key: str, trusted: Sequence[str] = ()) -> datetime | None:
    """Return when the period of a Dag's key starts, or None when this mapper's keys are no times.

    :raises ValueError: when the mapper cannot have made the key.
    """
    fields = mapper["__var"]
    match kind(mapper):
        case "RollupMapper":
            return date_of(fields["upstream_mapper"], key, trusted)
        case "FanOutMapper":
            return date_of(fields["downstream_mapper"], key, trusted)
        case "ChainMapper":
            return date_of(fields["mappers"][-1], key, trusted)
        case "ProductMapper":
            if key.count(fields["delimiter"]) != len(fields["mappers"]) - 1:
                return None
            dates = [found for each, part in _segments(fields, key) if (found := date_of(each, part, trusted)) is not None]
            return dates[0] if len(dates) == 1 else None
        case name if name in NORMALIZE:
            start = NORMALIZE[name](_decoded(mapper, key))
            return localized(start, zone(fields.get("timezone", UTC_NAME))) if start.tzinfo is None else start
        case "IdentityMapper" | "AllowedKeyMapper" | "FixedKeyMapper":
            return None
    date: datetime | None = _asked(mapper, trusted).to_partition_date(key)
    return date


def resolved_date(timetable: Encoded, key: str, trusted: Sequence[str] = ()) -> datetime | None:
    """Return when the period of a key of a Dag's run starts, or None when its timetable cannot tell.

    :param trusted: prefixes of the classes that may be imported.
    :raises InvalidPartitionKey: when the timetable cannot have made the key.
    :raises ValueError: for a key with an offset, where the timetable has a zone of its own.
    :raises UnknownInDag: a mapper is none of Airflow's own and not trusted, or names an unknown zone.
    """
    fields = timetable["__var"]
    match timetable["__type"]:
        case "airflow.timetables.simple.PartitionedAssetTimetable":
            return PartitionedSchedule(timetable, trusted=trusted).date(key)
        case "airflow.timetables.trigger.CronPartitionTimetable":
            local = zone(fields["timezone"])
            try:
                naive = datetime.strptime(key, fields["key_format"])
            except ValueError as error:
                message = (
                    f"Partition key {key!r} does not match the timetable's key_format {fields['key_format']!r}: {error}"
                )
                raise InvalidPartitionKey(message) from error
            return localized(naive, local)
    return None


def kind(mapper: Encoded) -> str:
    """Return the name of one of Airflow's own classes, or its whole path for a custom one."""
    path: str = mapper["__type"]
    return path.rpartition(".")[2] if path.startswith(MAPPERS) else path


def _assets(condition: Mapping[str, Any]) -> Iterator[Mapping[str, str]]:
    """Yield the assets, and references by name or URI, of a serialized condition; aliases have no partitions."""
    match condition["__type"]:
        case "asset":
            yield {"name": condition["name"], "uri": condition["uri"]}
        case "asset_ref":
            yield {field: condition[field] for field in ("name", "uri") if field in condition}
        case "asset_all" | "asset_any":
            for part in condition["objects"]:
                yield from _assets(part)


def _single(mapper: Encoded, key: str, trusted: Sequence[str]) -> str:
    found = downstream(mapper, key, trusted)
    if len(found) != 1:
        raise TypeError(f"{kind(mapper)} must map to a single key here, and gave {len(found)}")
    return found[0]


def _segments(fields: Mapping[str, Any], key: str) -> Iterator[tuple[Encoded, str]]:
    segments, mappers = key.split(fields["delimiter"]), fields["mappers"]
    if len(segments) != len(mappers):
        raise ValueError(f"Expected {len(mappers)} segments in key, got {len(segments)}")
    return zip(mappers, segments, strict=True)


def _formatted(mapper: Encoded, member: Any) -> str:
    """Write a period's start as a mapper does; a mapper that is no clock leaves ISO 8601 or the text itself."""
    if not isinstance(member, datetime):
        return str(member)
    if kind(mapper) not in NORMALIZE:
        return member.isoformat()
    text = member.strftime(mapper["__var"]["output_format"])
    return text.format(quarter=(member.month - 1) // 3 + 1) if kind(mapper) == "StartOfQuarterMapper" else text


def _decoded(mapper: Encoded, key: str) -> Any:
    """Return the start of the period that a mapper wrote as ``key``; what is no clock leaves the text."""
    name, form = kind(mapper), mapper["__var"].get("output_format", "")
    if name not in NORMALIZE:
        return key
    if name not in ("StartOfWeekMapper", "StartOfQuarterMapper"):
        return datetime.strptime(key, form)
    needed = {"Y", "m", "d"} if name == "StartOfWeekMapper" else {"Y", "quarter"}
    found = _pattern(form).search(key)
    if found is None or not needed <= found.groupdict().keys():
        raise ValueError(f"{name} cannot read {key!r} with output_format {form!r}, which must hold {sorted(needed)}")
    month, day = (found["m"], found["d"]) if "m" in needed else (int(found["quarter"]) * 3 - 2, 1)
    return datetime(int(found["Y"]), int(month), int(day))


def _pattern(form: str) -> re.Pattern[str]:
    """Return what matches the texts of a format that ``strptime`` cannot read back: weeks and quarters."""

    def part(text: str) -> str:
        if text.startswith("%") and text[1:] in DIGITS:
            return rf"(?P<{text[1:]}>\d{{{DIGITS[text[1:]]}}})"
        if text == "{quarter}":
            return "(?P<quarter>[1-4])"
        return rf"(?P<{text[1:-1]}>\w+)" if PLACEHOLDER.fullmatch(text) else re.escape(text)

    return re.compile("^" + "".join(part(text) for text in SPECIAL.split(form)) + "$")


def _members(window: Encoded, start: Any, trusted: Sequence[str]) -> list[Any]:
    """Return the periods of which a window consists, from its start on or, backward, up to it."""
    name, fields = kind(window), window["__var"]
    backward = fields.get("direction") == "backward"
    if name == "SegmentWindow":
        return sorted(fields["segments"])
    if name in ("MonthWindow", "QuarterWindow", "YearWindow") and start.day != 1:
        raise ValueError(f"{name} expects a period start on day 1 of the month, got {start.isoformat()}")
    if name == "MonthWindow":
        first = _months_later(start, -1) + timedelta(days=1) if backward else start
        days = (start - _months_later(start, -1) if backward else _months_later(start, 1) - start).days
        return [first + timedelta(days=n) for n in range(days)]
    if name not in STEPS:
        return list(_asked(window, trusted).to_upstream(start))
    count, step = STEPS[name]
    first = step(start, 1 - count) if backward else start
    return [step(first, n) for n in range(count)]


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _months_later(moment: datetime, months: int) -> datetime:
    total = moment.month - 1 + months
    return moment.replace(year=moment.year + total // 12, month=total % 12 + 1)


def _asked(encoded: Encoded, trusted: Sequence[str]) -> Any:
    """Return a custom mapper or window, which comes with an Airflow beside it."""
    found = trusted_class(encoded["__type"], trusted)
    try:
        return found.deserialize(encoded["__var"])
    except FOREIGN as error:
        message = f"the partition mapper {encoded['__type']} cannot be asked here ({type(error).__name__}: {error})"
        raise UnknownMapper(message) from error
