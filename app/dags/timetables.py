"""The data interval of a manually triggered run, for each of Airflow's built-in timetables.

A timetable comes serialized, as ``{"__type": class path, "__var": fields}``; the rules are those of Airflow 3.2.1 and 3.3.2,
observed. A custom timetable is asked itself, if the operator trusts its class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

from app.dags.clocks import localized, zone
from app.dags.trusted import trusted_class
from app.errors import FOREIGN, UnknownInDag

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


# Names of crons that Airflow has; 3.2 serializes them as they were given.
PRESETS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@quarterly": "0 0 1 */3 *",
    "@yearly": "0 0 1 1 *",
}


class UnknownTimetable(UnknownInDag):
    """A timetable that tells no interval here; the message says which, and why."""


def manual_interval(
    timetable: Mapping[str, Any], run_after: datetime, *, strictly_before: bool = True, trusted: Sequence[str] = ()
) -> Interval:
    """Return start and end of the data interval of a run that is triggered to run after ``run_after``.

    :param strictly_before: whether an interval that a change of clocks leaves without length gives way to the one before.
    :param trusted: prefixes of the classes that may be imported.
    :raises UnknownInDag: when it is none of Airflow's own and not trusted, or when it tells no interval.
    """
    kind, fields = timetable["__type"], timetable["__var"]
    if kind in EXACT:
        return run_after, run_after
    if kind in TRIGGER:
        return _utc(run_after - _delta(fields.get("interval", 0.0))), run_after
    match kind.rpartition(".")[2] if kind.startswith("airflow.timetables.") else "":
        case "CronDataIntervalTimetable":
            return _Cron(fields["expression"], zone(fields["timezone"]), strictly_before).last_complete(run_after)
        case "DeltaDataIntervalTimetable":
            return _utc(run_after - _delta(fields["delta"])), run_after
        case "AssetOrTimeSchedule" | "AssetAndTimeSchedule":
            return manual_interval(fields["timetable"], run_after, strictly_before=strictly_before, trusted=trusted)
        case "EventsTimetable":
            moment = _event(fields, run_after)
            return moment, moment
    return _asked(kind, fields, run_after, trusted)


def is_partitioned(timetable: Mapping[str, Any]) -> bool:
    """Say whether the runs of this timetable may have a partition key."""
    return timetable["__type"] in PARTITIONED


def _delta(encoded: Any) -> timedelta | relativedelta:
    """Return an interval, serialized as seconds or as the fields of a ``relativedelta``."""
    if isinstance(encoded, int | float):
        return timedelta(seconds=encoded)
    from dateutil.relativedelta import relativedelta, weekday

    fields = dict(encoded.get("__var", encoded))
    if "weekday" in fields:
        fields["weekday"] = weekday(*fields["weekday"])
    return relativedelta(**fields)


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

    def __init__(self, expression: str, zone: tzinfo, strictly_before: bool) -> None:
        self._expression, self._zone = PRESETS.get(expression, expression), zone
        self._strictly_before = strictly_before

    def last_complete(self, moment: datetime) -> Interval:
        """Return the last interval that was complete at ``moment``.

        :raises UnknownTimetable: for an expression that is none, or that no day fits.
        """
        from croniter import CroniterError

        try:
            end = self._step(moment, back=True)
            if self._step(end, back=False) == moment:
                end = moment
            return self._step(end, back=True), end
        except (CroniterError, OverflowError, ValueError) as error:
            raise UnknownTimetable(f"the cron expression {self._expression!r} tells no interval: {error}") from error

    def _step(self, moment: datetime, *, back: bool) -> datetime:
        from croniter import croniter

        local = moment.astimezone(self._zone).replace(tzinfo=None)
        cron = croniter(self._expression, start_time=local)
        found: datetime = cron.get_prev(datetime) if back else cron.get_next(datetime)
        if self._every_hour(cron):  # by elapsed time, so that an hour that comes twice has runs twice
            return _utc(moment + (found - local))
        stepped = _utc(localized(found, self._zone))
        while back and self._strictly_before and stepped >= moment:  # a time that clocks skip falls on a later one
            stepped = _utc(localized(cron.get_prev(datetime), self._zone))
        return stepped

    @staticmethod
    def _every_hour(cron: croniter) -> bool:
        return bool(cron.expanded[1] == ["*"])


def _asked(kind: str, fields: Mapping[str, Any], run_after: datetime, trusted: Sequence[str]) -> Interval:
    """Ask a custom timetable, which comes with an Airflow beside it."""
    found = trusted_class(kind, trusted)
    try:
        interval = found.deserialize(fields).infer_manual_data_interval(run_after=run_after)
        return _utc(interval.start), _utc(interval.end)
    except FOREIGN as error:  # the triggering task is told which class
        raise UnknownTimetable(f"the timetable {kind} cannot be asked here ({type(error).__name__}: {error})") from error
