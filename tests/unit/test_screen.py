"""``top``'s lines: they fit, they are whole where there is room, and nothing but text reaches a terminal."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.commands.readings import Counted, Reading, Tasks, counted
from app.commands.screen import lines
from app.db.components import CRITICAL_SECTION, UNKNOWN, Component
from app.db.holders import Held, Picture, Session

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SCHEDULER = Session(
    4711, CRITICAL_SECTION, role="airflow", client="10.0.0.7", state="idle in transaction", idle=11.9, in_transaction=12.4,
    statement="UPDATE task_instance SET state=?, queued_dttm=? WHERE task_instance.id = ?",
)  # fmt: skip
WAITING = Session(
    4712,
    Component("triggerer", "takes triggers"),
    role="airflow",
    state="active",
    waits=75.2,
    statement="DELETE FROM trigger",
)
NAME = {"dag_id": "sales", "task_id": "load", "map_index": 3, "run_id": "daily", "state": "running", "id": "01a2"}
HELD = Held("row", "task_instance", NAME, (SCHEDULER,), (WAITING,))
SERVICE = Counted(
    requests={"PUT /heartbeat": 100.0, "GET /health": 5.0}, failed={"PUT /heartbeat": 2.0}, came_back={"lock_timeout": 30.0},
    unavailable={"lock_timeout": 2.0}, at_the_door={"start": 4.0, "report": 0.0}, waiting={}, in_flight=7.0, connections=3.0,
)  # fmt: skip
READING = Reading(NOW, "db:5432/airflow", Tasks(12, 3, 1, 200.0, 300.0), Picture((HELD,)), SERVICE)


def text(reading: Reading, before: Reading | None = None) -> str:
    return "\n".join(lines(reading, before, width=None))


def test_who_holds_what_and_who_waits() -> None:
    shown = text(READING)
    for part in (
        "db:5432/airflow",
        "12 running  3 queued  1 heartbeat late (after 2 min 30 s; ended after 5 min 0 s)  longest silence 3 min 20 s",
        "7 requests in flight  3 connections used  at the door 4 start  waiting for a connection 0",
        "met a lock and came back 30 lock_timeout  503 2 lock_timeout",
        "held: 1  waiting in PostgreSQL: 1",
        "scheduler (critical section)  holds 1  transaction of 12.4 s  pid 4711  airflow@10.0.0.7  idle in transaction for",
        "UPDATE task_instance SET state=?, queued_dttm=? WHERE task_instance.id = ?",
        "task_instance  sales / load [3]  run_id daily  state running  id 01a2",
        "waits 1 min 15 s  triggerer (takes triggers)  pid 4712  airflow@local  DELETE FROM trigger",
    ):
        assert part in shown


def test_what_is_counted_is_told_by_the_second_once_there_are_two_readings() -> None:
    later = replace(
        READING,
        at=NOW + timedelta(seconds=4),
        service=replace(SERVICE, requests={"PUT /heartbeat": 110.0, "GET /health": 1.0}),
    )
    shown = text(later, READING)
    assert "2.5         0  PUT /heartbeat" in shown
    assert "0         0  GET /health" in shown, "a service that was started anew"
    assert "came back 0  503 0" in shown


def test_nobody_holds_anything() -> None:
    assert "nobody holds what others need" in text(replace(READING, picture=Picture()))


def test_what_could_not_be_read_is_said() -> None:
    shown = text(Reading(NOW, "db:5432/airflow", troubles=("the database cannot be read",)))
    assert shown.splitlines()[1:] == ["! the database cannot be read", ""]


def test_a_row_that_nobody_waits_for_in_postgresql() -> None:
    assert "requests that need it come back to it" in text(replace(READING, picture=Picture((replace(HELD, waiting=()),))))


@pytest.mark.parametrize(
    ("held", "shown"),
    [
        (replace(HELD, kind="table", row={}), "    table task_instance"),
        (replace(HELD, kind="transaction", table=None, row={}), "    transaction"),
        (replace(HELD, row={"page": 3, "number": 9}), "    task_instance  page 3  number 9"),
        (replace(HELD, holders=()), "nobody any more  it was let go while this was read"),
        (replace(HELD, holders=(Session(7, UNKNOWN),)), "unknown  holds 1  pid 7\n  its statement is not known"),
    ],
)
def test_what_is_held(held: Held, shown: str) -> None:
    assert shown in text(replace(READING, picture=Picture((held,))))


def columns(line: str) -> int:
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


MANY = Picture(tuple(replace(HELD, row={**NAME, "task_id": f"t{n}"}, waiting=(WAITING,) * (n % 7)) for n in range(500)))
OF_MANY = Picture(tuple(replace(HELD, holders=(replace(SCHEDULER, pid=n),)) for n in range(500)))
STRANGE = Picture((replace(HELD, row={**NAME, "task_id": "夜間バッチ" * 20, "run_id": "\x1b]0;evil\x07\n\r\u202e"}),))


@pytest.mark.parametrize("picture", [Picture(), Picture((HELD,)), MANY, OF_MANY, STRANGE])
@pytest.mark.parametrize(("width", "height"), [(20, 5), (40, 12), (80, 24), (250, 80)])
def test_it_fits_any_terminal(picture: Picture, width: int, height: int) -> None:
    shown = lines(replace(READING, picture=picture), READING, width=width, height=height)
    assert len(shown) <= height
    assert max(map(columns, shown)) <= width
    assert all(line.isprintable() for line in shown)


def test_what_does_not_fit_is_counted() -> None:
    shown = lines(replace(READING, picture=MANY), None, width=99, height=50)
    rows = sum("task_instance  sales" in line for line in shown)
    assert rows > 5
    assert f"    and {500 - rows} more" in shown
    shown = lines(replace(READING, picture=OF_MANY), None, width=99, height=50)
    assert f"and {500 - sum(' holds 1 ' in line for line in shown)} more holders" in shown
    assert text(replace(READING, picture=MANY)).count("task_instance  sales") == 500, "where there is no end, all are shown"


def test_colours_take_no_room() -> None:
    (plain, coloured) = (lines(READING, None, width=60, colours=colours)[0] for colours in (False, True))
    assert coloured == plain.replace("execution-api top", "\x1b[1mexecution-api top\x1b[0m")


def test_metrics_of_something_else() -> None:
    with pytest.raises(ValueError, match="something else"):
        counted("# TYPE up gauge\nup 1\n")
