"""Calendars over the changes of clocks: a grid of zones, crons and moments, other ones each day, asked of each Airflow."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.dags import partitions, timetables
from app.errors import UnknownInDag
from app.releases import REVISIONS, Revision
from tests.contract.serialized import kept
from tests.servers import AIRFLOW, airflow_environment, clean_environment

pytestmark = pytest.mark.slow

QUESTIONS = 1500
# Where clocks are put forward and back by an hour, by half of one, at midnight, below zero, once for all, and never.
ZONES: tuple[Any, ...] = (
    *("Europe/Paris", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Africa/Cairo", "Asia/Beirut"),
    *("Europe/Dublin", "Africa/Casablanca", "America/St_Johns", "Pacific/Apia", "Asia/Kolkata", "UTC", 7200, -12600),
)
CRONS = (
    *("0 2 * * *", "30 2 * * *", "0 */2 * * *", "0 1 * * *", "45 1 * * *", "30 * * * *", "*/15 * * * *", "0 0 * * *"),
    *("30 0 * * *", "0 3 * * 1", "30 * 1 * *", "0 0 1 * *", "0 1-3 * * *", "5,35 2 * * *", "0 2 29 2 *", "0 0 L * *"),
    *("* * * * *", "0 0 1 */3 *", "15 2 * 3,10 0", "0 12 15 * 5", "@daily", "@hourly", "@quarterly", "@yearly", "0 2 * * 7"),
    *("@weekly", "@monthly", "0 3 31 2 *", "0 0 * * 0#2", "0 0 31 4 *"),
)
CHANGES = (  # days on which some of these zones change their clocks
    *("2026-03-08", "2026-03-29", "2026-04-05", "2026-04-24", "2026-10-04", "2026-10-25", "2026-10-30", "2026-11-01"),
    *("2011-12-30", "2026-03-28", "2026-09-06", "2026-02-15", "2026-03-22"),
)
DELTAS: tuple[Any, ...] = (
    *(3600.0, 0.5, 86400.0 * 31),
    *({"months": 1}, {"days": 1, "weekday": [4]}, {"weekday": [4, 2]}, {"weekday": [0, -1]}, {"hours": 25}),
)


def _moment(draw: random.Random) -> str:
    day = datetime.fromisoformat(draw.choice(CHANGES)).replace(tzinfo=UTC)
    return (day + timedelta(minutes=draw.choice((15, 30, 60)) * draw.randrange(-60, 120))).isoformat()


def _interval_questions(draw: random.Random) -> Iterator[tuple[str, dict[str, Any], str]]:
    for _ in range(QUESTIONS):
        kind = draw.choice(("interval.CronDataInterval",) * 6 + ("interval.DeltaDataInterval", "trigger.DeltaTrigger"))
        fields = {"expression": draw.choice(CRONS), "timezone": draw.choice(ZONES)}
        if "Delta" in kind:
            fields = {"delta": draw.choice(DELTAS), "interval": draw.choice(DELTAS)}
            fields |= {} if "Trigger" in kind else {"delta": fields["delta"]}
        yield "interval", {"__type": f"airflow.timetables.{kind}Timetable", "__var": fields}, _moment(draw)


def _key_questions(draw: random.Random, revision: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    found: list[dict[str, Any]] = []
    for data in kept(AIRFLOW[revision]).values():
        config = data["dag"]["timetable"]["__var"].get("partition_mapper_config", ())
        found += [mapper for _, mapper in config]
    for _ in range(QUESTIONS):
        mapper = json.loads(json.dumps(draw.choice(found)))
        for each in (mapper, *(mapper["__var"].get(part, {}) for part in ("upstream_mapper", "downstream_mapper"))):
            if "input_format" in each.get("__var", {}) and draw.random() < 0.7:
                each["__var"]["timezone"] = draw.choice(ZONES)
        moment = datetime.fromisoformat(_moment(draw)).strftime(
            draw.choice(("%Y-%m-%dT%H:%M:%S",) * 5 + ("%Y-%m-%d", "%F %z"))
        )
        prefix = "eu|" if "delimiter" in mapper["__var"] and draw.random() < 0.9 else ""
        yield "keys", mapper, prefix + moment


def _ours(revision: Revision, kind: str, encoded: dict[str, Any], value: str) -> Any:
    try:
        if kind == "keys":
            return partitions.downstream(encoded, value)
        strictly = revision.runs.intervals_have_length
        interval = timetables.manual_interval(encoded, datetime.fromisoformat(value), strictly_before=strictly)
        return [moment.astimezone(UTC).isoformat() for moment in interval]
    except (UnknownInDag, ValueError, TypeError, OverflowError):
        return "error"


@pytest.mark.parametrize("revision", AIRFLOW)
def test_as_airflow_has_it(revision: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED") or date.today().toordinal())
    draw = random.Random(seed)
    questions = [*_interval_questions(draw), *_key_questions(draw, revision)]
    asked, answers = tmp_path / "asked.json", tmp_path / "answers.json"
    asked.write_text(json.dumps(questions))
    python, script = airflow_environment(AIRFLOW[revision]) / "bin" / "python", Path(__file__).with_name("ask_calendars.py")
    environment = {**clean_environment(), "AIRFLOW_HOME": str(tmp_path)}
    subprocess.run([python, script, asked, answers], env=environment, check=True, capture_output=True)
    told = json.loads(answers.read_text())
    assert told.count("error") < len(told) / 3, "most questions have an answer"
    (served,) = (each for each in REVISIONS if each.name == revision)
    pairs = zip(questions, told, strict=True)
    differing = [(question, theirs, ours) for question, theirs in pairs if theirs != (ours := _ours(served, *question))]
    assert differing == [], f"{len(differing)} of {len(questions)} differ; again: SEED={seed}"
