"""No value of a request ends in the failure fallback: what cannot be recorded is refused, and the task runs on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import empty
from tests.contract.cases.setups import SETUPS
from tests.faults.conftest import InProcess

END = {"end_date": "2026-01-01T00:05:00Z"}
KEY = {"name": "first", "uri": "s3://bucket/first"}
THROUGH = {"source_alias_name": "alias", "dest_asset_key": KEY, "dest_asset_extra": {"a": 1}, "extra": {"a": 1}}
REPORTS: dict[str, tuple[str, dict[str, Any]]] = {
    "success": ("outlets", {"state": "success", **END, "rendered_map_index": "x"}),
    "success with outlets": (
        "outlets",
        {
            "state": "success",
            **END,
            "task_outlets": [{**KEY, "type": "Asset"}, {"name": "alias", "uri": None, "type": "AssetAlias"}],
            "outlet_events": [{"dest_asset_key": KEY, "extra": {"a": 1}, "partition_key": "p"}, THROUGH],
        },
    ),
    "retry": (
        "with_tries",
        {"state": "up_for_retry", **END, "rendered_map_index": "x", "retry_delay_seconds": 1.5, "retry_reason": "because"},
    ),
    "deferral": (
        "running",
        {
            "state": "deferred", "classpath": "T", "trigger_kwargs": {"a": 1}, "trigger_timeout": "PT5S", "queue": "q",
            "next_method": "m", "next_kwargs": {"a": 1}, "rendered_map_index": "x",
        },
    ),
    "reschedule": ("running", {"state": "up_for_reschedule", **END, "reschedule_date": "2026-01-01T01:00:00Z"}),
    "awaiting input": (
        "running",
        {
            "state": "awaiting_input", "timeout": "PT5S", "next_method": "m", "next_kwargs": {"a": 1},
            "rendered_map_index": "x",
        },
    ),
    "failed": ("fail_fast", {"state": "failed", **END, "rendered_map_index": "x"}),
}  # fmt: skip
DEEP = 400  # levels: within what is read, and what is written deeper in the stack
HOSTILE = {
    "NUL": "a\0b",
    "lone surrogate": "\ud800",
    "long": "x" * 5000,
    "empty": "",
    "null": None,
    "true": True,
    "negative": -1,
    "larger than an integer": 2**63,
    "a thousand digits": 10**1000,
    "infinity": float("inf"),
    "not a number": float("nan"),
    "list": [],
    "list of lists": [[]],
    "object": {},
    "object of hostile keys": {"\0": 1, "\ud800": 2, "": {}},
    "deep list": json.loads("[" * DEEP + "]" * DEEP),
    "deep object": json.loads('{"a":' * DEEP + "1" + "}" * DEEP),
    "first moment": "0001-01-01T00:00:00+14:00",
    "last moment": "9999-12-31T23:59:59-14:00",
    "longest time": "P999999999D",
    "negative time": "-P999999999D",
}


def places(body: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where a value can be replaced: every member, however deep."""
    members = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for name, value in members:
        yield (*where, name)
        yield from places(value, (*where, name))


def replaced(body: Any, where: tuple[Any, ...], value: Any) -> Any:
    copy = dict(body) if isinstance(body, dict) else list(body)
    copy[where[0]] = value if len(where) == 1 else replaced(body[where[0]], where[1:], value)
    return copy


@pytest.fixture(scope="module")
def revision() -> str:
    """Return the revision that has every kind of report."""
    return "3.3"


@pytest.mark.slow
@pytest.mark.parametrize("name", REPORTS)
async def test_no_value_fails_a_task(ours: InProcess, name: str) -> None:
    setup, body = REPORTS[name]
    problems = []
    ti = None
    for where in places(body):
        for kind, value in HOSTILE.items():
            if where == ("state",):
                continue
            if ti is None:
                await empty(ours.world.connection)
                ti = await SETUPS[setup](ours.world)
            content = json.dumps(replaced(body, where, value))
            async with ours.client(ti) as client:
                headers = {"content-type": "application/json"}
                answer = await client.patch(f"/task-instances/{ti}/state", content=content, headers=headers)
            refused = 400 <= answer.status_code < 500 and "state_not_recorded" not in answer.text
            if answer.status_code != 204 and not refused:
                problems.append((where, kind, answer.status_code, answer.text[:200]))
            if refused and await ours.state(ti) != "running":
                problems.append((where, kind, "is", await ours.state(ti)))
            if not refused:
                ti = None
    assert problems == []
