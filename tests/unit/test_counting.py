"""What is counted is said right for one and for many."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.commands.counting import number_of
from app.commands.lives import Life
from app.commands.rehearse import Rehearsed, lines
from app.commands.screen import lines as shown
from app.commands.size import Load, of, told
from tests.unit.test_screen import READING, SERVICE


@pytest.mark.parametrize(("count", "said"), [(0, "0"), (2, "2"), (1_234_567, "1,234,567"), (6.5, "6.5"), (7.0, "7")])
def test_one_and_many(count: float, said: str) -> None:
    assert number_of(count, "Dag") == f"{said} Dags"
    assert number_of(1, "Dag") == number_of(1.0, "Dag") == "1 Dag"


@pytest.mark.parametrize(
    ("lives", "last"),
    [
        ([], "there is no Dag to rehearse: table dag of here has none, or stale ones only"),
        ([Life("a")], "your Dag can be served"),
        ([Life("a"), Life("b")], "each of your 2 Dags can be served"),
        ([Life("a", faults=[("a trigger", "why")])], "0 of 1 Dag can be served"),
        ([Life("a"), Life("b", faults=[("a trigger", "why")])], "1 of 2 Dags can be served"),
    ],
)
def test_a_rehearsal_s_end(lives: list[Life], last: str) -> None:
    assert list(lines(Rehearsed("here", "3.3", lives)))[-1] == last


def test_a_rehearsal_s_end_before_its_first_dag() -> None:
    assert list(lines(Rehearsed("here", "3.3", trouble="why")))[-2:] == ["FAIL  why", "no Dag was rehearsed"]


def test_a_rehearsal_s_notes() -> None:
    one = list(lines(Rehearsed("here", "3.3", [Life("a", refused="why")])))
    assert one[1] == "  1 Dag triggered, 0 tasks of theirs run through, and cleared"
    assert "note  1 Dag (a): cannot be triggered by a task, on Airflow's own server either: why" in one
    two = list(lines(Rehearsed("here", "3.3", [Life("a", refused="why"), Life("b", refused="why")])))
    assert "note  2 Dags (a, b): cannot be triggered by a task, on Airflow's own server either: why" in two


def test_one_of_a_service() -> None:
    said = "\n".join(shown(replace(READING, service=replace(SERVICE, in_flight=1.0, connections=1.0)), None, width=None))
    assert "1 request in flight  1 connection used" in said


def test_one_task_s_size() -> None:
    load = Load(1, requests=1)
    assert told(load, of(load))[0] == "1 running task of 60 s, a heartbeat each 5 s, 1 request each besides:"
