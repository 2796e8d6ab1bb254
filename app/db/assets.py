"""Assets, their aliases and events, and the queue from which the scheduler starts asset-triggered runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from sqlalchemy import ARRAY, Integer, Select, Text, any_, bindparam, func, literal, or_, select, true, tuple_
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert

from app.db.session import Session
from app.db.tables import (
    AnyRow,
    as_text,
    asset,
    asset_active,
    asset_alias,
    asset_alias_asset,
    asset_alias_asset_event,
    asset_dag_run_queue,
    asset_event,
    dag,
    dag_run,
    dag_schedule_asset_alias_reference,
    dag_schedule_asset_name_reference,
    dag_schedule_asset_reference,
    dag_schedule_asset_uri_reference,
    dagrun_asset_event,
)

AssetKey = tuple[str, str]  # name, uri


def _as_arrays(keys: Collection[AssetKey]) -> Select[*tuple[Any, ...]]:
    """Return keys as two arguments, however many they are: a statement takes 32,767."""
    names, uris = ([key[part] for key in sorted(keys)] for part in (0, 1))
    return select(func.unnest(literal(names, ARRAY(Text))), func.unnest(literal(uris, ARRAY(Text))))


async def active_keys(session: Session, *, keys: Collection[AssetKey]) -> set[AssetKey]:
    """Return those of ``keys`` that name active assets."""
    statement = select(asset_active.c.name, asset_active.c.uri).where(
        tuple_(asset_active.c.name, asset_active.c.uri).in_(_as_arrays(keys))
    )
    return {(name, uri) for name, uri in (await session.execute(statement)).all()}


_is_active = (asset_active.c.name == asset.c.name) & (asset_active.c.uri == asset.c.uri)
_PROFILE = (asset.c.name, asset.c.uri, asset.c.group, as_text(asset.c.extra))


async def active_pk(session: Session, *, column: str, value: str) -> int | None:
    """Return the id of the active asset whose ``column`` (name or uri) is ``value``, or None."""
    found: int | None = await session.scalar(
        select(asset.c.id).join(asset_active, _is_active).where(asset.c[column] == value).limit(1)
    )
    return found


async def active(session: Session, *, column: str, value: str) -> AnyRow | None:
    """Return name, uri, group and extra of the active asset whose ``column`` (name or uri) is ``value``, or None."""
    statement = select(*_PROFILE).join(asset_active, _is_active).where(asset.c[column] == value).limit(1)
    return (await session.execute(statement)).one_or_none()


async def of_alias(session: Session, *, name: str) -> Sequence[AnyRow]:
    """Return name, uri, group and extra of the assets that are attached to an alias, active or not."""
    statement = (
        select(*_PROFILE)
        .join(asset_alias_asset, asset_alias_asset.c.asset_id == asset.c.id)
        .join(asset_alias, asset_alias.c.id == asset_alias_asset.c.alias_id)
        .where(asset_alias.c.name == name)
        .order_by(asset.c.id)
    )
    return (await session.execute(statement)).all()


_CREATED = func.jsonb_build_object(
    *(part for name in (
        "run_id", "dag_id", "logical_date", "start_date", "end_date", "state", "data_interval_start", "data_interval_end",
        "partition_key",
    ) for part in (literal(name), dag_run.c[name]))
)  # fmt: skip


async def events(
    session: Session,
    *,
    name: str | None = None,
    uri: str | None = None,
    alias_name: str | None = None,
    after: datetime | None,
    before: datetime | None,
    ascending: bool,
    limit: int | None,
) -> Sequence[AnyRow]:
    """Return asset events with their asset and the runs that each made, as ``created``.

    :param name: of the asset; with ``uri`` it names one asset, active or not, each alone the active one.
    :param alias_name: instead, only those that came through this alias.
    """
    created = (
        select(func.array_agg(aggregate_order_by(_CREATED, dag_run.c.id)))
        .join(dagrun_asset_event, dagrun_asset_event.c.dag_run_id == dag_run.c.id)
        .where(dagrun_asset_event.c.event_id == asset_event.c.id)
        .scalar_subquery()
        .label("created")
    )
    columns = ("id", "timestamp", "source_task_id", "source_dag_id", "source_run_id", "source_map_index", "partition_key")
    statement = select(
        *(asset_event.c[column] for column in columns),
        as_text(asset_event.c.extra),
        *(column.label(f"asset_{column.name}") for column in _PROFILE),
        created,
    ).join(asset, asset.c.id == asset_event.c.asset_id)
    if alias_name is not None:
        statement = statement.join(asset_alias_asset_event, asset_alias_asset_event.c.event_id == asset_event.c.id)
        statement = statement.join(asset_alias, asset_alias.c.id == asset_alias_asset_event.c.alias_id)
        statement = statement.where(asset_alias.c.name == alias_name)
    if name:
        statement = statement.where(asset.c.name == name)
    if uri:
        statement = statement.where(asset.c.uri == uri)
    if alias_name is None and not (name and uri):
        statement = statement.join(asset_active, _is_active)
    if after is not None:
        statement = statement.where(asset_event.c.timestamp >= after)
    if before is not None:
        statement = statement.where(asset_event.c.timestamp <= before)
    in_order = [column.asc() if ascending else column.desc() for column in (asset_event.c.timestamp, asset_event.c.id)]
    return (await session.execute(statement.order_by(*in_order).limit(limit or None))).all()


async def find(
    session: Session,
    *,
    keys: Collection[AssetKey] = (),
    names: Collection[str] = (),
    uris: Collection[str] = (),
) -> Sequence[AnyRow]:
    """Return id, name and uri of the active assets with these keys, names or uris, in key order."""
    wanted = or_(
        tuple_(asset.c.name, asset.c.uri).in_(_as_arrays(keys)),
        asset.c.name == any_(literal(sorted(names), ARRAY(Text))),
        asset.c.uri == any_(literal(sorted(uris), ARRAY(Text))),
    )
    statement = (
        select(asset.c.id, asset.c.name, asset.c.uri)
        .join(asset_active, _is_active)
        .where(wanted)
        .order_by(asset.c.name, asset.c.uri)
    )
    return (await session.execute(statement)).all()


_BY_KEY = select(asset.c.id).where(
    asset.c.name == bindparam("by_name", type_=Text), asset.c.uri == bindparam("by_uri", type_=Text)
)
_CREATE = insert(asset).on_conflict_do_nothing().returning(asset.c.id)


async def pk_of(session: Session, *, key: AssetKey) -> int | None:
    """Return the id of an asset, active or not, or None."""
    found: int | None = await session.scalar(_BY_KEY, {"by_name": key[0], "by_uri": key[1]})
    return found


async def create(session: Session, *, key: AssetKey, extra: Mapping[str, Any], now: datetime) -> int:
    """Make an asset that a task emits through an alias, and return its id."""
    values = {"name": key[0], "uri": key[1], "group": "asset", "extra": extra, "created_at": now, "updated_at": now}
    created: int | None = await session.scalar(_CREATE, values)
    if created is None:  # another task made it in between
        created = await pk_of(session, key=key)
    assert created is not None
    return created


async def attach_aliases(session: Session, *, asset_pk: int, names: Collection[str]) -> list[int]:
    """Attach an asset to aliases, making those that do not exist, and return their ids."""
    known = select(asset_alias.c.name, asset_alias.c.id).where(asset_alias.c.name.in_(sorted(names)))
    ids = {row.name: row.id for row in await session.execute(known)}
    if missing := sorted(set(names) - ids.keys()):
        rows = [{"name": name, "group": ""} for name in missing]  # an alias made by its use has no group
        await session.execute(insert(asset_alias).values(rows).on_conflict_do_nothing())
        ids = {row.name: row.id for row in await session.execute(known)}
    pairs = [{"alias_id": alias_pk, "asset_id": asset_pk} for alias_pk in sorted(ids.values())]
    await session.execute(insert(asset_alias_asset).values(pairs).on_conflict_do_nothing())
    return sorted(ids.values())


async def record_event(
    session: Session,
    *,
    asset_pk: int,
    extra: Mapping[str, Any],
    partition_key: str | None,
    source: AnyRow,
    alias_pks: Collection[int],
    now: datetime,
) -> int:
    """Insert an asset event and return its id.

    :param source: the task instance that emitted it.
    :param alias_pks: the aliases through which it came.
    """
    values = {
        "asset_id": asset_pk,
        "extra": extra,
        "partition_key": partition_key,
        "source_dag_id": source.dag_id,
        "source_task_id": source.task_id,
        "source_run_id": source.run_id,
        "source_map_index": source.map_index,
        "timestamp": now,
    }
    event_pk = int((await session.execute(insert(asset_event).values(**values).returning(asset_event.c.id))).scalar_one())
    if alias_pks:
        pairs = [{"alias_id": alias_pk, "event_id": event_pk} for alias_pk in sorted(alias_pks)]
        await session.execute(insert(asset_alias_asset_event).values(pairs))
    return event_pk


async def consumers(session: Session, *, asset_pk: int, name: str, uri: str, alias_pks: Collection[int]) -> Sequence[AnyRow]:
    """Return the unpaused Dags that wait for an asset, by id, name, uri or alias, and whether each is partitioned."""
    by_asset, by_alias = dag_schedule_asset_reference, dag_schedule_asset_alias_reference
    by_name, by_uri = dag_schedule_asset_name_reference, dag_schedule_asset_uri_reference
    waiting = or_(
        dag.c.dag_id.in_(select(by_asset.c.dag_id).where(by_asset.c.asset_id == asset_pk)),
        dag.c.dag_id.in_(select(by_alias.c.dag_id).where(by_alias.c.alias_id.in_(sorted(alias_pks)))),
        dag.c.dag_id.in_(select(by_name.c.dag_id).where(by_name.c.name == name)),
        dag.c.dag_id.in_(select(by_uri.c.dag_id).where(by_uri.c.uri == uri)),
    )
    statement = select(dag.c.dag_id, dag.c.timetable_partitioned).where(waiting, dag.c.is_paused.is_(False))
    return (await session.execute(statement.order_by(dag.c.dag_id))).all()


_moment = select(func.clock_timestamp().label("now")).cte("moment")
_pairs = (
    func.unnest(bindparam("asset_pks", type_=ARRAY(Integer)), bindparam("dag_ids", type_=ARRAY(Text)))
    .table_valued("asset_id", "dag_id")
    .render_derived(name="pairs")
)
_queued = insert(asset_dag_run_queue).from_select(
    ["asset_id", "target_dag_id", "created_at"],
    select(_pairs.c.asset_id, _pairs.c.dag_id, _moment.c.now)
    .select_from(_pairs.join(_moment, true()))
    .order_by(_pairs.c.asset_id, _pairs.c.dag_id),
)
_QUEUE = _queued.on_conflict_do_update(
    index_elements=["asset_id", "target_dag_id"],
    set_={"created_at": func.greatest(asset_dag_run_queue.c.created_at, _queued.excluded.created_at)},
).returning(select(_moment.c.now).scalar_subquery())


async def queue(session: Session, *, pairs: Collection[tuple[int, str]]) -> datetime:
    """Queue Dags for a run, once each, and return the time that their events must have.

    The scheduler takes the rows of a Dag that nobody holds, makes a run of the events up to the newest of their times, and
    deletes them. So a Dag that is queued already is queued anew, as of now; its rows are held from here on, so that no run
    can be made between this time and the commit; and the time is the database's, one clock for all servers.

    They are taken in key order, so that two reports that queue the same Dags meet at the first.

    :param pairs: (asset id, Dag id), at least one.
    :raises LockTimeout: when somebody holds one of the rows.
    """
    in_order = sorted(set(pairs))
    keys = {"asset_pks": [asset_pk for asset_pk, _ in in_order], "dag_ids": [dag_id for _, dag_id in in_order]}
    moments = list(await session.scalars(_QUEUE, keys))
    return cast("datetime", moments[0])
