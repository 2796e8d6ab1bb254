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
from functools import partial
from typing import Any

import structlog

from app.dags.partitions import PartitionedSchedule, UnknownMapper, downstream, kind
from app.db import assets, audit, dags, partitions, teams
from app.db.assets import AssetKey
from app.db.session import Session
from app.db.tables import AnyRow
from app.errors import UnknownInDag
from app.releases import Revision
from app.schemas.assets import AssetProfile
from app.settings import Settings
from app.tasks import threads
from app.tasks.transitions import Refuse, RegisterAssets

log = structlog.get_logger(__name__)


_Outlet = tuple[str | None, str | None]  # name, uri; a reference has one of them


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


async def register(
    session: Session, *, row: AnyRow, effect: RegisterAssets, now: datetime, settings: Settings, revision: Revision
) -> Refuse | None:
    """Record the events of a success and queue the Dags that wait for them.

    :param row: the locked task instance with its run.
    :returns: the refusal of what cannot be recorded faithfully; the caller must then roll back.
    :raises LockTimeout: when somebody else writes the same assets or queues the same Dags right now.
    """
    emissions = await _direct(session, row, effect, revision)
    through_aliases = await _through_aliases(session, row, effect, now)
    if isinstance(through_aliases, Refuse):
        return through_aliases
    emissions += through_aliases
    for emission in emissions:
        await _find_waiting(session, row, emission, settings, revision)
    queued = {
        (emission.asset_pk, dag.dag_id)
        for emission in emissions
        if emission.partition_key is None
        for dag in emission.waiting
        if not dag.timetable_partitioned
    }
    moment = await assets.queue(session, pairs=queued) if queued else now
    for emission in emissions:
        event_pk = await assets.record_event(
            session,
            asset_pk=emission.asset_pk,
            extra=emission.extra,
            partition_key=emission.partition_key,
            source=row,
            alias_pks=emission.alias_pks,
            now=moment,
        )
        partitioned = [dag.dag_id for dag in emission.waiting if dag.timetable_partitioned]
        if partitioned and not emission.partition_key:
            await _record_missing_partition_key(session, row, emission, partitioned, now)
        elif partitioned:
            try:
                for dag_id in partitioned:
                    await _wait_for_partitions(session, row, emission, event_pk, dag_id, now, settings, revision)
            except UnknownInDag as error:
                return Refuse(422, {"reason": "unknown_partition_mapper", "message": f"Nothing was recorded: {error}"})
    return None


async def _find_waiting(session: Session, row: AnyRow, emission: _Emission, settings: Settings, revision: Revision) -> None:
    """Attach an emission's asset to its aliases, and find the Dags that wait for it."""
    if emission.alias_names:
        emission.alias_pks = await assets.attach_aliases(session, asset_pk=emission.asset_pk, names=emission.alias_names)
    emission.waiting = await assets.consumers(
        session, asset_pk=emission.asset_pk, name=emission.name, uri=emission.uri, alias_pks=emission.alias_pks
    )
    if settings.multi_team and revision.assets_know_teams:
        allowed = await _in_reach(session, row, emission, [dag.dag_id for dag in emission.waiting])
        emission.waiting = [dag for dag in emission.waiting if dag.dag_id in allowed]


async def _direct(session: Session, row: AnyRow, effect: RegisterAssets, revision: Revision) -> list[_Emission]:
    """Return the events of the outlets that name assets, by key, name or uri."""
    outlets: tuple[AssetProfile, ...] = effect.outlets
    keys = {(o.name, o.uri) for o in outlets if o.type == "Asset" and o.name and o.uri}
    names = {o.name for o in outlets if o.type == "AssetNameRef" and o.name}
    uris = {o.uri for o in outlets if o.type == "AssetUriRef" and o.uri}
    if not (keys or names or uris):
        return []
    found = await assets.find(session, keys=keys, names=names, uris=uris)
    payloads = _payloads(effect, revision)
    emissions = []
    wanted: list[tuple[AnyRow, _Outlet]] = [
        *((a, (a.name, a.uri)) for a in found if (a.name, a.uri) in keys),
        *{a.name: (a, (a.name, None)) for a in found if a.name in names}.values(),
        *{a.uri: (a, (None, a.uri)) for a in found if a.uri in uris}.values(),
    ]
    if len(wanted) < len(keys) + len(names) + len(uris):
        log.warning("the task has inactive assets among its outlets", dag_id=row.dag_id, task_id=row.task_id)
    for outlet, named in wanted:
        own = (outlet.name, outlet.uri) if revision.event_per_emission else named
        for extra, partition_key in payloads.get(own, [({}, None)]):
            effective = row.partition_key if partition_key is None else partition_key
            date = row.partition_date if effective == row.partition_key else None  # it is said of the run's own key
            emissions.append(_Emission(outlet.id, outlet.name, outlet.uri, extra, effective, date))
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
        if revision.event_per_emission:
            payloads.setdefault((name, uri), []).append((extra, event.get("partition_key")))
        else:
            payloads |= {outlet: [(extra, None)] for outlet in ((name, uri), (name, None), (None, uri))}
    return payloads


async def _through_aliases(session: Session, row: AnyRow, effect: RegisterAssets, now: datetime) -> list[_Emission] | Refuse:
    """Return the events that came through the task's aliases, one per asset and extra; unknown assets are created.

    What makes a new asset is what the first event of it says.
    """
    alias_names = {outlet.name for outlet in effect.outlets if outlet.type == "AssetAlias" and outlet.name}
    grouped: dict[tuple[AssetKey, str, str], set[str]] = {}
    for event in effect.events:
        if event.get("source_alias_name") in alias_names:
            name, uri = event["dest_asset_key"]["name"], event["dest_asset_key"]["uri"]
            asset_extra = json.dumps(event.get("dest_asset_extra", {}), sort_keys=True)
            extra = json.dumps(event["extra"] or {}, sort_keys=True)
            grouped.setdefault(((name or uri, uri or name), asset_extra, extra), set()).add(event["source_alias_name"])
    emissions = []
    for (key, asset_extra, extra), through in grouped.items():
        asset_pk = await assets.pk_of(session, key=key)
        if asset_pk is None:
            described = json.loads(asset_extra) or {}
            if (problem := _why_no_asset(key, described)) is not None:
                return Refuse(422, {"reason": "invalid_asset", "message": f"Nothing was recorded: {problem}"})
            asset_pk = await assets.create(session, key=key, extra=described, now=now)
        own = (row.partition_key, row.partition_date)
        emissions.append(_Emission(asset_pk, *key, json.loads(extra), *own, frozenset(through)))
    return emissions


def _why_no_asset(key: AssetKey, extra: Any) -> str | None:
    """Say why no asset can be made of this, by the rules that Airflow's own model has for one, or None."""
    _, uri = key
    if not uri:
        return "an asset must have a name or a URI"
    if not uri.isascii():
        return f"the URI of an asset must be ASCII; got {uri!r}"
    if uri.partition(":")[0].lower() == "airflow" and ":" in uri:
        return f"the scheme 'airflow' is reserved; got {uri!r}"
    return None if isinstance(extra, dict) else f"the extra of asset {uri!r} must be an object"


async def _in_reach(session: Session, row: AnyRow, emission: _Emission, dag_ids: list[str]) -> set[str]:
    """Return the Dags that an event may reach: its producer lets it, and they take it."""
    team_of = await teams.of_dags(session, dag_ids=[row.dag_id, *dag_ids])
    producers = await teams.accepted_producers(session, asset_pk=emission.asset_pk)
    said = await teams.accepted_consumers(session, asset_pk=emission.asset_pk, dag_id=row.dag_id, task_id=row.task_id)
    source = team_of.get(row.dag_id)
    for_teams = None if said is None else said.allow_consumer_teams
    for_global_ones = said is None or said.allow_global_consumers

    def reaches(dag_id: str) -> bool:
        team, accepts = team_of.get(dag_id), producers.get(dag_id)
        if team is None:
            return for_global_ones
        if team == source:
            return True
        if source is None:
            taken = accepts is None or accepts.allow_global_producers
        else:
            taken = accepts is not None and source in (accepts.allow_producer_teams or ())
        return taken and (for_teams is None or team in for_teams)

    return {dag_id for dag_id in dag_ids if reaches(dag_id)}


async def _wait_for_partitions(
    session: Session,
    row: AnyRow,
    emission: _Emission,
    event_pk: int,
    dag_id: str,
    now: datetime,
    settings: Settings,
    revision: Revision,
) -> None:
    """Let a partitioned Dag wait for the partitions to which an event belongs.

    :raises UnknownInDag: its mapper cannot be asked here.
    """
    timetable = await dags.timetable(session, dag_id=dag_id)
    if timetable is None:
        raise UnknownMapper(f"the Dag '{dag_id}' has no serialized form")
    schedule, source_key = PartitionedSchedule(timetable), emission.partition_key
    assert source_key is not None
    mapper = schedule.mapper(name=emission.name, uri=emission.uri)
    about = f"asset (name='{emission.name}', uri='{emission.uri}') in target Dag '{dag_id}'"
    trusted = settings.trusted_classes
    try:
        ask = partial(downstream, mapper, source_key, trusted)
        keys = await threads.asked(ask, trusted, what=f"the partition mapper {mapper['__type']}")
    except UnknownInDag:
        raise
    except Exception as error:  # the mapper's own, whatever it is: the event stays, as Airflow has it
        log.warning("a partition key could not be mapped", key=source_key, asset=emission.name, dag_id=dag_id, exc_info=True)
        extra = (
            f"Could not map partition_key '{source_key}' for {about}. This likely indicates that the partition mapper in the"
            f" target Dag is misconfigured or does not support this partition key.\n{type(error).__name__}: {error}"
        )
        return await audit.record_for(session, rows=[row], event="failed to map partition_key", extra=extra, now=now)
    own_limit = mapper["__var"].get("max_downstream_keys")
    limit = settings.max_downstream_keys if own_limit is None else own_limit
    if len(keys) > limit and revision.partitions_have_dates:
        named = "[scheduler] partition_mapper_max_downstream_keys" if own_limit is None else "max_downstream_keys"
        extra = (
            f"Partition mapper for {about} produced {len(keys)} downstream keys from partition_key='{source_key}',"
            f" exceeding {named}={limit}. No Dag runs were queued for this event."
        )
        return await audit.record_for(session, rows=[row], event="partition fan-out exceeded", extra=extra, now=now)
    date = emission.partition_date if kind(mapper) == "IdentityMapper" else None
    await partitions.lock_waiting(session, dag_id=dag_id)
    for key in keys:
        partition_pk = await partitions.wait_for(
            session, dag_id=dag_id, key=key, date=date, fingerprint=schedule.fingerprint, now=now, revision=revision
        )
        await partitions.record_key(
            session,
            asset_pk=emission.asset_pk,
            event_pk=event_pk,
            partition_pk=partition_pk,
            source_key=source_key,
            dag_id=dag_id,
            key=key,
            now=now,
        )


async def _record_missing_partition_key(
    session: Session, row: AnyRow, emission: _Emission, dag_ids: list[str], now: datetime
) -> None:
    """Tell in the audit log, as Airflow does, that partitioned Dags hear an event without a partition key."""
    extra = (
        f"Listening Dags are partition-aware but the run has no partition key (listening_dags={dag_ids},"
        f" asset_id={emission.asset_pk}, run_id={row.run_id}, dag_id={row.dag_id}, task_id={row.task_id})"
    )
    await audit.record_for(session, rows=[row], event="missing partition key", extra=extra, now=now)
