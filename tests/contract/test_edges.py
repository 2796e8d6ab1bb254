"""Every field with every edge value of its kind, of Airflow's own server and of ours, on equal rows.

What Airflow stores, we store as well; all else is refused by name, nothing is written, and the task goes on running.
"""

from __future__ import annotations

from collections import Counter

import asyncpg
import httpx
import pytest

from tests.conftest import empty
from tests.contract.cases.case import CUT
from tests.contract.cases.setups import SETUPS
from tests.contract.edges import FIELDS, POOLS, Field, kept_difference
from tests.contract.sides import Side, assert_refusal
from tests.rows import rows
from tests.servers import token
from tests.world import World

pytestmark = pytest.mark.slow
WRITTEN = [
    "task_instance", "task_instance_history", "task_reschedule", "task_state_store", "task_map", "trigger", "log", "xcom",
    "rendered_task_instance_fields", "hitl_detail", "variable", "dag_run", "dag_run_note", "asset_event",
    "asset_state_store", "asset_dag_run_queue", "asset", "asset_alias",
]  # fmt: skip


@pytest.mark.parametrize("field", FIELDS, ids=str)
async def test_edge_values(field: Field, sides: tuple[Side, Side], revision: str) -> None:
    if revision not in field.revisions and not (revision == "3.4" and "3.3" in field.revisions):
        pytest.skip(f"not on {revision}")
    fresh = False
    for value in POOLS[field.kind]:
        if not fresh:
            for side in sides:
                await empty(side.connection)
                ti = str(await SETUPS[field.setup](World(side.connection, revision)))
            before = await _stored(sides[1])
        theirs, ours = [await _ask(side, field, value, ti) for side in sides]
        after = await _stored(sides[1])
        fresh = after == before and theirs.status_code == 422 and "reason" not in theirs.text  # else it used a sequence
        shown = f"{value[:60]}: {theirs.status_code} {theirs.text[:300]}, ours {ours.status_code} {ours.text[:300]}"
        if ours.status_code >= 400:
            assert_refusal(ours)
            assert after == before, shown
            assert _names(field, ours) or ours.content == theirs.content, shown
            assert theirs.status_code >= 400 or kept_difference(field, value), shown
        elif kept_difference(field, value) == CUT:
            assert ours.status_code == 204, shown
        else:
            assert ours.status_code == theirs.status_code, shown
            their_rows = await _stored(sides[0])
            assert sorted((after - their_rows).elements()) == sorted((their_rows - after).elements()), shown


def _names(field: Field, refusal: httpx.Response) -> bool:
    return field.name.replace("_", " ") in refusal.text.replace("_", " ").lower()


async def _stored(side: Side) -> Counter[str]:
    """Return every row; none where one holds JSON that PostgreSQL keeps as text and cannot read."""
    try:
        return await rows(side.connection, await _tables(side))
    except asyncpg.DataError:
        return Counter()


async def _tables(side: Side) -> list[str]:
    """Return the tables that such requests write, as far as the revision has them."""
    found = await side.connection.fetch("SELECT tablename FROM pg_tables WHERE tablename = ANY($1)", WRITTEN)
    return [row["tablename"] for row in found]


async def _ask(side: Side, field: Field, value: str, ti: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token(ti)}", "Content-Type": "application/json"}
    path = field.path.replace("{ti}", ti)
    return await side.client.request(field.method, path, content=field.content(value), headers=headers)
