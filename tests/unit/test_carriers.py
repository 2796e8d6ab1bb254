"""The contexts of runs where nothing makes spans: in which trace they are."""

from __future__ import annotations

from typing import Any

import pytest

from app.releases import REVISIONS
from app.tasks.carriers import PARENT, Carriers

TRACE = "a1" * 16
THEIRS = f"00-{TRACE}-{'b2' * 8}-01"


@pytest.mark.parametrize("told", [THEIRS, {"traceparent": THEIRS}, f"cc-{THEIRS[3:]}-more", f" {THEIRS} "])
def test_a_run_is_in_the_trace_that_its_conf_tells(told: Any) -> None:
    for revision in REVISIONS:
        carriers = Carriers(None, revision, {PARENT: told}, about={})
        _, trace_id, span_id, _ = carriers.of_run["__var"]["traceparent"].split("-")
        assert (trace_id == TRACE) is revision.runs.conf_tells_trace
        assert span_id not in told
        assert carriers.of_task() == carriers.of_run


@pytest.mark.parametrize(
    "told",
    [
        f"ff-{THEIRS[3:]}",
        f"{THEIRS}-more",
        THEIRS[:-1],
        THEIRS.replace(TRACE, "0" * 32),
        f"cc-{THEIRS[3:]}-{'m' * 500}",
        [THEIRS],
    ],
)
def test_what_is_no_context_is_none(told: Any) -> None:
    carriers = Carriers(None, REVISIONS[-1], {PARENT: told}, about={})
    assert TRACE not in carriers.of_run["__var"]["traceparent"]
