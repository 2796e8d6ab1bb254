"""What a successful task's outlets and events do: asset events, and Dags queued for a run.

It happens in the transaction of the state itself, so that a recorded success and its events are one. Nothing here waits for
what somebody else holds, and Dags are queued in key order: Airflow's own server iterates sets there, and two successes that
queue the same Dags deadlock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import structlog

from app.dags.partitions import PartitionedSchedule, UnknownMapper, downstream, kind
from app.db import assets, dags, partitions, teams
from app.db.asset_events import Event, Found
from app.db.assets import AssetKey
from app.db.session import Session
from app.db.tables import AnyRow
from app.errors import FOREIGN, UnknownInDag
from app.releases import Revision
from app.schemas.assets import AssetProfile
from app.server.stats import Stats
from app.settings import Settings
from app.tasks import outlet_events, threads
from app.tasks.transitions import Refuse, RegisterAssets

log = structlog.get_logger(__name__)

QUICK = 200  # partition keys that may be mapped between two turns of the event loop, at 1 to 20 us each

_Outlet = tuple[str | None, str | None]  # name, uri; a reference has one of them
_Note = tuple[str, str]  # event and extra of an audit row


@dataclass(slots=True)
class _Emission:
    """One event to record for one asset."""

    asset_pk: int
    name: str
    uri: str
    extra: Mapping[str, Any]
    partition_key: str | None
    partition_date: datetime | None
    alias_names: frozenset[str] = field(default_factory=frozenset)
    alias_pks: Sequence[int] = ()
    waiting: Sequence[AnyRow] = ()  # Dags that it reaches

    @property
    def queued_dag_ids(self) -> list[str]:
        """Those of the Dags that wait for no partition."""
        if self.partition_key is not None:
            return []
        return [dag.dag_id for dag in self.waiting if not dag.timetable_partitioned]


async def register(
    session: Session,
    *,
    row: AnyRow,
    effect: RegisterAssets,
    now: datetime,
    settings: Settings,
    revision: Revision,
    stats: Stats,
) -> Refuse | None:
    """Record the events of a success and queue the Dags that wait for them; a statement a table, however many they are.

    :param row: the locked task instance with its run.
    :returns: the refusal of what cannot be recorded faithfully; the caller must then roll back.
    :raises LockTimeout: when somebody else writes the same assets or queues the same Dags right now.
    """
    if refusal := outlet_events.refused(effect, revision):
        return refusal
    emissions = await _direct(session, row, effect, revision)
    through_aliases = await _through_aliases(session, row, effect, now)
    if isinstance(through_aliases, Refuse):
        return through_aliases
    if through_aliases:
        await _find_waiting(session, through_aliases, revision)
    emissions += through_aliases
    if not emissions:
        return None
    if settings.multi_team and revision.teams.own_assets:
        await _keep_those_in_reach(session, row, emissions)
    events = [
        Event(each.asset_pk, each.extra, each.partition_key, each.alias_pks, each.queued_dag_ids) for each in emissions
    ]
    event_pks = await revision.storage.asset_events.record(session, events=events, source=row, now=now)
    try:
        await _wait_for_partitions(session, row, list(zip(emissions, event_pks, strict=True)), now, settings, revision)
    except UnknownInDag as error:
        return Refuse(422, {"reason": "unknown_partition_mapper", "message": f"Nothing was recorded: {error}"})
    if stats.are_on:  # last of all: what comes back to a lock shall not be counted twice
        knows_team = settings.multi_team and revision.teams.own_assets
        team_name = await teams.of_dag(session, dag_id=row.dag_id) if knows_team else None
        for _ in emissions:
            stats.incr("asset.updates", tags={"team_name": team_name})
    return None


async def _find_waiting(session: Session, emissions: Sequence[_Emission], revision: Revision) -> None:
    """Attach the assets of events to the aliases through which these came, and find the Dags that wait for them."""
    names: dict[int, set[str]] = {}
    for emission in emissions:
        names.setdefault(emission.asset_pk, set()).update(emission.alias_names)
    alias_pks = await assets.attach_aliases(session, names=names)
    keys = {emission.asset_pk: (emission.name, emission.uri) for emission in emissions}
    of_asset: dict[int, list[AnyRow]] = {}
    of_alias: dict[int, list[AnyRow]] = {}
    for dag in await revision.storage.asset_events.consumers(session, keys=keys, alias_pks=alias_pks.values()):
        of, pk = (of_asset, dag.asset_pk) if dag.alias_pk is None else (of_alias, dag.alias_pk)
        of.setdefault(pk, []).append(dag)
    for emission in emissions:
        emission.alias_pks = sorted(alias_pks[name] for name in emission.alias_names)
        lists = (of_asset.get(emission.asset_pk, ()), *(of_alias.get(pk, ()) for pk in emission.alias_pks))
        found = {dag.dag_id: dag for dags_of_one in lists for dag in dags_of_one}
        emission.waiting = [found[dag_id] for dag_id in sorted(found)]


async def _direct(session: Session, row: AnyRow, effect: RegisterAssets, revision: Revision) -> list[_Emission]:
    """Return the events of the outlets that name assets, by key, name or uri."""
    outlets: tuple[AssetProfile, ...] = effect.outlets
    keys = {(o.name, o.uri) for o in outlets if o.type == "Asset" and o.name and o.uri}
    names = {o.name for o in outlets if o.type == "AssetNameRef" and o.name}
    uris = {o.uri for o in outlets if o.type == "AssetUriRef" and o.uri}
    if not (keys or names or uris):
        return []
    found = await revision.storage.asset_events.find(session, keys=keys, names=names, uris=uris)
    payloads = _payloads(effect, revision)
    emissions = []
    wanted: list[tuple[Found, _Outlet]] = [
        *((a, (a.name, a.uri)) for a in found if (a.name, a.uri) in keys),
        *{a.name: (a, (a.name, None)) for a in found if a.name in names}.values(),
        *{a.uri: (a, (None, a.uri)) for a in found if a.uri in uris}.values(),
    ]
    if len(wanted) < len(keys) + len(names) + len(uris):
        log.warning("the task has inactive assets among its outlets", dag_id=row.dag_id, task_id=row.task_id)
    for outlet, named in wanted:
        own = (outlet.name, outlet.uri) if revision.assets.event_per_emission else named
        for extra, partition_key in payloads.get(own, [({}, None)]):
            effective = row.partition_key if partition_key is None else partition_key
            date = row.partition_date if effective == row.partition_key else None  # it is said of the run's own key
            emission = _Emission(outlet.pk, outlet.name, outlet.uri, extra, effective, date, waiting=outlet.waiting)
            emissions.append(emission)
    return emissions


def _payloads(effect: RegisterAssets, revision: Revision) -> dict[_Outlet, list[tuple[Mapping[str, Any], str | None]]]:
    """Return the emitted (extra, partition key) by outlet.

    Without :attr:`Revision.event_per_emission` the last one counts, and a reference is found by its own part.
    """
    payloads: dict[_Outlet, list[tuple[Mapping[str, Any], str | None]]] = {}
    for event in effect.events:
        if "source_alias_name" in event:
            continue
        name, uri = event["dest_asset_key"]["name"], event["dest_asset_key"]["uri"]
        extra = event["extra"] or {}
        if revision.assets.event_per_emission:
            payloads.setdefault((name, uri), []).append((extra, event.get("partition_key")))
        else:
            payloads |= {outlet: [(extra, None)] for outlet in ((name, uri), (name, None), (None, uri))}
    return payloads


async def _through_aliases(session: Session, row: AnyRow, effect: RegisterAssets, now: datetime) -> list[_Emission] | Refuse:
    """Return the events that came through the task's aliases, one per asset and extra; unknown assets are created.

    What makes a new asset is what the first event of it says.
    """
    alias_names = effect.alias_names
    grouped: dict[tuple[AssetKey, str, str], set[str]] = {}
    for event in effect.events:
        if alias_names and event.get("source_alias_name") in alias_names:
            name, uri = event["dest_asset_key"]["name"], event["dest_asset_key"]["uri"]
            asset_extra = json.dumps(event.get("dest_asset_extra", {}), sort_keys=True)
            extra = json.dumps(event["extra"] or {}, sort_keys=True)
            grouped.setdefault(((name or uri, uri or name), asset_extra, extra), set()).add(event["source_alias_name"])
    if not grouped:
        return []
    asset_pks = await assets.pks(session, keys={key for key, _, _ in grouped})
    created: dict[AssetKey, Any] = {}
    for key, asset_extra, _ in grouped:
        if key not in asset_pks and key not in created:
            created[key] = json.loads(asset_extra) or {}
            if (problem := outlet_events.why_no_asset(key, created[key])) is not None:
                return Refuse(422, {"reason": "invalid_asset", "message": f"Nothing was recorded: {problem}"})
    if created:
        asset_pks |= await assets.create(session, extras=created, now=now)
    own = (row.partition_key, row.partition_date)
    return [
        _Emission(asset_pks[key], *key, json.loads(extra), *own, frozenset(through))
        for (key, _, extra), through in grouped.items()
    ]


async def _keep_those_in_reach(session: Session, row: AnyRow, emissions: Sequence[_Emission]) -> None:
    """Leave each event the Dags that it may reach: its producer lets it, and they take it."""
    asset_pks = {emission.asset_pk for emission in emissions}
    team_of = await teams.of_dags(session, dag_ids={row.dag_id, *(dag.dag_id for each in emissions for dag in each.waiting)})
    producers = await teams.accepted_producers(session, asset_pks=asset_pks)
    consumers = await teams.accepted_consumers(session, asset_pks=asset_pks, dag_id=row.dag_id, task_id=row.task_id)
    source = team_of.get(row.dag_id)

    def reaches(asset_pk: int, dag_id: str) -> bool:
        said, accepts, team = consumers.get(asset_pk), producers.get((asset_pk, dag_id)), team_of.get(dag_id)
        if team is None:
            return said is None or said.allow_global_consumers
        if team == source:
            return True
        if source is None:
            taken = accepts is None or accepts.allow_global_producers
        else:
            taken = accepts is not None and source in (accepts.allow_producer_teams or ())
        for_teams = None if said is None else said.allow_consumer_teams
        return taken and (for_teams is None or team in for_teams)

    for emission in emissions:
        emission.waiting = [dag for dag in emission.waiting if reaches(emission.asset_pk, dag.dag_id)]


@dataclass(frozen=True, slots=True)
class _Question:
    """Which partitions of a Dag are meant by a partition key of an asset."""

    dag_id: str
    name: str
    uri: str
    key: str

    @property
    def about(self) -> str:
        return f"asset (name='{self.name}', uri='{self.uri}') in target Dag '{self.dag_id}'"


async def _wait_for_partitions(
    session: Session,
    row: AnyRow,
    events: Sequence[tuple[_Emission, int]],
    now: datetime,
    settings: Settings,
    revision: Revision,
) -> None:
    """Let partitioned Dags wait for the partitions to which events belong; the audit log tells of those that have none.

    :param events: with their ids.
    :raises UnknownInDag: a mapper cannot be asked here.
    """
    listening = [
        (emission, event_pk, [dag.dag_id for dag in emission.waiting if dag.timetable_partitioned])
        for emission, event_pk in events
    ]
    questions = {
        _Question(dag_id, emission.name, emission.uri, emission.partition_key): None
        for emission, _, dag_ids in listening
        if emission.partition_key
        for dag_id in dag_ids
    }
    timetables = await dags.timetables(session, dag_ids={each.dag_id for each in questions}) if questions else {}
    schedules = {dag_id: PartitionedSchedule(timetable) for dag_id, timetable in timetables.items()}
    answers = await _answers(schedules, list(questions), settings.trusted_classes)
    joining: list[partitions.Joining] = []
    notes: list[_Note] = []
    for emission, event_pk, dag_ids in listening:
        if dag_ids and not emission.partition_key:
            notes.append(_missing_key(row, emission, dag_ids))
        for dag_id in dag_ids if emission.partition_key else ():
            question = _Question(dag_id, emission.name, emission.uri, emission.partition_key or "")
            schedule = schedules[dag_id]
            mapper, answer = schedule.mapper(name=emission.name, uri=emission.uri), answers[question]
            if isinstance(answer, tuple):
                notes.append(answer)
            elif note := _too_many(question, answer, mapper, settings, revision):
                notes.append(note)
            else:
                date = emission.partition_date if kind(mapper) == "IdentityMapper" else None
                of_event = (emission.asset_pk, event_pk, question.key, date, schedule.fingerprint, schedule.batches)
                joining += [partitions.Joining(dag_id, key, *of_event) for key in answer]
    if joining:
        await revision.storage.partitions.join(session, joining=joining, now=now)
    audit = revision.storage.audit
    await audit.record_notes(session, row=row, notes=notes, in_teams=settings.multi_team, now=now)


async def _answers(
    schedules: Mapping[str, PartitionedSchedule], questions: Sequence[_Question], trusted: Sequence[str]
) -> dict[_Question, list[str] | _Note]:
    """Ask the Dags' mappers; what one raises for a key is noted.

    :raises UnknownInDag: one cannot be asked here.
    """
    mappers = {}
    for question in questions:
        if (schedule := schedules.get(question.dag_id)) is None:
            raise UnknownMapper(f"the Dag '{question.dag_id}' has no serialized form")
        mappers[question] = schedule.mapper(name=question.name, uri=question.uri)

    def ask_all() -> dict[_Question, list[str] | _Note]:
        answers: dict[_Question, list[str] | _Note] = {}
        for question, mapper in mappers.items():
            try:
                answers[question] = downstream(mapper, question.key, trusted)
            except UnknownInDag:
                raise
            except FOREIGN as error:  # the mapper's own, whatever it is: the event stays, as Airflow has it
                answers[question] = _unmapped(question, error)  # itself it would refer to its frames, and they to it
        return answers

    if not trusted and len(questions) <= QUICK:
        return ask_all()
    return await threads.in_thread(ask_all, what=f"asking {', '.join(sorted({m['__type'] for m in mappers.values()}))}")


def _unmapped(question: _Question, error: BaseException) -> _Note:
    """Say, as Airflow does, that a Dag's mapper does not take a key."""
    named = {"key": question.key, "asset": question.name, "dag_id": question.dag_id}
    log.warning("a partition key could not be mapped", **named, exc_info=error)
    return "failed to map partition_key", (
        f"Could not map partition_key '{question.key}' for {question.about}. This likely indicates that the partition mapper"
        f" in the target Dag is misconfigured or does not support this partition key.\n{type(error).__name__}: {error}"
    )


def _too_many(
    question: _Question, keys: Sequence[str], mapper: Mapping[str, Any], settings: Settings, revision: Revision
) -> _Note | None:
    """Say, as Airflow does, that a key means more partitions than it may, or None."""
    own_limit = mapper["__var"].get("max_downstream_keys")
    limit = settings.max_downstream_keys if own_limit is None else own_limit
    if len(keys) <= limit or not revision.assets.partitions_have_dates:
        return None
    setting = "[scheduler] partition_mapper_max_downstream_keys" if own_limit is None else "max_downstream_keys"
    return "partition fan-out exceeded", (
        f"Partition mapper for {question.about} produced {len(keys)} downstream keys from partition_key='{question.key}',"
        f" exceeding {setting}={limit}. No Dag runs were queued for this event."
    )


def _missing_key(row: AnyRow, emission: _Emission, dag_ids: list[str]) -> _Note:
    """Say, as Airflow does, that partitioned Dags hear an event without a partition key."""
    return "missing partition key", (
        f"Listening Dags are partition-aware but the run has no partition key (listening_dags={dag_ids},"
        f" asset_id={emission.asset_pk}, run_id={row.run_id}, dag_id={row.dag_id}, task_id={row.task_id})"
    )
