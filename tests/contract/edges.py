"""Values at the edge of what JSON, Python and PostgreSQL can hold, by kind, and the fields of requests that take each kind.

The values are JSON text, for most of them cannot be written by an encoder that keeps to the standard. They are asked one
by one of Airflow's servers and of ours (``test_edges.py``), and drawn into sequences (``test_generated.py``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tests.contract.cases.case import (
    A1,
    ASK,
    CUT,
    DEFER,
    ENTER,
    HITL,
    KEPT_READABLE,
    NOT_FAILED,
    OUT,
    PARK,
    RESPONSE,
    RUN_IT,
    START,
    STORE,
    TI,
    X,
    event,
)

HOLE = "the edge value"


def nested(levels: int, innermost: str = "1") -> str:
    """Return JSON of so many arrays around a value."""
    return "[" * levels + innermost + "]" * levels


TOO_DEEP = (nested(300), nested(900))  # each JSON that Python still reads, where its stack is not deep already
JSON = (
    "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e5000", "1e131071", "1" * 400 + ".5", "1e-400", "1e-20000", "1e308",
    '[{"a": NaN}]', '[{"a": [1e400]}]',
    r'"\ud800"', r'{"\udc00": 1}', r'["\ud83d\ude00"]', r'"\u0000"', r'{"a\u0000b": 1}', r'"\\u0000"',
    nested(100), nested(250), *TOO_DEEP, nested(3000), nested(100_000),
    str(2**70), str(-(10**400)), "1" * 5001, "-0.0", '{"a": 1, "a": 2}', '{"": {"": []}}', "null", "true",
)  # fmt: skip
MOMENTS = (
    '"0001-01-01T00:00:00Z"', '"9999-12-31T23:59:59.999999Z"', '"0001-01-01T00:00:00.000001Z"', '"9999-12-31T23:59:59-01:00"',
    '"0001-01-01T00:00:00+01:00"', '"1900-01-01T00:00:00Z"', '"2026-01-01"', '"2026-01-01T00:00:00"', '"2026-02-30T00:00:00Z"',
    '"2026-01-01T24:00:00Z"', '"2026-01-01T00:00:60Z"', '"2026-01-01T00:00:00.1234567Z"', '"2026-01-01T00:00:00+23:59"',
    '"2026-01-01T00:00:00+24:00"', '"infinity"', '"-infinity"', "1767225600", "1767225600.5", '"1767225600"', "253402300800",
    "-62135596800", "-62135596801", str(10**30), "1e400", "NaN", "true", "null", '""', r'"\u0000"',
)  # fmt: skip
BEYOND = ('"P999999999D"', '"P3000000D"', '"-P3000000D"', '"-P999999999D"')  # each from now ends outside of the calendar
SPANS = (
    '"PT1H"', "3600", "0", '"-PT1H"', *BEYOND, "1e300", "1e400", "NaN", str(10**30), '"infinity"', "null", '""', "true",
)  # fmt: skip
INTEGERS = (
    "2147483647", "2147483648", "-2147483648", "-2147483649", str(2**63), str(10**30), "1.0", "1.5", '"42"', "true", "NaN", "1e400",
    "1e3", "null", "[]", "1" * 5001,
)  # fmt: skip
NUMBERS = ("0", "-1", "1.5", '"5"', "1e15", "1e300", "-1e300", "1e400", "NaN", "Infinity", str(10**30), "true", "null", '""')
TEXTS = (
    '""', '" "', r'"a\u0000b"', r'"\ud800"', r'"\ud83d\ude00"', json.dumps("é" * 250), json.dumps("é" * 251), json.dumps("x" * 256),
    json.dumps("x" * 257), json.dumps("x" * 1000), json.dumps("x" * 1001), json.dumps("x" * 70_000), "5", "NaN", "null", "[]",
)  # fmt: skip
POOLS = {"json": JSON, "moment": MOMENTS, "span": SPANS, "integer": INTEGERS, "number": NUMBERS, "text": TEXTS}


@dataclass(frozen=True)
class Field:
    """A field of a request's body that takes a kind of value.

    :param name: by which a refusal names it.
    :param body: the request's body, with :data:`HOLE` where the value goes.
    """

    name: str
    kind: str
    method: str
    path: str
    body: Any
    setup: str = "running"
    revisions: tuple[str, ...] = ("3.2", "3.3")

    def __str__(self) -> str:
        state = self.body.get("state", "") if isinstance(self.body, dict) else ""
        return " ".join(filter(None, (self.method, self.path.split("?")[0].rpartition("/")[2], state, self.name)))

    def content(self, value: str) -> bytes:
        """Return the request's body with a value in its place."""
        return json.dumps(self.body).replace(json.dumps(HOLE), value).encode()


def _state(name: str, kind: str, body: dict[str, Any], **more: Any) -> Field:
    return Field(name, kind, "PATCH", f"{TI}/state", {**body, name: more.pop("value", HOLE)}, **more)


RETRY = {"state": "up_for_retry", "end_date": "2026-01-01T00:05:00Z"}
RESCHEDULE = {"state": "up_for_reschedule", "reschedule_date": START, "end_date": START}
FAILED = {"state": "failed", "end_date": START}
NEW: dict[str, Any] = {"revisions": ("3.3",)}
FIELDS = [
    *(
        Field(name, kind, "PATCH", f"{TI}/run", {**ENTER, name: HOLE}, setup="queued")
        for name, kind in (("start_date", "moment"), ("pid", "integer"), ("hostname", "text"), ("unixname", "text"))
    ),
    *(
        Field(name, kind, "PUT", f"{TI}/heartbeat", {"hostname": "worker", "pid": 42, name: HOLE})
        for name, kind in (("pid", "integer"), ("hostname", "text"))
    ),
    *(_state("end_date", "moment", body) for body in (OUT, FAILED, RETRY, RESCHEDULE)),
    _state("reschedule_date", "moment", RESCHEDULE),
    _state("rendered_map_index", "text", OUT),
    _state("retry_delay_seconds", "number", RETRY, **NEW),
    _state("retry_reason", "text", RETRY, **NEW),
    *(
        _state(name, kind, DEFER)
        for name, kind in (("classpath", "text"), ("next_method", "text"), ("queue", "text"), ("trigger_timeout", "span"))
    ),
    *(_state(name, "json", DEFER, value={"v": HOLE}) for name in ("trigger_kwargs", "next_kwargs")),
    _state("next_kwargs", "json", PARK, value={"v": HOLE}, **NEW),
    _state("timeout", "span", PARK, **NEW),
    _state("outlet_events", "json", {**OUT, "task_outlets": [A1]}, value=[event("first", {"v": HOLE})], setup="outlets"),
    _state("task_outlets", "text", OUT, value=[{"name": HOLE, "uri": "u", "type": "Asset"}]),
    Field("body", "json", "PUT", f"{TI}/rtif", {"v": HOLE}),
    Field("body", "text", "PUT", f"{TI}/rtif", {"v": HOLE}),
    Field("body", "text", "PATCH", f"{TI}/rendered-map-index", HOLE),
    Field("tasks", "text", "PATCH", f"{TI}/skip-downstream", {"tasks": [HOLE]}),
    Field("tasks", "integer", "PATCH", f"{TI}/skip-downstream", {"tasks": [["m", HOLE]]}, setup="downstream"),
    Field("body", "json", "POST", f"{X}/job/k", HOLE),
    Field("body", "json", "POST", f"{X}/job/k?mapped_length=1", [HOLE]),
    *(Field(name, "text", "PUT", "/variables/v", {"val": "x", "description": None, name: HOLE}) for name in ("val", "description")),
    *(
        Field(name, kind, "POST", RUN_IT, {name: HOLE}, setup="sample")
        for name, kind in (("logical_date", "moment"), ("note", "text"), ("conf", "json"))
    ),
    Field("conf", "json", "POST", RUN_IT, {"conf": {"other": HOLE}}, setup="sample"),
    Field("run_after", "moment", "POST", RUN_IT, {"run_after": HOLE}, setup="sample", **NEW),
    *(
        Field(name, kind, "POST", HITL, {**ASK, name: value})
        for name, kind, value in (
            ("params", "json", {"v": HOLE}), ("options", "text", [HOLE]), ("defaults", "text", [HOLE]), ("subject", "text", HOLE),
            ("body", "text", HOLE), ("assigned_users", "text", [{"id": HOLE, "name": "n"}]),
        )
    ),
    Field("params_input", "json", "PATCH", HITL, {**RESPONSE, "params_input": {"v": HOLE}}, setup="asked"),
    Field("chosen_options", "text", "PATCH", HITL, {**RESPONSE, "chosen_options": [HOLE]}, setup="asked"),
    *(Field("value", kind, "PUT", f"{STORE}/new", {"value": HOLE}, setup="state_stores", **NEW) for kind in ("json", "text")),
    Field("value", "json", "PUT", f"{STORE}/new", {"value": [HOLE]}, setup="state_stores", **NEW),
    Field("expires_at", "moment", "PUT", f"{STORE}/new", {"value": 1, "expires_at": HOLE}, setup="state_stores", **NEW),
    Field("value", "json", "PUT", "/store/asset/by-name/value?name=a&key=kept", {"value": [HOLE]}, setup="state_stores", **NEW),
]  # fmt: skip


def kept_difference(field: Field, value: str) -> str | None:
    """Return the name of the difference in what is stored that is kept on purpose for this value, if any."""
    if (field.name == "rendered_map_index" or "rendered-map-index" in field.path) and len(value) > 252:
        return CUT
    if field.name == "task_outlets" and ("u0000" in value or "ud800" in value):
        return NOT_FAILED
    poison = value in TOO_DEEP or "\\ud800" in value or "\\udc00" in value
    if field.name == "value":
        poison |= any(sign in value for sign in ("NaN", "Infinity", "1e400", "1e5000", "1e131071", "1.5")) and len(value) > 4
        poison |= value in ("NaN",)
    if field.name == "retry_delay_seconds":
        poison |= value in ("NaN", "Infinity", "1e15", "1e300", "-1e300", "1e400", str(10**30))
    return KEPT_READABLE if poison else None
