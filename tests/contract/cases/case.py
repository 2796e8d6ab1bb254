"""A case, the names of the differences that are kept on purpose, and the parts that cases are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ABSENT: Any = object()
BOTH = ("3.2", "3.3")
END = "2026-01-01T00:05:00Z"
START = "2026-01-01T00:04:00Z"
RUN = "manual__1"
JSON_HEADER = {"Content-Type": "application/json"}

# Differences that are kept on purpose: see docs/compatibility.md, which gives each one's reason.
BETTER_REFUSAL = "a 4xx instead of a 500"
REPLAY = "a replay is answered like the first request"
ERROR_SHAPE = "the same refusal, worded for the one model that the state chooses"
NOT_FAILED = "a report that cannot be recorded is refused instead of failing the task"
LONG_LISTS = "a long list of tasks is skipped instead of a 500"
QUIET_SKIP = "what is skipped already is not skipped and logged again"
CLEARED_DEADLINES = "a run with deadlines is cleared instead of a 500"
OLD_TIMES = "times end in Z on every API date"
OLD_EVENTS = "an old API date is answered instead of a 500"
SAME_DATE = "a second run of one logical date is refused as one that exists"
UNDECLARED = "a body without Content-Type is read as JSON"
WORDS = "the same refusal in our words"
RUN_DATES = "a run without a logical date is not the newest for ever"
OWN_DATE = "another Dag's prior XComs are those up to the asking run"
EACH_ONCE = "a list of prior XComs holds each once"
ASKED_ANEW = "asked again, a person sees the second question"
OBJECTS = "what describes an asset or its event is an object"
ONE_NAME = "an asset that is named by one part has it for both"
STORED_EXTRA = "a stored connection with an extra that is no object is given as it is"
UNASKED = "a Dag is read as far as it is asked"
PING = "health names our parts"
CUT = "a label longer than its column is cut"
KEPT_READABLE = "what could not be read again is refused"
STRICTER_TOKEN = "only a task itself may ask for its reschedules, on 3.2 too"
STRANGER = "whose token it is comes before which try it is of"
REFUSED_TOKEN_TEXT = "the reason why a token does not verify is not told"


@dataclass(frozen=True)
class Case:
    """One request.

    :param setup: the name of a function in :data:`tests.contract.cases.setups.SETUPS`.
    :param token: whose token it carries: ``own`` (the setup's task instance), ``other``, ``none``, or ``garbage``.
    :param differs: the name of the difference that is kept on purpose; then ``ours`` is the status that we answer.
    """

    name: str
    method: str
    path: str
    json: Any = ABSENT
    content: bytes | None = None
    setup: str = "running"
    token: str = "own"
    claims: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    revisions: tuple[str, ...] = BOTH
    differs: str | None = None
    ours: int | None = None


ENTER = {"state": "running", "hostname": "worker", "unixname": "airflow", "pid": 42, "start_date": START}
TI = "/task-instances/{ti}"
X = "/xcoms/d/manual__1"


def run(name: str, setup: str = "queued", body: Any = ABSENT, **options: Any) -> Case:
    return Case(f"run {name}", "PATCH", f"{TI}/run", ENTER if body is ABSENT else body, setup=setup, **options)


def state(name: str, body: Any, setup: str = "running", **options: Any) -> Case:
    return Case(f"state {name}", "PATCH", f"{TI}/state", body, setup=setup, **options)


def beat(name: str, body: Any = ABSENT, setup: str = "running", **options: Any) -> Case:
    body = {"hostname": "worker", "pid": 42} if body is ABSENT else body
    return Case(f"heartbeat {name}", "PUT", f"{TI}/heartbeat", body, setup=setup, **options)


def get(name: str, path: str, setup: str = "running", **options: Any) -> Case:
    return Case(name, options.pop("method", "GET"), path, setup=setup, **options)


ENDED = {"end_date": END}
DEFER = {
    "state": "deferred",
    "classpath": "my.Trigger",
    "trigger_kwargs": {"moment": "é", "n": 1},
    "next_method": "resume",
    "next_kwargs": {"k": [1, None]},
}
OUT = {"state": "success", **ENDED}
A1 = {"name": "first", "uri": "s3://bucket/first", "type": "Asset"}
A2 = {"name": "second", "uri": "s3://bucket/second", "type": "Asset"}
ALIAS = {"name": "alias", "type": "AssetAlias"}


def event(name: str, extra: Any, **more: Any) -> dict[str, Any]:
    return {"dest_asset_key": {"name": name, "uri": f"s3://bucket/{name}"}, "extra": extra, **more}


AE = "/asset-events/by-asset"
HITL = "/hitlDetails/{ti}"
ASK = {
    "ti_id": "00000000-0000-4000-8000-000000000001",
    "options": ["yes", "no"],
    "subject": "Really?",
    "params": {"p": 1},
    "assigned_users": [{"id": "3", "name": "cid"}],
}
RESPONSE = {"ti_id": ASK["ti_id"], "chosen_options": ["no"], "params_input": {"p": 5}}
PARK = {"state": "awaiting_input", "timeout": "PT1H", "next_method": "execute_complete", "next_kwargs": {"k": 1}}
STORE = "/store/ti/{ti}"
TEST = "/connection-tests/{ti}"
WORKLOAD = {"scope": "workload"}
NEW = {"revisions": ("3.3",)}


def on(setup: str, method: str, path: str, body: Any = ABSENT, **options: Any) -> Case:
    """Return a case that is named by what it asks, of whom, and how."""
    named = [options.pop("note", "")]
    named += [str(options[name]) for name in ("token", "claims", "revisions") if name in options]
    shown = "" if body is ABSENT else str(body)[:200]
    name = " ".join(filter(None, (method, path, shown, "on", setup, *named)))
    return Case(name, method, path, body, setup=setup, **options)


RUN_IT = "/dag-runs/sample/r1"
WHEN = {"logical_date": "2026-02-03T04:05:06Z"}
OLD_DATES = ("2026-04-06", "2025-11-05", "2025-10-27", "2025-09-23", "2025-08-10", "2025-05-20", "2025-04-28", "2025-04-11")
MAR, OCT = "2026-03-29T01:30:00Z", "2026-10-25T01:30:00Z"  # the clocks of Paris are put forward, and back
