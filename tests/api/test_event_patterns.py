"""Asset events by a regular expression for their partition: as long as the operator lets a search take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from tests.contract.cases.setups import SETUPS
from tests.servers import our_server
from tests.world import World

# What comes before the b has an odd length, and is asked to be one part twice: each way to divide it is tried.
SLOW = r"^(a*)(a*)(a*)(a*)(a*)\1\2\3\4\5b$"


@pytest.mark.slow
@pytest.mark.parametrize("revision", ["3.4"], indirect=True)
async def test_patterns_find_events_where_the_operator_allows_them(
    revision: str, make_database: Callable[[str], str], tmp_path: Path
) -> None:
    url = make_database(revision)
    connection = await asyncpg.connect(url)
    ti = await SETUPS["asset_events_that_say"](World(connection, revision))
    await connection.execute("UPDATE asset_event SET partition_key = repeat('a', 249) || 'b' WHERE id = 4")
    asked = {"name": "a", "uri": ""}
    with our_server(url, tmp_path, AIRFLOW__API__REGEXP_QUERY_TIMEOUT="0.05") as server:
        async with server.client(ti) as client:

            async def found(pattern: str) -> int | list[int]:
                sent = {**asked, "partition_key_regexp_pattern": pattern}
                answer = await client.get("/asset-events/by-asset", params=sent)
                if answer.status_code != 200:
                    return answer.status_code
                return [event["id"] for event in answer.json()["asset_events"]]

            assert await found("^a+b$") == [4]
            assert await found("^b") == []
            assert await found("(") == 400, "it is none"
            assert await found("(?P<name>a)") == 422, "it is none of PostgreSQL's"
            assert await found(SLOW) == 503
            assert await found("^a") == [4], "and the next one is as before"
    await connection.close()
