"""A database that Airflow itself upgraded, tasks in the middle of their tries in it: served as its own server serves it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import replace

import asyncpg
import pytest

from app.commands.embedded import EmbeddedPostgres
from tests.contract.cases.case import RUN, Case
from tests.contract.cases.upgraded import READS, WRITES, Asked, write
from tests.contract.sides import Side, shown
from tests.end_to_end.installation import Airflow
from tests.rows import changes, stored
from tests.servers import AIRFLOW, airflow_server, our_server
from tests.world import EPOCH, World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BEFORE, AFTER = "3.3", "3.4"
WITHOUT = ("serialized_dag", "job")  # large, and nobody's to write here; and how Airflow's own processes are
Rows = Counter[tuple[str, str]]


@pytest.fixture(scope="module")
async def sides(
    postgres: EmbeddedPostgres, make_database: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Side, Side]]:
    """Upgrade a database with Airflow's own command, and serve two clones of it, theirs first."""
    folder, url = tmp_path_factory.mktemp("upgraded"), make_database(BEFORE)
    connection = await asyncpg.connect(url)
    world = World(connection, BEFORE)
    await world.insert("log_template", id=7, filename="f", elasticsearch_id="e", created_at=EPOCH)
    await world.insert("trigger", classpath="my.Trigger", kwargs="{}", created_date=EPOCH)
    for dag_id in dict.fromkeys(asked.dag for asked in (*READS, *WRITES)):
        await write(world, dag_id)
    await connection.close()
    version = AIRFLOW[AFTER]
    await asyncio.to_thread(Airflow(version, url, folder / "airflow").run, "db", "migrate")
    clones = []
    for name in ("theirs", "ours"):
        postgres.create_database(f"upgraded_{name}", template=url.rpartition("/")[2])
        clones.append(postgres.url(f"upgraded_{name}"))
    with ExitStack() as stack:
        servers = [
            stack.enter_context(server)
            for server in (airflow_server(version, clones[0], folder), our_server(clones[1], folder))
        ]
        async with Side.of(servers) as opened:
            yield opened


@pytest.fixture(scope="module")
def left() -> list[list[Rows]]:
    """Keep what the last write left on both sides, if it came to its end: it is what is there before the next."""
    return []


@pytest.mark.parametrize("asked", READS, ids=str)
async def test_equal_answers(asked: Asked, sides: tuple[Side, Side]) -> None:
    await _assert_equal_answers(asked, sides)


@pytest.mark.parametrize("asked", WRITES, ids=str)
async def test_equal_answers_and_rows(asked: Asked, sides: tuple[Side, Side], left: list[list[Rows]]) -> None:
    """Each request on its own: what it changed is compared, so that one that differs does not take those after it along."""
    before = left.pop() if left else await _stored(sides)
    await _assert_equal_answers(asked, sides)
    after = await _stored(sides)
    left.append(after)
    by_them, by_us = [changes(*each) for each in zip(before, after, strict=True)]
    assert by_us == by_them


async def _stored(sides: tuple[Side, Side]) -> list[Rows]:
    return [await stored(side.connection, without=WITHOUT) for side in sides]


async def _assert_equal_answers(asked: Asked, sides: tuple[Side, Side]) -> None:
    case = Case(str(asked), asked.method, asked.path.replace("{dag}", asked.dag).replace(" ", "%20"), asked.json)
    if asked.date:
        case = replace(case, headers={"Airflow-API-Version": asked.date})
    theirs, ours = [await side.ask(case, await _id(side, asked)) for side in sides]
    assert shown(ours) == shown(theirs)
    assert ours.headers.get("content-range") == theirs.headers.get("content-range")


async def _id(side: Side, asked: Asked) -> str:
    """Return the id of the try that asks; the last one may have got a new id with the upgrade."""
    which = {"last": "working_set ORDER BY try_number DESC", "first": "working_set IS NULL ORDER BY try_number"}[asked.of]
    place = "dag_id = $1 AND run_id = $2 AND task_id = $3 AND region_index = $4"
    tries = f"SELECT id FROM task_instance WHERE {place} AND {which} LIMIT 1"
    found = await side.connection.fetchval(tries, asked.dag, RUN, asked.task, asked.map_index)
    assert found is not None
    return str(found)
