"""Human in the loop."""

from __future__ import annotations

from tests.contract.cases.case import ASK, ASKED_ANEW, BETTER_REFUSAL, HITL, NEW, PARK, RESPONSE, Case, on, state

CASES: list[Case] = [
    *(on(s, "GET", HITL) for s in ("running", "asked", "asked_barely", "answered", "nothing")),
    on("asked", "GET", HITL, token="other"),
    on("running", "POST", HITL, ASK),
    *(on(s, "POST", HITL, ASK, differs=ASKED_ANEW, ours=201) for s in ("asked", "asked_barely", "answered")),
    on("running", "POST", HITL, {**ASK, "body": "b", "defaults": ["no"], "multiple": True}),
    on("running", "POST", HITL, {**ASK, "options": []}),
    on("running", "POST", HITL, {"options": ["a"]}),
    on("running", "POST", HITL, {**ASK, "unknown": 1}, note="with an unknown field"),
    on("nothing", "POST", HITL, ASK, differs=BETTER_REFUSAL, ours=404),
    *(on(s, "PATCH", HITL, RESPONSE) for s in ("running", "asked", "answered", "nothing")),
    on("asked", "PATCH", HITL, {**RESPONSE, "chosen_options": []}),
    *(state(f"awaiting input when {s}", PARK, s, **NEW) for s in ("running", "asked", "answered")),
    state("awaiting input without a limit", {k: v for k, v in PARK.items() if k != "timeout"}, **NEW),
]  # fmt: skip
