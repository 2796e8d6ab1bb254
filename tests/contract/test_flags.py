"""What releases are told apart by is read, and the differential corpus would tell if it were wrong.

Each flag has a case of the corpus, which is asked of Airflow's own servers in ``test_differential``. Here it is asked
of ours alone, twice: with the flag as the newer release has it, and as the older one. What comes of it must differ.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from app import main
from app.releases import REVISIONS, Revision
from tests.conftest import empty
from tests.contract.cases import CASES
from tests.contract.cases.case import ABSENT, MAR, Case
from tests.contract.cases.setups import SETUPS
from tests.contract.test_differential_in_teams import CASES as CASES_IN_TEAMS
from tests.faults.conftest import InProcess, connection, ours, url
from tests.rows import masked, rows
from tests.servers import token
from tests.world import ti_id

__all__ = ["connection", "ours", "url"]

APP = Path(__file__).parent.parent.parent / "app"
TRIGGERED = "POST /dag-runs/sample/r1"
DATED = f"{TRIGGERED} {{'logical_date': '2026-02-03T04:05:06Z'}} on sample"
TRACED = {"conf": {"x": 5, "airflow/task_span_detail_level": 1}}
SHOWN_BY = {
    "tasks.start_with_workload_tokens": "run workload token",
    "tasks.archived_rtif_is_gone": "rtif of an archived try",
    "tasks.resume_tells_start": "run resuming from a deferral",
    "tasks.state_stores": "state success of a task that keeps values",
    "tasks.cleared_end_first": "run restarting from its own process",
    "tasks.bare_ids_skip_all": "skip a mapped task without index",
    "tasks.reschedules_by_time": "first reschedule",
    "runs.triggered_type": f"{TRIGGERED} {{'note': 'noted'}} on sample 2026-04-06 ('3.3',)",
    "runs.inherit_user": f"{TRIGGERED} {{'note': 'noted'}} on sample 2026-04-06 ('3.3',)",
    "runs.ids_without_double_dots": "POST /dag-runs/sample/a..b {} on sample",
    "runs.conf_tells_span_detail": f"{TRIGGERED} {TRACED} on sample traced",
    "runs.conf_tells_trace": f"{TRIGGERED} {{'conf': {{'x': 5, 'airflow/trace_sampled': True}}}} on sample traced",
    "runs.sampled_flag": f"{TRIGGERED} {{'note': 'noted'}} on sample 2026-04-06 ('3.3',)",
    "runs.moving_verifies": "POST /dag-runs/sample/r1/clear on to_clear, queued, on the newest version ('3.3',)",
    "runs.empty_maps_are_skipped": f"{DATED}, mapped",
    "runs.conf_is_plain": f"{TRIGGERED} {{'conf': {{'a': [{{'b': {{'__var': 1}}}}]}}}} on sample reserved ('3.4',)",
    "runs.intervals_have_length": (
        f"{TRIGGERED} {{'logical_date': '{MAR}', 'run_after': '{MAR}'}} on sample, daily interval at two {MAR} ('3.3',)"
    ),
    "runs.clearing_may_move_versions": "POST /dag-runs/sample/r1/clear on to_clear, success ('3.3',)",
    "deadlines.average_of_successes": f"{DATED}, deadline after an average of too few that succeeded",
    "deadlines.callbacks_stay_encoded": f"{DATED}, deadline after it was queued ('3.2', '3.3', '3.4')",
    "deadlines.bad_ones_are_left_out": f"{DATED}, deadline after a variable that is missing ('3.3', '3.4')",
    "deadlines.callbacks_have_bundles": f"{DATED}, deadline after it was queued ('3.2', '3.3', '3.4')",
    "assets.event_per_emission": "state success with two events of one asset",
    "assets.partitions_have_dates": "state success in partitions, more than it may",
    "xcoms.of_tries": "xcom set with a length",
    "teams.own_xcoms": "an XCom of another team is read",
    "teams.own_assets": "state success of red, which says nothing",
    "teams.keep_variables": "PUT /variables/of_red {'val': 'new'} on of_a_team",
}
IN_COUNTS = {"tasks.starts_tell_wait"}  # which no row tells: test_telemetry compares them
BY_NAME = {case.name: case for case in (*CASES, *CASES_IN_TEAMS)}


@pytest.fixture(autouse=True)
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the service not look whether its database is what it takes it for."""
    monkeypatch.setattr(main, "LOOK_EVERY", 3600.0)


def _flags(revision: Revision) -> Iterator[tuple[str, Any]]:
    """Yield ``subject.flag`` and its value."""
    for subject in fields(revision):
        if is_dataclass(said := getattr(revision, subject.name)):
            yield from ((f"{subject.name}.{flag.name}", getattr(said, flag.name)) for flag in fields(said))


def _with(revision: Revision, flag: str, value: Any) -> Revision:
    subject, _, name = flag.partition(".")
    return replace(revision, **{subject: replace(getattr(revision, subject), **{name: value})})


FLAGS = [flag for flag, _ in _flags(REVISIONS[-1])]
DIFFERENCES = [
    (older, newer, flag)
    for older, newer in pairwise(REVISIONS)
    for (flag, before), (_, after) in zip(_flags(older), _flags(newer), strict=True)
    if before != after
]


def test_every_flag_is_read() -> None:
    read = {
        f"{node.value.attr}.{node.attr}"
        for path in APP.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute)
    }
    assert set(FLAGS) - read == set()


def test_every_flag_tells_two_releases_apart_and_has_a_case() -> None:
    assert set(FLAGS) == {flag for _, _, flag in DIFFERENCES} == SHOWN_BY.keys() | IN_COUNTS


@pytest.mark.slow
@pytest.mark.parametrize("revision", ["3.3", "3.4"], indirect=True)
async def test_a_case_of_the_corpus_shows_each_flag(ours: InProcess, revision: str) -> None:
    unseen = []
    for older, newer, flag in DIFFERENCES:
        if newer.name != revision or flag in IN_COUNTS:
            continue
        case = BY_NAME[SHOWN_BY[flag]]
        outcomes = []
        for told in (newer, _with(newer, flag, dict(_flags(older))[flag])):
            _serve(ours, told, case)
            outcomes.append(await _outcome(ours, case))
        if outcomes[0] == outcomes[1]:
            unseen.append(f"{case.name!r} is the same whatever {flag} says")
    assert unseen == []


def _serve(ours: InProcess, revision: Revision, case: Case) -> None:
    """Let the service take its database for one of another release."""
    in_teams = case in CASES_IN_TEAMS
    settings = replace(ours.service.settings, multi_team=in_teams, clear_state_on_success=in_teams)
    for name, value in (("revision", revision), ("settings", settings)):
        object.__setattr__(ours.service, name, value)


async def _outcome(ours: InProcess, case: Case) -> tuple[int, str, Any]:
    await empty(ours.world.connection)
    ti = await SETUPS[case.setup](ours.world)
    headers = {"content-type": "application/json"} if case.json is not ABSENT or case.content is not None else {}
    subject = str(ti) if case.token == "own" else ti_id("somebody else")
    headers |= {"authorization": f"Bearer {token(subject, **case.claims)}", **case.headers}
    body: dict[str, Any] = {"json": case.json} if case.json is not ABSENT else {"content": case.content}
    async with ours.client(ti) as client:
        answer = await client.request(case.method, case.path.replace("{ti}", str(ti)), headers=headers, **body)
    return answer.status_code, masked(answer.text), await rows(ours.world.connection)
