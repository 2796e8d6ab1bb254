"""What is read of assets has an order of its own, whatever plan PostgreSQL chooses."""

from __future__ import annotations

from collections.abc import Callable

import asyncpg
import pytest
from sqlalchemy import text

from app.db import assets
from app.db.session import Database
from app.settings import DatabaseSettings
from app.settings.database_url import async_url
from tests.contract.cases.setups import SETUPS
from tests.world import World

INDEXES = ("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan")


@pytest.mark.parametrize(
    "off",
    [
        ("enable_seqscan", "enable_hashjoin", "enable_mergejoin"),
        (*INDEXES, "enable_nestloop"),
        (*INDEXES, "enable_hashjoin"),
    ],
    ids=["by indexes", "without indexes", "without a hash"],
)
async def test_the_assets_of_an_alias(make_database: Callable[[str], str], revision: str, off: tuple[str, ...]) -> None:
    url = make_database(revision)
    connection = await asyncpg.connect(url)
    await SETUPS["asset_events"](World(connection, revision))
    await connection.close()
    database = Database(DatabaseSettings(url=async_url(url, setting="url")))
    try:
        async with database.transaction() as session:
            for setting in off:
                await session.execute(text(f"SET LOCAL {setting} = off"))
            found = await assets.of_alias(session, name="alias")
    finally:
        await database.close()
    assert [row.uri for row in found] == ["s3://bucket/old", "s3://bucket/b"]
