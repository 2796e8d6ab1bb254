"""The contexts of runs and tasks in traces, as W3C carriers: what a run's conf wishes, and a tracer decides."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from app.releases import Revision
from app.settings import DETAIL_LEVEL

if TYPE_CHECKING:  # what is not installed is not looked for
    from app.server.traces import Traces

SAMPLED, PARENT = "airflow/trace_sampled", "airflow/dagrun_parent_trace_context"  # keys of a run's conf
MAX_TRACE_VALUE = 256  # characters, of a value of a tracestate
MAX_MEMBERS, MAX_TRACESTATE = 32, 8192  # of a tracestate, and its characters
MAX_TRACEPARENT = 512  # characters
_TRACEPARENT = re.compile(
    r"[ \t]*(?!ff|00-.{52}-)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?[ \t]*"
)
_MEMBER = re.compile(
    r"([a-z][_0-9a-z*/-]{0,255}|[a-z0-9][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


class Carriers:
    """The contexts of a new trace, serialized as the scheduler reads them: the parents of the run's and its tasks' spans.

    :param traces: what decides whether it is sampled, and knows each task by a span; without it nobody will ask.
    :param conf: of the run, which may ask for more spans of its tasks, be in somebody's trace and say whether it is sampled.
    :param about: the run, for whatever decides.
    :param known: the context of a run that has one.
    """

    def __init__(
        self,
        traces: Traces | None,
        revision: Revision,
        conf: Any,
        *,
        about: Mapping[str, str],
        known: Mapping[str, Any] | None = None,
    ) -> None:
        wishes = conf if isinstance(conf, Mapping) else {}
        detail = _span_detail(wishes) if revision.runs.conf_tells_span_detail else 0
        is_sampled, parent = (True if revision.runs.sampled_flag == "01" else None), None
        if revision.runs.conf_tells_trace:
            wish, parent = wishes.get(SAMPLED), _parent(wishes.get(PARENT))
            is_sampled = wish if isinstance(wish, bool) else None
        self._traces = traces
        if known is not None:
            self._run: dict[str, Any] = dict(known)
        elif traces is None:
            self._run = _untraced(detail, is_sampled=bool(is_sampled), parent=parent)
        else:
            self._run = traces.run_carrier(detail=detail, is_sampled=is_sampled, attributes=about, parent=parent)

    @property
    def of_run(self) -> dict[str, Any]:
        """The run's."""
        return {"__type": "dict", "__var": self._run}

    @property
    def differ(self) -> bool:
        """Whether each task has one of its own; else they have the run's."""
        return self._traces is not None

    def of_task(self) -> dict[str, Any]:
        """Return that of one more task instance."""
        return self.of_run if self._traces is None else {"__type": "dict", "__var": self._traces.task_carrier(self._run)}


def _span_detail(conf: Mapping[str, Any]) -> int:
    """Return the detail that a run's conf asks for, as a whole number; 0 when it asks for none that is one."""
    try:
        level = int(conf.get(DETAIL_LEVEL) or 0)
        return level if len(str(level)) <= MAX_TRACE_VALUE else 0
    except (TypeError, ValueError, OverflowError):
        return 0


def _parent(told: Any) -> dict[str, str] | None:
    """Return the context in which a run is to be, as its conf tells it: a traceparent, or a carrier; None if it is none."""
    match told:
        case str():
            carrier = {"traceparent": told}
        case {"traceparent": str()}:
            carrier = {name: told[name] for name in ("traceparent", "tracestate") if isinstance(told.get(name), str)}
        case _:
            return None
    traceparent = carrier["traceparent"]
    return carrier if len(traceparent) <= MAX_TRACEPARENT and _TRACEPARENT.fullmatch(traceparent) else None


def _untraced(detail: int, *, is_sampled: bool, parent: Mapping[str, str] | None) -> dict[str, str]:
    """Return the carrier of a run where nothing makes spans: those who do elsewhere follow it."""
    found = None if parent is None else _TRACEPARENT.fullmatch(parent["traceparent"])
    trace_id = secrets.token_hex(16) if found is None else found[1]
    state = {} if parent is None else _members(parent.get("tracestate", ""))
    if detail and (DETAIL_LEVEL in state or len(state) < MAX_MEMBERS):
        state.pop(DETAIL_LEVEL, None)
        state = {DETAIL_LEVEL: f"{DETAIL_LEVEL}={detail}", **state}
    carrier = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-{'01' if is_sampled else '00'}"}
    return carrier | ({"tracestate": ",".join(state.values())} if state else {})


def _members(tracestate: str) -> dict[str, str]:
    """Return the members of a tracestate by their keys; none of one that is malformed or too long."""
    members = [member for member in re.split(r"[ \t]*,[ \t]*", tracestate) if member]
    found = {member.partition("=")[0]: member for member in members}
    is_valid = len(found) == len(members) <= MAX_MEMBERS and all(map(_MEMBER.fullmatch, members))
    return found if is_valid and len(tracestate) <= MAX_TRACESTATE else {}
