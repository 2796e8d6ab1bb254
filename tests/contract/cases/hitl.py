"""Human in the loop."""

from __future__ import annotations

from typing import Any

from tests.contract.cases.case import ASK, ASKED_ANEW, BETTER_REFUSAL, HITL, NEW, PARK, RESPONSE, Case, on, state
from tests.contract.cases.setups import setup
from tests.world import EPOCH, World


async def ask(world: World, ti: Any, **values: Any) -> None:
    defaults = {
        "options": ["yes", "no"],
        "subject": "Well?",
        "body": "text",
        "defaults": ["no"],
        "multiple": False,
        "params": {"p": {"value": 1}},
        "params_input": {},
        "assignees": [{"id": "1", "name": "ann"}],
        "created_at": EPOCH,
    }
    await world.insert("hitl_detail", ti_id=ti, **{**defaults, **values})


@setup
async def asked(world: World) -> Any:
    ti = await world.one_running("d")
    await ask(world, ti)
    return ti


@setup
async def asked_barely(world: World) -> Any:
    ti = await world.one_running("d")
    await ask(world, ti, body=None, defaults=None, assignees=[], params={})
    return ti


@setup
async def answered(world: World) -> Any:
    ti = await world.one_running("d")
    await ask(
        world,
        ti,
        responded_at=EPOCH.replace(microsecond=250000),
        responded_by={"id": "2", "name": "bob"},
        chosen_options=["yes"],
        params_input={"p": 2},
    )
    return ti


CASES: list[Case] = [
    *(on(s, "GET", HITL) for s in ("running", "asked", "asked_barely", "answered", "nothing")),
    on("asked", "GET", HITL, token="other"),
    on("running", "POST", HITL, ASK),
    *(on(s, "POST", HITL, ASK, differs=ASKED_ANEW, ours=201) for s in ("asked", "asked_barely", "answered")),
    *(on(s, "POST", HITL, {**ASK, "params": {"p": float("nan")}}, differs=ASKED_ANEW, ours=422) for s in ("asked", "answered")),
    on("running", "POST", HITL, {**ASK, "body": "b", "defaults": ["no"], "multiple": True}),
    on("running", "POST", HITL, {**ASK, "options": []}),
    on("running", "POST", HITL, {"options": ["a"]}),
    on("running", "POST", HITL, {**ASK, "unknown": 1}, note="with an unknown field"),
    on("nothing", "POST", HITL, ASK, differs=BETTER_REFUSAL, ours=404),
    *(on(s, "PATCH", HITL, RESPONSE) for s in ("running", "asked", "answered", "nothing")),
    on("asked", "PATCH", HITL, {**RESPONSE, "chosen_options": []}),
    *(state(f"awaiting input when {s}", PARK, s, **NEW) for s in ("running", "asked", "answered")),
    state("awaiting input beyond the calendar", {**PARK, "timeout": "P3000000D"}, **NEW, differs=BETTER_REFUSAL, ours=422),
    state("awaiting input beyond the calendar when answered", {**PARK, "timeout": "P3000000D"}, "answered", **NEW, differs=BETTER_REFUSAL, ours=422),
    state("awaiting input without a limit", {k: v for k, v in PARK.items() if k != "timeout"}, **NEW),
]  # fmt: skip
