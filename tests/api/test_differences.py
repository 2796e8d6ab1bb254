"""The rows and answers where ours differ from Airflow's on purpose, which the comparison with its servers cannot show."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.contract.cases.case import ALIAS, ASK, OUT
from tests.contract.cases.setups import SETUPS
from tests.servers import Server
from tests.world import World

ASKED = {
    "options": ["yes", "no"],
    "subject": "Really?",
    "body": None,
    "defaults": None,
    "multiple": False,
    "params": {"p": 1},
    "assigned_users": [{"id": "3", "name": "cid"}],
}


@pytest.mark.parametrize("before", ["asked", "asked_barely", "answered", "running"])
async def test_asked_again_the_second_question_counts(server: Server, world: World, before: str) -> None:
    ti = await SETUPS[before](world)
    async with server.client(ti) as client:
        answer = await client.post(f"/hitlDetails/{ti}", json=ASK)
        assert (answer.status_code, answer.json()) == (201, {**ASKED, "ti_id": str(ti)})
        response = (await client.get(f"/hitlDetails/{ti}")).json()
    assert (response["response_received"], response["chosen_options"], response["params_input"]) == (False, [], {})
    row = dict(await world.connection.fetchrow("SELECT * FROM hitl_detail"))
    named = {**ASKED, "assignees": ASKED["assigned_users"]}
    for name in ("options", "params", "assignees"):
        assert json.loads(row[name]) == named[name]
    assert (row["subject"], row["body"], row["defaults"]) == ("Really?", None, "null")
    assert (row["responded_at"], row["responded_by"], row["chosen_options"]) == (None, None, None)
    age = await world.connection.fetchval("SELECT now() - created_at FROM hitl_detail")
    assert age.total_seconds() < 60


@pytest.mark.parametrize("state", ["success", "failed", "skipped", "up_for_retry"])
async def test_a_long_label_is_cut(server: Server, world: World, state: str) -> None:
    ti = await SETUPS["labelled"](world)
    body = {"state": state, "end_date": OUT["end_date"], "rendered_map_index": "é" * 300}
    async with server.client(ti) as client:
        assert (await client.patch(f"/task-instances/{ti}/state", json=body)).status_code == 204
    row = await world.connection.fetchrow("SELECT state, rendered_map_index FROM task_instance ORDER BY try_number LIMIT 1")
    kept = "failed" if state == "up_for_retry" and world.keeps_tries else state
    assert tuple(row) == (kept, "é" * 250)


@pytest.mark.parametrize(("name", "uri", "both"), [("", "s3://x", "s3://x"), ("x", "", "x")])
async def test_an_asset_that_is_named_by_one_part(server: Server, world: World, name: str, uri: str, both: str) -> None:
    """The event is its own, the first time and after that."""
    await SETUPS["outlets"](world)
    event: dict[str, Any] = {"dest_asset_key": {"name": name, "uri": uri}, "extra": {}, "source_alias_name": "alias"}
    for number in range(2):
        ti = await world.running("d", f"task_{number}")
        async with server.client(ti) as client:
            body = {**OUT, "task_outlets": [ALIAS], "outlet_events": [event]}
            assert (await client.patch(f"/task-instances/{ti}/state", json=body)).status_code == 204
    made = await world.connection.fetch(
        "SELECT a.name, a.uri, count(*) AS events FROM asset a JOIN asset_event e ON e.asset_id = a.id GROUP BY a.id"
    )
    assert [tuple(row) for row in made] == [(both, both, 2)]
