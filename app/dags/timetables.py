"""The data interval of a manually triggered run, for each of Airflow's built-in timetables.

A timetable comes serialized, as ``{"__type": class path, "__var": fields}``; the rules are those of Airflow 3.2.1 and 3.3.2,
observed. A custom timetable is asked itself, if its class can be imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from importlib import import_module
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from app.errors import ExecutionApiError

if TYPE_CHECKING:  # imported with the first calendar that is asked: most workers' tasks trigger nothing
    from croniter import croniter
    from dateutil.relativedelta import relativedelta

Interval = tuple[datetime, datetime]

EXACT = {
    f"airflow.timetables.simple.{name}"
    for name in (
        "NullTimetable",
        "OnceTimetable",
        "ContinuousTimetable",
        "AssetTriggeredTimetable",
        "PartitionedAtRuntime",
        "PartitionedAssetTimetable",
    )
}
TRIGGER = {
    f"airflow.timetables.trigger.{name}"
    for name in ("CronTriggerTimetable", "DeltaTriggerTimetable", "MultipleCronTriggerTimetable", "CronPartitionTimetable")
}
PARTITIONED = {
    "airflow.timetables.trigger.CronPartitionTimetable",
    "airflow.timetables.simple.PartitionedAssetTimetable",
    "airflow.timetables.simple.PartitionedAtRuntime",
}


class UnknownTimetable(ExecutionApiError):
    """A timetable that cannot be asked here; the message names its class."""


def manual_interval(timetable: Mapping[str, Any], run_after: datetime) -> Interval:
    """Return start and end of the data interval of a run that is triggered to run after ``run_after``.

    :raises UnknownTimetable: when it is none of Airflow's own and its class cannot be imported.
    """
    kind, fields = timetable["__type"], timetable["__var"]
    if kind in EXACT:
        return run_after, run_after
    if kind in TRIGGER:
        return _utc(run_after - _delta(fields.get("interval", 0.0))), run_after
    match kind.rpartition(".")[2] if kind.startswith("airflow.timetables.") else "":
        case "CronDataIntervalTimetable":
            return _Cron(fields["expression"], zone(fields["timezone"])).last_complete(run_after)
        case "DeltaDataIntervalTimetable":
            return _utc(run_after - _delta(fields["delta"])), run_after
        case "AssetOrTimeSchedule":
            return manual_interval(fields["timetable"], run_after)
        case "EventsTimetable":
            moment = _event(fields, run_after)
            return moment, moment
    return _asked(kind, fields, run_after)


def is_partitioned(timetable: Mapping[str, Any]) -> bool:
    """Say whether the runs of this timetable may have a partition key."""
    return timetable["__type"] in PARTITIONED


def _delta(encoded: Any) -> timedelta | relativedelta:
    """Return an interval, serialized as seconds or as the fields of a ``relativedelta``."""
    if isinstance(encoded, int | float):
        return timedelta(seconds=encoded)
    fields = dict(encoded.get("__var", encoded))
    if weekday := fields.pop("weekday", None):
        raise UnknownTimetable(f"a relative interval with a weekday ({weekday}) is not supported")
    from dateutil.relativedelta import relativedelta

    return relativedelta(**fields)


def zone(encoded: Any) -> tzinfo:
    """Return a time zone, serialized by name or as its offset in seconds."""
    return ZoneInfo(encoded) if isinstance(encoded, str) else timezone(timedelta(seconds=encoded))


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def _event(fields: Mapping[str, Any], run_after: datetime) -> datetime:
    dates = [datetime.fromisoformat(text) for text in fields["event_dates"]]
    if not fields["restrict_to_events"] or not dates:
        return run_after
    past = [date for date in dates if date <= run_after]
    return _utc(past[-1] if past else dates[0])


class _Cron:
    """A cron expression in a time zone, where clocks are put forward and back."""

    def __init__(self, expression: str, zone: tzinfo) -> None:
        self._expression, self._zone = expression, zone

    def last_complete(self, moment: datetime) -> Interval:
        """Return the last interval that was complete at ``moment``."""
        end = self._step(moment, back=True)
        if self._step(end, back=False) == moment:
            end = moment
        return self._step(end, back=True), end

    def _step(self, moment: datetime, *, back: bool) -> datetime:
        from croniter import croniter

        local = moment.astimezone(self._zone).replace(tzinfo=None)
        cron = croniter(self._expression, start_time=local)
        found: datetime = cron.get_prev(datetime) if back else cron.get_next(datetime)
        if self._every_hour(cron):  # by elapsed time, so that an hour that comes twice has runs twice
            return _utc(moment + (found - local))
        return _utc(found.replace(tzinfo=self._zone))

    @staticmethod
    def _every_hour(cron: croniter) -> bool:
        return bool(cron.expanded[1] == ["*"] and len(cron.expanded) > 1)


def _asked(kind: str, fields: Mapping[str, Any], run_after: datetime) -> Interval:
    """Ask a custom timetable, which comes with an Airflow beside it."""
    module, _, name = kind.rpartition(".")
    try:
        timetable = getattr(import_module(module), name).deserialize(fields)
        interval = timetable.infer_manual_data_interval(run_after=run_after)
        return _utc(interval.start), _utc(interval.end)
    except Exception as error:  # whatever a foreign class raises: the triggering task is told which class
        raise UnknownTimetable(f"the timetable {kind} cannot be asked here ({type(error).__name__}: {error})") from error
