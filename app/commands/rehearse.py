"""``execution-api rehearse``: what an operator's own Dags and stored values would meet here, with nothing changed."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace

import orjson

from app.commands import checks
from app.commands.asking import Asking
from app.commands.counting import number_of
from app.commands.lives import Life, live
from app.commands.reads import Reading, Readings
from app.db import samples
from app.db.stage import WRITTEN, Stage
from app.errors import RetryableDatabaseError
from app.releases import Revision
from app.server.auth import Tokens
from app.server.draining import Readiness
from app.server.stats import Stats
from app.settings import Settings, StatsSettings
from app.settings.database_url import place_of
from app.tasks.heartbeats import Heartbeats
from app.tasks.secrets import Secrets
from app.tasks.service import Service

LONGEST = 2.0  # seconds that a transaction lasts, plus a Dag: what it could still see, VACUUM keeps
NAMES = 5  # that are told of those of which the same holds
TELL_EVERY = 100  # Dags
NO_DAG = "there is no Dag to rehearse: table dag of {} has none, or stale ones only"


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What a rehearsal found.

    :param database: where, without a password.
    :param trouble: why it ended before its end; empty when it did not.
    """

    database: str
    revision: str
    lives: list[Life] = field(default_factory=list)
    readings: Readings = field(default_factory=Readings)
    trouble: str = ""

    @property
    def passed(self) -> bool:
        """Whether all can be served, and as the other server serves it."""
        found = self.readings
        return not (self.trouble or found.faults or found.differences or any(life.faults for life in self.lives))


def run(settings: Settings, *, most: int | None, against: str | None, as_json: bool) -> bool:
    """Rehearse and print what was found; say whether everything can be served.

    :param most: Dags at most; None for all.
    :param against: URL of the execution API of Airflow's own server, to compare with; or None.
    :raises ConfigurationError: when the configuration cannot serve, or there is nothing to compare with.
    """
    found = asyncio.run(rehearse(settings, most=most, against=against, told=_to_standard_error))
    if as_json:
        document = {"passed": found.passed, **{each.name: getattr(found, each.name) for each in fields(found)}}
        sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in lines(found))
    return found.passed


async def rehearse(
    settings: Settings, *, most: int | None, against: str | None, told: Callable[[str], None] = lambda _: None
) -> Rehearsed:
    """Read what is stored, and live a run of each Dag, on a stage.

    :param told: hears how far it is.
    :raises ConfigurationError: see :func:`run`.
    """
    revision = await checks.require_database(settings.database)
    stage = Stage(settings.database)
    service = _service(settings, stage, revision)
    asking = Asking(service)
    reading = Reading(stage, service, asking, against=against)
    found = Rehearsed(place_of(settings.database.url), revision.name, readings=reading.found)
    try:
        await reading.meet()
        async with stage.stands(written=()):
            await reading.stored()
            async with stage.autocommit() as session:
                dag_ids = await samples.dags(session, most=most)

        async def live_one(dag_id: str) -> None:
            found.lives.append(await live(stage, service, asking, dag_id))
            if len(found.lives) % TELL_EVERY == 0:
                told(f"{len(found.lives)} of {len(dag_ids)} Dags")

        await _each(dag_ids, reading.dag, stage, written=())
        await _each(dag_ids, live_one, stage, written=(*WRITTEN, *revision.storage.schema.written))
    except RetryableDatabaseError as error:
        return replace(found, trouble=f"the database could not do it: {error or error.reason}")
    finally:
        await reading.close()
        await asking.close()
        await stage.close()
    return found


def lines(found: Rehearsed) -> Iterator[str]:
    """Yield what was found, for people."""
    lives, counts = found.lives, found.readings.counts
    yield f"rehearsed on {found.database}, metadata revision {found.revision}: nothing was changed"
    tasks = sum(life.tasks for life in lives)
    yield f"  {number_of(len(lives), 'Dag')} triggered, {number_of(tasks, 'task')} of theirs run through, and cleared"
    yield f"  read: {', '.join(number_of(count, what) for what, count in counts.items()) or 'nothing is stored'}"
    refused = _grouped((life.refused, life.dag_id) for life in lives if life.refused)
    yield from (
        f"note  {_named(dag_ids, 'Dag')}: cannot be triggered by a task, on Airflow's own server either: {why}"
        for why, dag_ids in refused.items()
    )
    faults = _grouped((f"{operation}: {why}", life.dag_id) for life in lives for operation, why in life.faults)
    yield from (f"FAIL  {_named(dag_ids, 'Dag')}: {why}" for why, dag_ids in faults.items())
    yield from (f"FAIL  {what}: {why}" for what, why in found.readings.faults)
    yield from _compared(found.readings)
    if found.trouble:
        yield f"FAIL  {found.trouble}"
    if not lives:
        yield NO_DAG.format(found.database) if not found.trouble else "no Dag was rehearsed"
    elif found.passed:
        yield "your Dag can be served" if len(lives) == 1 else f"each of your {len(lives):,} Dags can be served"
    else:
        served = len(lives) - len({life.dag_id for life in lives if life.faults})
        yield f"{served:,} of {number_of(len(lives), 'Dag')} can be served"


def _compared(readings: Readings) -> Iterator[str]:
    for operation, count in sorted(readings.asked.items()):
        differing = [each for each in readings.differences if each.operation == operation]
        alike = f"{count - len(differing):,} of {number_of(count, 'answer')} the same"
        yield f"{'FAIL' if differing else 'same'}  {operation}: {alike}"
        yield from (f"        {each.path}: ours {each.ours}, Airflow's {each.others}" for each in differing[:NAMES])


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def _named(names: Sequence[str], what: str) -> str:
    more = f" and {len(names) - NAMES:,} more" if len(names) > NAMES else ""
    return f"{number_of(len(names), what)} ({', '.join(names[:NAMES])}{more})"


async def _each(
    dag_ids: Sequence[str], do: Callable[[str], Awaitable[None]], stage: Stage, *, written: Collection[str]
) -> None:
    """Do something with each Dag, on a stage that is set up anew again and again, so that none stands for long."""
    left = deque(dag_ids)
    while left:
        async with stage.stands(written=written):
            until = time.monotonic() + LONGEST
            while left and time.monotonic() < until:
                await do(left.popleft())


def _service(settings: Settings, stage: Stage, revision: Revision) -> Service:
    """Return what the handlers use, with the stage for its database, and without what others would see."""
    return Service(
        settings=settings,
        database=stage,
        revision=revision,
        tokens=Tokens(settings.tokens),
        secrets=Secrets(settings, stage),
        heartbeats=Heartbeats(stage),
        readiness=Readiness(),
        stats=Stats(StatsSettings(), None),
    )


def _to_standard_error(how_far: str) -> None:
    print("rehearsing:", how_far, file=sys.stderr, flush=True)
