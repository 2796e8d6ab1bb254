"""``execution-api rehearse``: it tells what could not be served, and PostgreSQL itself shows that it touched nothing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from cryptography.fernet import Fernet
from sqlalchemy import text

from app import settings
from app.commands.embedded import EmbeddedPostgres
from app.commands.rehearse import Rehearsed, lines, rehearse
from app.db.stage import Stage
from app.errors import ConfigurationError, ReadOnlyServer
from app.settings.database_url import place_of
from tests.conftest import reachable
from tests.contract import serialized
from tests.contract.cases.dag_setups import write_version
from tests.pgbouncer import pgbouncer
from tests.servers import AIRFLOW, FERNET_KEY, ROOT, SECRET, airflow_server, airflow_settings, clean_environment
from tests.world import EPOCH, World

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.parametrize("revision", ["3.2", "3.3", "3.4"], scope="session", indirect=True),
]

PREVIEWS = {"AIRFLOW__EXECUTION_API_SERVICE__PREVIEW_RELEASES": ",".join(AIRFLOW)}
PLANTED = "xyzzy-secret"
PUBLIC = "relnamespace = 'public'::regnamespace"
# What our sessions hold of Airflow's tables, and for what they wait.
HELD = f"""
    SELECT mode, coalesce(relname, locktype) AS what, granted
      FROM pg_locks l JOIN pg_stat_activity a USING (pid) LEFT JOIN pg_class c ON c.oid = l.relation
     WHERE datname = current_database() AND application_name = 'execution-api'
       AND (NOT granted OR locktype = 'advisory' OR c.{PUBLIC})
       AND relkind IS DISTINCT FROM 'i'
"""
IS_HERE = """
    SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = 'execution-api' AND xact_start IS NOT NULL
"""


@dataclass
class Operator:
    """An operator's database."""

    url: str
    connection: asyncpg.Connection
    world: World

    async def rehearse(self, *, url: str = "", own: dict[str, str] | None = None, **more: Any) -> Rehearsed:
        environment = {"AIRFLOW_HOME": "/nonexistent", **PREVIEWS, **airflow_settings(url or self.url), **(own or {})}
        return await rehearse(settings.load(environment), **{"most": None, "against": None, **more})

    async def traces(self) -> dict[str, Any]:
        """Return all rows with where they are, who made them and who has locked them, all sequences, and how many tables.

        A row lock leaves its trace in xmax, whatever became of who took it.
        """
        found: dict[str, Any] = {}
        for kind, name in await self.connection.fetch(f"SELECT relkind::text, relname FROM pg_class WHERE {PUBLIC}"):
            if kind == "r":
                query = f'SELECT ctid::text, xmin::text, xmax::text, t::text FROM "{name}" t ORDER BY ctid'
                found[name] = [tuple(row) for row in await self.connection.fetch(query)]
            elif kind == "S":
                found[name] = tuple(await self.connection.fetchrow(f'SELECT last_value, is_called FROM "{name}"'))
        found["tables"] = await self.connection.fetchval("SELECT count(*) FROM pg_class")
        return found


@pytest.fixture(scope="module")
async def operator(make_database: Callable[[str], str], revision: str) -> AsyncIterator[Operator]:
    """Write every Dag that an Airflow serialized for the tests, and what tasks read."""
    url = make_database(revision)
    connection = await asyncpg.connect(url)
    world = World(connection, revision)
    await world.insert("log_template", id=7, filename="f", elasticsearch_id="e", created_at=EPOCH)
    for name in serialized.kept(AIRFLOW[revision]):
        await world.dag(_id(name))
        await write_version(world, name, dag_id=_id(name))
    first = min(map(_id, serialized.kept(AIRFLOW[revision])), key=lambda dag_id: md5(dag_id.encode()).hexdigest())
    await world.run(first)  # it is in every sample
    await world.ti(first, state="success")
    await world.xcom(first, "job", "return_value", {"value": PLANTED})
    await world.insert("variable", key="plain/one", val=PLANTED, is_encrypted=False)
    await world.insert("variable", key="length", val="60", is_encrypted=False)  # of deadlines
    await world.insert("variable", key="secret", val=_encrypted(FERNET_KEY), is_encrypted=True)
    of_connection = {"conn_type": "http", "is_encrypted": True, "is_extra_encrypted": False}
    await world.insert("connection", conn_id="stored", password=_encrypted(FERNET_KEY), **of_connection)
    asset = await world.asset("report")
    await world.scheduled_by("sample", asset)
    yield Operator(url, connection, world)
    await connection.close()


def _id(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def _encrypted(key: str | bytes) -> str:
    return Fernet(key).encrypt(PLANTED.encode()).decode()


async def test_what_airflow_serializes_can_be_served(operator: Operator) -> None:
    if operator.world.revision == "3.2":
        pytest.skip("newer releases serialize what this one does, and more; it has its own below")
    found = await operator.rehearse()
    faults = {life.dag_id for life in found.lives if life.faults}
    assert faults == {"a_cron_that_never_comes", "deadline_of_a_custom_reference"}
    refused = {life.dag_id for life in found.lives if life.refused}
    lengths = {f"deadline_after_a_variable_that_is_{what}" for what in ("missing", "no_number")}
    if operator.world.revision >= "3.4":  # whose server makes such a run without its deadline
        lengths = set()
    assert refused == {"params_without_a_value", *lengths}
    assert not found.trouble
    assert found.readings.faults == []
    assert found.readings.counts == {"variable": 3, "connection": 1, "asset": 1, "run": 1, "XCom": 1}
    lived = [life for life in found.lives if not life.faults and life.dag_id not in lengths]
    assert len(lived) == len(serialized.kept(AIRFLOW[operator.world.revision])) - len(faults) - len(lengths)
    assert all(life.tasks for life in lived)


async def test_nothing_is_changed(operator: Operator) -> None:
    before = await operator.traces()
    found = await operator.rehearse(most=25)
    assert len(found.lives) == 25
    assert not found.trouble
    assert await operator.traces() == before


async def test_nobody_is_kept_waiting(operator: Operator) -> None:
    """Beside a writer that takes every row there is, and gives up after a millisecond: neither waits for the other."""
    rehearsing = asyncio.create_task(operator.rehearse(most=25))
    writer, tables = (
        operator.connection,
        await operator.connection.fetch(f"SELECT relname FROM pg_class WHERE {PUBLIC} AND relkind = 'r'"),
    )
    held: set[tuple[Any, ...]] = set()
    met = 0
    while not rehearsing.done():
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute("SET LOCAL lock_timeout = '1ms'")
        for (name,) in tables:
            await writer.execute(f'SELECT FROM "{name}" FOR UPDATE')
        if operator.world.revision < "3.4":  # since then a row is of one event, and so of one transaction
            await writer.execute(
                "INSERT INTO asset_dag_run_queue SELECT a.id, dag_id, now() FROM asset a, dag ON CONFLICT DO NOTHING"
            )
        await writer.execute("SELECT pg_advisory_xact_lock(1163411792, hashtext(dag_id)) FROM dag")
        met += await writer.fetchval(IS_HERE)
        held.update(tuple(row) for row in await writer.fetch(HELD))
        await transaction.rollback()
    found = await rehearsing
    assert not found.trouble
    assert met > 3
    assert {mode for mode, _, _ in held} <= {"AccessShareLock"}, held
    assert all(granted for _, _, granted in held)


async def test_behind_a_pgbouncer(operator: Operator, postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    """Its next transaction is on another session, which must not have what stood in the one before."""
    before = await operator.traces()
    with pgbouncer(postgres, reachable(tmp_path) / "pgbouncer") as port:
        url = operator.url.replace(f":{postgres.port}/", f":{port}/")
        found = await operator.rehearse(url=url, own={"AIRFLOW__EXECUTION_API_SERVICE__PGBOUNCER": "True"}, most=5)
    assert not found.trouble
    assert sum(life.tasks for life in found.lives) >= 5
    assert found.lives == (await operator.rehearse(most=5)).lives
    assert await operator.traces() == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE dag SET is_paused = is_paused",
        "SELECT FROM dag FOR KEY SHARE",
        "INSERT INTO variable (key, val) VALUES ('x', 'y')",
        "SELECT nextval('log_id_seq')",
        "INSERT INTO public.task_instance SELECT * FROM public.task_instance",
    ],
)
async def test_postgresql_itself_refuses_what_would_change_something(operator: Operator, statement: str) -> None:
    stage = Stage(settings.load({"AIRFLOW_HOME": "/nonexistent", **airflow_settings(operator.url)}).database)
    try:
        async with stage.stands():
            with pytest.raises(ReadOnlyServer):
                async with stage.transaction() as session:
                    await session.execute(text(statement))
    finally:
        await stage.close()


async def test_what_could_not_be_served(make_database: Callable[[str], str], revision: str, tmp_path: Path) -> None:
    """As a person reads it and as a program does; without a value."""
    url = make_database(revision)
    connection = await asyncpg.connect(url)
    world = World(connection, revision)
    for dag_id, name in (
        ("calendar", "sample"), ("mapper", "hours"), ("rule", "sample"), ("torn", "sample"), ("fine", "sample"),
        ("unimported", "sample"), ("never", ""), ("gone", ""),
    ):  # fmt: skip
        await world.dag(dag_id, has_import_errors=dag_id == "unimported", is_stale=dag_id == "gone")
        if name:
            await write_version(world, name, dag_id=dag_id)
    for dag_id, before, after in (
        ("mapper", "airflow.partition_mappers.temporal.StartOfHourMapper", "my.Mapper"),
        ("torn", '"tasks":', '"torn":'),
    ):
        change = "UPDATE serialized_dag SET data = replace(data::text, $2, $3)::json WHERE dag_id = $1"
        await connection.execute(change, dag_id, before, after)
    for dag_id, path, value in (
        ("calendar", ["dag", "timetable"], {"__type": "my.Calendar", "__var": {}}),
        ("rule", ["dag", "tasks", "0", "__var", "weight_rule"], "my.Rule"),
    ):
        change = "UPDATE serialized_dag SET data = jsonb_set(data::jsonb, $2, $3) WHERE dag_id = $1"
        await connection.execute(change, dag_id, path, json.dumps(value))
    other_key = Fernet.generate_key()
    await world.insert("variable", key="old", val=_encrypted(other_key), is_encrypted=True)
    old = {"conn_type": "http", "is_encrypted": True, "is_extra_encrypted": False}
    await world.insert("connection", conn_id="old", password=_encrypted(other_key), **old)
    await connection.close()

    environment = {**clean_environment(), **PREVIEWS, **airflow_settings(url), "AIRFLOW_HOME": str(tmp_path)}
    ended = await asyncio.to_thread(_command, environment)
    assert ended.returncode == 1, ended.stderr
    assert PLANTED not in ended.stdout + ended.stderr
    told = ended.stdout.splitlines()
    assert told[-1] == "3 of 7 Dags can be served"
    failed = [line for line in told if line.startswith("FAIL")]
    assert len(failed) == 6, ended.stdout
    for part in (
        "(calendar): a trigger with a logical date: ", "my.Calendar", "(rule): a trigger: ", "'my.Rule'",
        "(mapper): an event of a partition: ", "my.Mapper", "(torn): ", "the serialized form cannot be read",
        "variable old: no key of [core] fernet_key decrypts it", "connection old: no key of [core] fernet_key decrypts it",
    ):  # fmt: skip
        assert any(part in line for line in failed), ended.stdout
    assert any("(unimported)" in line and "import errors" in line for line in told)
    assert any("(never)" in line and "it was never serialized" in line for line in told)

    ended = await asyncio.to_thread(_command, environment, "--json", "--sample", "2")
    document = json.loads(ended.stdout)
    assert document["passed"] is False
    assert len(document["lives"]) == 2
    assert [what for what, _ in document["readings"]["faults"]] == ["variable old", "connection old"]


async def test_without_a_dag(make_database: Callable[[str], str], revision: str, tmp_path: Path) -> None:
    """A new Airflow is no fault; nor is it said that its Dags can be served. A stale one is none."""
    url = make_database(revision)
    connection = await asyncpg.connect(url)
    await World(connection, revision).dag("gone", is_stale=True)
    await connection.close()
    environment = {**clean_environment(), **PREVIEWS, **airflow_settings(url), "AIRFLOW_HOME": str(tmp_path)}
    ended = await asyncio.to_thread(_command, environment)
    assert ended.returncode == 0, ended.stderr
    where = place_of(settings.load(environment).database.url)
    assert ended.stdout.endswith(f"\nthere is no Dag to rehearse: table dag of {where} has none, or stale ones only\n")


def _command(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "app", "rehearse", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)


async def test_it_is_compared_with_airflows_own_server(operator: Operator, tmp_path: Path) -> None:
    """All is the same but what that decrypts with another key; and no value is shown."""
    other_key = {"AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode()}
    with airflow_server(AIRFLOW[operator.world.revision], operator.url, tmp_path, **other_key) as other:
        before = await operator.traces()
        found = await operator.rehearse(most=8, against=f"{other.base_url}/")
        after = await operator.traces()
        with pytest.raises(ConfigurationError, match=r"refuses a token of these settings \(403\).*jwt_secret"):
            await operator.rehearse(against=f"{other.base_url}/", own={"AIRFLOW__API_AUTH__JWT_SECRET": SECRET[::-1]})
        with pytest.raises(ConfigurationError, match=r"is no execution API \(404 at /health\)"):
            await operator.rehearse(against=other.base_url.removesuffix("execution"))
    with pytest.raises(ConfigurationError, match=r"does not answer: \w+"):
        await operator.rehearse(against=other.base_url)
    assert {name for name in before if before[name] != after[name]} <= {"job"}  # the server's own heartbeat
    assert not found.trouble
    assert {each.path for each in found.readings.differences} == {"/variables/secret", "/connections/stored"}
    assert found.readings.asked["GET /variables/{variable_key}"] == 3
    assert {"GET /dag-runs/{dag_id}/{run_id}", "GET /xcoms/{dag_id}/{run_id}/{task_id}/{key}"} <= set(found.readings.asked)
    assert len(found.readings.asked) > 12
    shown = "\n".join(lines(found))
    assert "FAIL  GET /variables/{variable_key}: 2 of 3 answers the same" in shown
    assert PLANTED not in shown
