"""Generated sequences of calls, valid and not, on two clones of one database, of Airflow's own server and of ours.

At least a thousand steps on each metadata revision. After each: equal answers, equal rows of every table. Hypothesis makes
the sequences from a seed that is another one on every run and stands in the test's name: ``SEQUENCES_SEED=N`` repeats it.
``SEQUENCES_STEPS=N`` makes more, which is what ``make fuzz`` does.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.conftest import empty
from tests.contract.edges import BEYOND, FIELDS, POOLS, Field, kept_difference
from tests.contract.sides import Side, assert_refusal, shown
from tests.rows import rows
from tests.servers import Server, token
from tests.world import EPOCH, World

pytestmark = [pytest.mark.slow, pytest.mark.releases(1, together=True)]

ENOUGH = int(os.environ.get("SEQUENCES_STEPS") or 1000)  # compared on each revision, without those that differ on purpose
STEPS = 30
SEQUENCES = ENOUGH * 2 // STEPS  # some steps differ on purpose, and some sequences end where Airflow fails
SEED = int(os.environ.get("SEQUENCES_SEED") or random.SystemRandom().randrange(2**32))
TASKS = ("a", "b", "c", "mapped")
END = {"end_date": "2026-01-01T00:05:00Z"}
OUTLET = {"name": "first", "uri": "s3://bucket/first", "type": "Asset"}


@dataclass(frozen=True)
class Step:
    """One call, or one write of the scheduler's.

    :param task: whose task instance speaks.
    :param first: whether it speaks for the first try, whatever came after.
    :param path: ``{ti}`` stands for its id.
    :param sql: what the scheduler does instead of a call.
    :param field: of a body of its own that gets an edge value, and the value as JSON text.
    """

    task: str
    method: str = ""
    path: str = ""
    body: Any = None
    first: bool = False
    sql: str = ""
    field: Field | None = None
    value: str = ""


task = st.sampled_from(TASKS)
worker = st.sampled_from(
    [{"hostname": "worker", "pid": 42}, {"hostname": "worker", "pid": 43}, {"hostname": "w2", "pid": 42}]
)
key = st.sampled_from(["k1", "return_value", "with/slash"])
note = st.sampled_from(["text", "other", "", None])
value = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.text(max_size=20), st.lists(st.integers(), max_size=3)
)
states = st.sampled_from(
    [
        {"state": "success", **END},
        {"state": "success", **END, "task_outlets": [OUTLET]},
        {"state": "success", **END, "task_outlets": [{"name": "none", "uri": "s3://bucket/none", "type": "Asset"}]},
        {"state": "success", **END, "rendered_map_index": "label"},
        {"state": "failed", **END},
        {"state": "skipped", **END},
        {"state": "removed", **END},
        {"state": "up_for_retry", **END},
        {"state": "up_for_reschedule", **END, "reschedule_date": "2026-01-02T00:00:00Z"},
        {"state": "deferred", "classpath": "T", "next_method": "m", "trigger_kwargs": {"a": 1}},
        {"state": "success"},
        {"state": "success", "end_date": "never"},
        {"state": "nonsense", **END},
    ]
)
SCHEDULER = (
    "UPDATE task_instance SET state = 'queued', try_number = try_number + 1 WHERE task_id = $1"
    " AND state IN ('up_for_retry', 'up_for_reschedule', 'deferred', 'scheduled')",
    "UPDATE task_instance SET state = 'failed' WHERE task_id = $1 AND state = 'running'",
    "UPDATE task_instance SET state = NULL WHERE task_id = $1 AND state IN ('skipped', 'success')",
    "UPDATE task_instance SET state = 'queued' WHERE task_id = $1 AND state IS NULL",
)


@st.composite
def calls(draw: st.DrawFn) -> Step:
    """Draw one step; starting and reporting most often, so that sequences get somewhere."""
    who, first = draw(task), draw(st.sampled_from([False, False, False, False, True]))
    xcom = f"/xcoms/d/{draw(st.sampled_from(['manual__1', 'manual__1', 'none']))}/{who}/{draw(key)}"
    often, seldom = ("run", "state", "edge"), ("state", "beat", "rtif", "xcom", "variable", "read", "write", "sql")
    kind = draw(st.sampled_from([*often, *often, *seldom]))
    match kind:
        case "run":
            start = {"state": "running", "unixname": "u", "start_date": "2026-01-01T00:00:01Z", **draw(worker)}
            return Step(who, "PATCH", "/task-instances/{ti}/run", start, first)
        case "state":
            return Step(who, "PATCH", "/task-instances/{ti}/state", draw(states), first)
        case "beat":
            return Step(who, "PUT", "/task-instances/{ti}/heartbeat", draw(worker), first)
        case "rtif":
            return Step(who, "PUT", "/task-instances/{ti}/rtif", draw(st.dictionaries(key, value, min_size=1)), first)
        case "xcom":
            method = draw(st.sampled_from(["POST", "POST", "GET", "GET", "DELETE"]))
            query = draw(st.sampled_from(["", "", "?map_index=0", "?map_index=x"]))
            return Step(who, method, xcom + query, draw(value) if method == "POST" else None, first)
        case "variable":
            method = draw(st.sampled_from(["PUT", "GET", "DELETE"]))
            body = {
                "val": draw(st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=9)),
                "description": None,
            }
            return Step(who, method, f"/variables/{draw(key)}", body if method == "PUT" else None, first)
        case "read":
            reads = (
                "/task-instances/count?dag_id=d", "/task-instances/count?dag_id=d&states=running&states=null",
                "/task-instances/states?dag_id=d&task_ids=a&task_ids=mapped", "/dag-runs/d/manual__1/state",
                "/dag-runs/count?dag_id=d", "/task-reschedules/{ti}/start_date", "/connections/none",
                "/task-instances/{ti}/previous-successful-dagrun", "/assets/by-name?name=first",
            )  # fmt: skip
            return Step(who, "GET", draw(st.sampled_from(reads)))
        case "edge":
            field = draw(st.sampled_from(FIELDS))
            return Step(
                who, field.method, field.path, first=first, field=field, value=draw(st.sampled_from(READABLE[field.kind]))
            )
        case "write":
            skipped = [draw(task), [draw(task), 0]]
            return draw(
                st.sampled_from(
                    [
                        Step(who, "PATCH", "/task-instances/{ti}/rendered-map-index", "label", first),
                        Step(who, "PATCH", "/task-instances/{ti}/skip-downstream", {"tasks": skipped}, first),
                        Step(who, "PATCH", "/task-instances/{ti}/dag-run-note", {"note": draw(note)}, first),
                        Step(who, "DELETE", "/task-instances/{ti}/rtif"),
                    ]
                )
            )
        case _:
            return Step(who, sql=draw(st.sampled_from(SCHEDULER)))


# PostgreSQL keeps these in its json columns and cannot read them, so that their rows could not be compared.
READABLE = {
    kind: [value for value in values if not any(sign in value for sign in ("u0000", "ud800", "udc00"))]
    for kind, values in POOLS.items()
}
compared: Counter[str] = Counter()


class Clone:
    """One server with its database, and the ids of its task instances."""

    def __init__(self, server: Server, client: httpx.AsyncClient, connection: asyncpg.Connection) -> None:
        self.server, self.client, self.connection = server, client, connection
        self.first: dict[str, str] = {}
        self.keeps_tries = False
        self.revision = ""

    async def set_up(self, revision: str) -> None:
        await empty(self.connection)
        world = World(self.connection, revision)
        self.keeps_tries, self.revision = world.keeps_tries, revision
        await world.dag("d")
        await world.run("d")
        await world.serialized("d", [{"__var": {"task_id": name}, "__type": "operator"} for name in TASKS])
        await world.dag("consumer")
        await world.scheduled_by("consumer", await world.asset("first"))
        for name in TASKS:
            ti = await world.ti("d", name, map_index=0 if name == "mapped" else -1, max_tries=2, start_date=EPOCH)
            self.first[name] = str(ti)

    async def row(self, name: str) -> asyncpg.Record:
        last_try = "SELECT * FROM task_instance WHERE task_id = $1 ORDER BY try_number DESC LIMIT 1"
        return await self.connection.fetchrow(last_try, name)

    async def speaker(self, step: Step) -> str:
        """Return the id of the task instance that speaks, which a retry makes anew on 3.2 and 3.3."""
        return self.first[step.task] if step.first else str((await self.row(step.task))["id"])

    async def take(self, step: Step) -> httpx.Response | None:
        if step.sql:
            await self.connection.execute(self._of_tries(step.sql) if self.keeps_tries else step.sql, step.task)
            return None
        ti = await self.speaker(step)
        headers = {"Authorization": f"Bearer {token(ti)}"}
        options: dict[str, Any] = {"json": step.body} if step.method in ("POST", "PUT", "PATCH") else {}
        if step.field is not None:
            headers["Content-Type"] = "application/json"
            options = {"content": step.field.content(step.value)}
        return await self.client.request(step.method, step.path.replace("{ti}", ti), headers=headers, **options)

    @staticmethod
    def _of_tries(sql: str) -> str:
        """Return what the scheduler does where every try is a row, which is made with its number."""
        return sql.replace(", try_number = try_number + 1", "").replace("task_id = $1", "task_id = $1 AND working_set")

    async def question(self, step: Step) -> asyncpg.Record | None:
        """Return what the task instance that speaks has asked a person, if it has."""
        return await self.connection.fetchrow("SELECT * FROM hitl_detail WHERE ti_id = $1", await self.speaker(step))

    async def ask_as(self, step: Step, question: asyncpg.Record) -> None:
        """Let the task instance that speaks have asked this."""
        row = {**question, "ti_id": await self.speaker(step)}
        values = ", ".join(f"${number}" for number, _ in enumerate(row, start=1))
        await self.connection.execute("DELETE FROM hitl_detail WHERE ti_id = $1", row["ti_id"])
        await self.connection.execute(f"INSERT INTO hitl_detail ({', '.join(row)}) VALUES ({values})", *row.values())


async def differs_on_purpose(step: Step, clone: Clone) -> bool:
    """Say whether docs/compatibility.md names a difference for this step: replays, and what is skipped already."""
    row = await clone.row(step.task)
    if step.field is not None:
        if kept_difference(step.field, step.value) or step.path.startswith("/xcoms"):  # of a task that there is none of
            return True
        if step.value == "null" and clone.revision < min(step.field.revisions):  # what only a newer worker knows
            return True
        if step.field.name == "timeout" and step.value in BEYOND:
            question = await clone.question(step)
            if question is not None and question["responded_at"] is not None:  # there is nothing to wait for
                return True
        body = step.field.body
    else:
        body = step.body
    if step.path.startswith("/xcoms") and "\\u0000" in json.dumps(body):  # it is refused before its run is looked for
        return True
    if step.path.endswith("/run") and row["state"] == "running":
        return (row["hostname"], row["pid"]) == (body["hostname"], body["pid"])
    if step.path.endswith("/state") and body is not None:
        return bool(body["state"] == row["state"] or (step.first and body["state"] == "up_for_retry"))
    if step.path.endswith("/skip-downstream"):
        return bool(await clone.connection.fetchval("SELECT count(*) FROM task_instance WHERE state = 'skipped'"))
    return False


async def assert_second_question(
    step: Step, first: asyncpg.Record, answer: httpx.Response, theirs: Clone, ours: Clone
) -> None:
    """Asked again, a person sees the second question, where Airflow's server keeps the first: a difference by name.

    It does not look at what it does not keep; here what cannot be stored is refused the second time too. Nothing else
    differs: its row is made as ours is, so that all can be compared, and the sequence goes on.
    """
    assert step.field is not None
    row = await ours.question(step)
    assert row is not None
    if answer.status_code == 422:
        assert_refusal(answer)
        assert not is_finite(step.value), step
        assert row == first, step
    else:
        asked, told = json.loads(step.field.content(step.value)), answer.json()
        for name in ("options", "subject", "body", "params", "assigned_users"):
            kept = row["assignees" if name == "assigned_users" else name]
            assert told[name] == (kept if name in ("subject", "body") else json.loads(kept))
            assert told[name] == asked.get(name), (name, step)
        assert (row["responded_at"], row["responded_by"], row["chosen_options"]) == (None, None, None)
    await theirs.ask_as(step, row)


def is_finite(value: str) -> bool:
    """Say whether JSON has no NaN and no infinity, of which Python makes what a float cannot hold."""
    try:
        json.dumps(json.loads(value), allow_nan=False)
    except ValueError:
        return False
    return True


@pytest.fixture
async def clones(servers: tuple[Server, Server]) -> AsyncIterator[tuple[Clone, Clone]]:
    async with Side.of(servers) as opened:
        theirs, ours = [Clone(side.server, side.client, side.connection) for side in opened]
        yield theirs, ours


async def in_step(clones: tuple[Clone, Clone]) -> None:
    """Let the sequences of both databases go on from the same number: a refusal may have used one that it did not keep."""
    query = "SELECT sequencename, coalesce(last_value, 0) AS used FROM pg_sequences WHERE schemaname = 'public'"
    used = [dict(await clone.connection.fetch(query)) for clone in clones]
    for name in used[0]:
        if used[0][name] != used[1][name]:
            for clone in clones:
                await clone.connection.execute("SELECT setval($1, $2)", f'"{name}"', max(each[name] for each in used))


@pytest.mark.parametrize("_", [f"SEQUENCES_SEED={SEED}"])
@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of what fails: it must not hide why
@seed(SEED)
@settings(
    max_examples=SEQUENCES, deadline=None, database=None, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(steps=st.lists(calls(), min_size=STEPS, max_size=STEPS))
async def test_sequences(steps: list[Step], clones: tuple[Clone, Clone], revision: str, _: str) -> None:
    theirs, ours = clones
    for clone in clones:
        await clone.set_up(revision)
    before = await rows(ours.connection)
    for number, step in enumerate(steps):
        if await differs_on_purpose(step, ours):
            continue
        compared[revision] += 1
        asked = await ours.question(step) if step.method == "POST" and step.path.startswith("/hitlDetails") else None
        expected, answer = await asyncio.gather(theirs.take(step), ours.take(step))
        after_theirs, after = await rows(theirs.connection), await rows(ours.connection)
        if step.field is not None and answer is not None and expected is not None and expected.status_code >= 400:
            assert_refusal(answer)
            assert answer.status_code >= 400, (number, step)
            assert after == before, (number, step)
            if after_theirs != after:
                return  # what Airflow left behind is not to be had equal
            await in_step(clones)
            continue
        if answer is not None and expected is not None:
            if expected.status_code >= 500:
                assert_refusal(answer)
                assert after == before, (number, step)
                return  # what Airflow left behind is not to be had equal
            if asked is not None and expected.status_code == 201:
                await assert_second_question(step, asked, answer, theirs, ours)
                after_theirs = await rows(theirs.connection)
            elif answer.status_code == expected.status_code == 422 and step.path.endswith("/state"):
                assert_refusal(answer)  # worded for the one model that the state chooses
            else:
                assert shown(answer) == shown(expected), (number, step)
        assert sorted((after - after_theirs).elements()) == sorted((after_theirs - after).elements()), (number, step)
        before = after


def test_enough_steps_were_compared(request: pytest.FixtureRequest, revision: str, servers: tuple[Server, Server]) -> None:
    """It comes after the sequences of its revision, whose servers it names so that it is run beside them."""
    if not any(each.name.startswith("test_sequences") and revision in each.name for each in request.session.items):
        pytest.skip("the sequences of other releases were drawn")
    assert compared[revision] >= ENOUGH
