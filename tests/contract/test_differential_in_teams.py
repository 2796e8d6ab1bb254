"""The same, in multi-team mode: which Dags hear an asset event is for its producer and its consumers to say (3.3).

And what a task keeps is cleared on its success, where that is set.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.cases.case import END, Case, state
from tests.contract.cases.setups import SETUPS, Setup
from tests.contract.cases.tries import for_revision
from tests.contract.sides import Side, assert_equal
from tests.world import EPOCH, World

pytestmark = pytest.mark.slow

SUCCESS = {"state": "success", "end_date": END}
OUTLET = {"name": "first", "uri": "s3://bucket/first", "type": "Asset"}
STAMPS = {"created_at": EPOCH, "updated_at": EPOCH}
# Dags that listen: their team, and what their schedule says of producers.
LISTENING: dict[str, tuple[str | None, dict[str, Any]]] = {
    "of_red": ("red", {}),
    "of_blue": ("blue", {}),
    "of_blue_for_red": ("blue", {"allow_producer_teams": ["red", "green"]}),
    "of_blue_for_green": ("blue", {"allow_producer_teams": ["green"]}),
    "of_blue_for_teams": ("blue", {"allow_global_producers": False}),
    "of_green": ("green", {}),
    "of_nobody": (None, {}),
    "of_nobody_for_teams": (None, {"allow_global_producers": False}),
}
# What the emitting task's outlet says of consumers; None: there is no such reference.
SAYING: dict[str, dict[str, Any] | None] = {
    "nothing": None,
    "anybody": {},
    "blue only": {"allow_consumer_teams": ["blue"]},
    "nobody else": {"allow_consumer_teams": []},
    "no global ones": {"allow_global_consumers": False},
    "blue, no global ones": {"allow_consumer_teams": ["blue"], "allow_global_consumers": False},
}


def _emitting(team: str | None, says: dict[str, Any] | None) -> Setup:
    dag_id = f"emits_for_{team}"  # Airflow's server remembers the team of a Dag

    async def make(world: World) -> Any:
        asset = await world.asset("first")
        for listening, (of, allowed) in LISTENING.items():
            await world.dag(listening, bundle_name=f"bundle of {of}", team=of)
            known = allowed if world.revision == "3.3" else {}
            await world.insert("dag_schedule_asset_reference", asset_id=asset, dag_id=listening, **STAMPS, **known)
        await world.dag("by_name", bundle_name="bundle of blue", team="blue")
        await world.insert("dag_schedule_asset_name_reference", name="first", dag_id="by_name", created_at=EPOCH)
        await world.dag(dag_id, bundle_name=f"bundle of {team}", team=team)
        await world.run(dag_id)
        if says is not None:
            known = says if world.revision == "3.3" else {}
            row = {"asset_id": asset, "dag_id": dag_id, "task_id": "job", **STAMPS}
            await world.insert("task_outlet_asset_reference", **row, **known)
        return await world.running(dag_id)

    return make


SETUPS.update({f"{team} says {says}": _emitting(team, known) for team in ("red", None) for says, known in SAYING.items()})
CASES = [
    state(f"success of {team}, which says {says}", {**SUCCESS, "task_outlets": [OUTLET]}, f"{team} says {says}")
    for team in ("red", None)
    for says in SAYING
]
XCOM = "/xcoms/another/manual__1/job/k"
CASES += [
    Case("an XCom of another team is read", "GET", XCOM, setup="an XCom of another team"),
    Case("an XCom of another team is set", "POST", XCOM, 1, setup="an XCom of another team"),
    state("success of a task that keeps values", SUCCESS, "state_stores", revisions=("3.3",)),
]


async def _of_another_team(world: World) -> Any:
    await world.dag("another", bundle_name="bundle of blue", team="blue")
    await world.run("another")
    await world.ti("another")
    await world.xcom("another", "job", "k", "theirs")
    await world.dag("of_red", bundle_name="bundle of red", team="red")
    await world.run("of_red")
    return await world.running("of_red")


SETUPS["an XCom of another team"] = _of_another_team


@pytest.fixture(scope="module")
def airflow_options() -> dict[str, str]:
    return {"AIRFLOW__CORE__MULTI_TEAM": "True", "AIRFLOW__STATE_STORE__CLEAR_ON_SUCCESS": "True"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_equal_answers_and_rows(case: Any, sides: tuple[Side, Side], revision: str) -> None:
    asked = for_revision(case, revision)
    if asked is None:
        pytest.skip(f"not on {revision}")
    await assert_equal(asked, sides, revision)
