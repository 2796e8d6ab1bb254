"""Regions and loops: what is made for a run, and which of several forks counts."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from app.dags import loops
from app.dags.loops import Loop
from app.releases.airflow_3_4.lineage import Lineage, Pass, Region, slot_key
from app.releases.airflow_3_4.regions import Places
from app.releases.airflow_3_4.schema import NO_REGION

NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
LOOP = Loop("outer.again", "outer.again.enough", "outer.again.last", 3, True)


def _group(children: dict[str, Any], **further: Any) -> tuple[str, dict[str, Any]]:
    return "taskgroup", {"children": children, **further}


def test_the_loops_of_a_dag() -> None:
    about = {"max_iterations": 3, "has_until": True, "terminal_task_id": "outer.again.last"}
    inner = _group({"outer.again.inner.deep": ("operator", "outer.again.inner.deep")})
    again = _group(
        {
            "outer.again.last": ("operator", "outer.again.last"),
            "outer.again.enough": ("operator", "outer.again.enough"),
            "outer.again.inner": inner,
        },
        loop={**about, "gate_task_id": "outer.again.enough"},
    )
    outer = _group({"outer.again": again, "outer.after": ("operator", "outer.after")})
    dag = {"task_group": _group({"outer": outer, "first": ("operator", "first")})[1]}
    assert loops.around(dag) == dict.fromkeys(["outer.again.last", "outer.again.enough", "outer.again.inner.deep"], LOOP)


@pytest.mark.parametrize(
    ("has_until", "stop", "number", "refused"),
    [
        (True, True, 0, None),
        (True, False, 0, None),
        (True, True, 2, None),
        (True, False, 2, "Loop cannot continue beyond its iteration limit"),
        (True, None, 0, "Successful loop gate requires a decision"),
        (False, False, 1, None),
        (False, True, 2, None),
        (False, True, 1, "Fixed-count loop decision does not match its iteration limit"),
        (False, False, 2, "Loop cannot continue beyond its iteration limit"),
    ],
)
def test_what_a_gate_can_decide(has_until: bool, stop: bool | None, number: int, refused: str | None) -> None:
    assert Loop("a", "b", "c", 3, has_until).refuse(stop, number=number) == refused


def test_what_tells_that_two_regions_are_for_the_same() -> None:
    """As Airflow 3.4.0b2 computed it."""
    assert slot_key("dag", "rün", "node", None).hex() == "714d9c3d6fafeca5f4248e466b3519519923e4e00a336a830d4bcf349273913d"
    assert (
        slot_key("dag", "rün", "node", (uuid.UUID(int=7), 3)).hex()
        == "71d7ca8c60c7f3b34e579d677471c39c7652a3450c8e0465a46fb69ad90c2c87"
    )


def _row(task_id: str, map_index: int = -1, *, is_mapped: bool = False, loop: Loop | None = None) -> dict[str, Any]:
    return {"task_id": task_id, "map_index": map_index, "is_mapped": is_mapped, "loop": loop}


def test_the_places_of_a_new_run() -> None:
    places = Places(Lineage(()), {})
    assert places.of(_row("plain")) == [{"region_id": NO_REGION}]
    first, second = (places.of(_row("mapped", index, is_mapped=True))[0] for index in (0, 1))
    assert first == second
    [looped] = places.of(_row("outer.again.last", loop=LOOP))
    [gate] = places.of(_row("outer.again.enough", loop=LOOP))
    assert looped["region_id"] == gate["region_id"] != first["region_id"]
    assert looped["map_index"] == gate["map_index"] == 0
    [inside] = places.of(_row("outer.again.many", is_mapped=True, loop=LOOP))
    assert "map_index" not in inside
    rows = {row["node_id"]: row for row in (region.columns("d", "r", now=NOW) for region in places.made)}
    assert {node_id: row["id"] for node_id, row in rows.items()} == {
        "mapped": first["region_id"],
        "outer.again": looped["region_id"],
        "outer.again.many": inside["region_id"],
    }
    assert all(row["family_root_id"] == row["id"] and row["slot_key"] for row in rows.values())
    below = rows["outer.again.many"]
    assert (below["parent_region_id"], below["parent_region_index"]) == (looped["region_id"], 0)
    assert below["path"] == looped["region_id"].bytes + b"\0\0\0\0"
    assert rows["mapped"]["path"] == rows["outer.again"]["path"] == b""


def test_later_passes() -> None:
    region = Region(uuid.uuid4(), LOOP.node_id)
    places = Places(Lineage([region]), {LOOP.node_id: [Pass(region, 0), Pass(region, 258)]})
    looped = places.of(_row("outer.again.last", loop=LOOP))
    assert [(each["region_id"], each["map_index"]) for each in looped] == [(region.id, 0), (region.id, 258)]
    assert len({each["id"] for each in looped}) == 2
    places.of(_row("outer.again.many", is_mapped=True, loop=LOOP))
    assert [(below.parent, below.path) for below in places.made] == [
        ((region.id, 0), region.id.bytes + b"\0\0\0\0"),
        ((region.id, 258), region.id.bytes + b"\0\0\1\2"),
    ]


def test_a_region_that_is_there_is_not_made_again() -> None:
    there = Region(uuid.uuid4(), "mapped")
    places = Places(Lineage([there]), {})
    assert places.of(_row("mapped", is_mapped=True)) == [{"region_id": there.id}]
    assert places.made == []


def test_forks() -> None:
    root = Region(uuid.uuid4(), LOOP.node_id)
    below = [Region(uuid.uuid4(), "many", parent=(root.id, number)) for number in range(3)]
    first = Lineage([root, *below]).fork(root, 2)
    second = Lineage([root, *below, first]).fork(root, 1)
    assert (first.source, first.first, first.family) == (root.id, 2, root.id)
    assert (second.source, second.first, second.family) == (first.id, 1, root.id)
    assert second.columns("d", "r", now=NOW)["slot_key"] is None
    lineage = Lineage([root, *below, first, second])
    assert [lineage.is_superseded(root.id, number) for number in range(3)] == [False, True, True]
    assert lineage.is_superseded(first.id, 2)
    assert not lineage.is_superseded(second.id, 1)
    assert [lineage.is_superseded(region.id, 7) for region in below] == [False, True, True]
    assert lineage.next_pass(Pass(root, 0)) == Pass(second, 1)
    assert Lineage([root, first]).next_pass(Pass(root, 0)) == Pass(root, 1)
    assert Lineage([root, first]).next_pass(Pass(root, 1)) == Pass(first, 2)
    assert lineage.pass_of(below[1].id, 7) == Pass(root, 1)
    assert lineage.pass_of(second.id, 1) == Pass(second, 1)
    assert lineage.pass_of(NO_REGION, -1) is None


def test_a_row_and_back() -> None:
    region = Region(uuid.uuid4(), "many", (uuid.uuid4(), 4), uuid.uuid4(), 3, uuid.uuid4(), b"path")
    assert Region.of(SimpleNamespace(**region.columns("d", "r", now=NOW))) == region
