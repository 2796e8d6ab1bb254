"""Assets, their aliases, and what is asked of their events."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    ColumnElement,
    Integer,
    Text,
    any_,
    bindparam,
    cast,
    exists,
    func,
    literal,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by, insert

from app.db.filtered import Filtered
from app.db.session import Session
from app.db.tables import (
    AnyRow,
    arguments,
    as_text,
    asset,
    asset_active,
    asset_alias,
    asset_alias_asset,
    asset_alias_asset_event,
    asset_event,
    dag_run,
    dagrun_asset_event,
    from_text,
    rows_of,
)

AssetKey = tuple[str, str]  # name, uri


_keys = rows_of("keys", name=Text, uri=Text)
_these_keys = tuple_(asset.c.name, asset.c.uri).in_(select(_keys.c.name, _keys.c.uri))
_ACTIVE_KEYS = select(asset_active.c.name, asset_active.c.uri).where(
    tuple_(asset_active.c.name, asset_active.c.uri).in_(select(_keys.c.name, _keys.c.uri))
)


async def active_keys(session: Session, *, keys: Collection[AssetKey]) -> set[AssetKey]:
    """Return those of ``keys`` that name active assets."""
    found = await session.execute(_ACTIVE_KEYS, arguments(["names", "uris"], keys))
    return {(row.name, row.uri) for row in found}


_is_active = (asset_active.c.name == asset.c.name) & (asset_active.c.uri == asset.c.uri)
_PROFILE = (asset.c.name, asset.c.uri, asset.c.group, as_text(asset.c.extra))


_with = {column: asset.c[column] == bindparam("value") for column in ("name", "uri")}
_ACTIVE = {
    column: select(*_PROFILE, asset.c.id).join(asset_active, _is_active).where(is_it).limit(1)
    for column, is_it in _with.items()
}


async def active_pk(session: Session, *, column: str, value: str) -> int | None:
    """Return the id of the active asset whose ``column`` (name or uri) is ``value``, or None."""
    found = await active(session, column=column, value=value)
    return None if found is None else found.id


async def active(session: Session, *, column: str, value: str) -> AnyRow | None:
    """Return name, uri, group, extra and id of the active asset whose ``column`` (name or uri) is ``value``, or None."""
    return (await session.execute(_ACTIVE[column], {"value": value})).one_or_none()


_OF_ALIAS = (
    select(*_PROFILE)
    .join(asset_alias_asset, asset_alias_asset.c.asset_id == asset.c.id)
    .join(asset_alias, asset_alias.c.id == asset_alias_asset.c.alias_id)
    .where(asset_alias.c.name == bindparam("alias_name"))
    .order_by(asset.c.id)
)


async def of_alias(session: Session, *, name: str) -> Sequence[AnyRow]:
    """Return name, uri, group and extra of the assets that are attached to an alias, active or not."""
    return (await session.execute(_OF_ALIAS, {"alias_name": name})).all()


_CREATED = func.jsonb_build_object(
    *(part for name in (
        "run_id", "dag_id", "logical_date", "start_date", "end_date", "state", "data_interval_start", "data_interval_end",
        "partition_key",
    ) for part in (literal(name), dag_run.c[name]))
)  # fmt: skip


_created = (
    select(func.array_agg(aggregate_order_by(_CREATED, dag_run.c.id)))
    .join(dagrun_asset_event, dagrun_asset_event.c.dag_run_id == dag_run.c.id)
    .where(dagrun_asset_event.c.event_id == asset_event.c.id)
    .scalar_subquery()
)
_OF_EVENT = ("id", "timestamp", "source_task_id", "source_dag_id", "source_run_id", "source_map_index", "partition_key")
_events = (
    select(
        *(asset_event.c[column] for column in _OF_EVENT),
        as_text(asset_event.c.extra),
        *(column.label(f"asset_{column.name}") for column in _PROFILE),
        _created.label("created"),
    )
    .join(asset, asset.c.id == asset_event.c.asset_id)
    .limit(bindparam("most", type_=BigInteger))
)
_of = asset.alias("of_asset")
_of_is_active = exists().where(asset_active.c.name == _of.c.name, asset_active.c.uri == _of.c.uri)


def _of_asset(*where: ColumnElement[bool]) -> ColumnElement[bool]:
    """Match the events of one asset by its id, asked for first: an index has them in order of time."""
    return asset_event.c.asset_id == select(_of.c.id).where(*where).scalar_subquery()


_through_alias = select(asset_alias_asset_event.c.event_id).join(
    asset_alias, asset_alias.c.id == asset_alias_asset_event.c.alias_id
)
_EVENTS = {
    ascending: Filtered(
        _events.order_by(*in_order),
        key=_of_asset(_of.c.name == bindparam("name"), _of.c.uri == bindparam("uri")),
        name=_of_asset(_of.c.name == bindparam("name"), _of_is_active),
        uri=_of_asset(_of.c.uri == bindparam("uri"), _of_is_active),
        alias_name=asset_event.c.id.in_(_through_alias.where(asset_alias.c.name == bindparam("alias_name"))),
        is_active=exists().where(_is_active) & bindparam("is_active", type_=Boolean),
        after=asset_event.c.timestamp >= bindparam("after"),
        before=asset_event.c.timestamp <= bindparam("before"),
        says=cast(asset_event.c.extra, JSONB).contains(from_text(bindparam("says"), JSONB)),
        partition_key=asset_event.c.partition_key == bindparam("partition_key"),
        pattern=asset_event.c.partition_key.op("~")(bindparam("pattern", type_=Text)),
    )
    for ascending, in_order in (
        (True, (asset_event.c.timestamp.asc(), asset_event.c.id.asc())),
        (False, (asset_event.c.timestamp.desc(), asset_event.c.id.desc())),
    )
}


_BOUND = select(func.set_config("statement_timeout", bindparam("milliseconds", type_=Text), True))


async def bound_search(session: Session, *, seconds: float) -> None:
    """Bound how long each further statement of a transaction may search: a regular expression may take for ever."""
    await session.scalar(_BOUND, {"milliseconds": str(max(round(seconds * 1000), 1))})


async def events(
    session: Session,
    *,
    name: str | None = None,
    uri: str | None = None,
    alias_name: str | None = None,
    extra: Mapping[str, str] | None = None,
    partition_key: str | None = None,
    partition_pattern: str | None = None,
    after: datetime | None,
    before: datetime | None,
    ascending: bool,
    limit: int | None,
) -> Sequence[AnyRow]:
    """Return asset events with their asset and the runs that each made, as ``created``.

    :param name: of the asset; with ``uri`` it names one asset, active or not, each alone the active one.
    :param alias_name: instead, only those that came through this alias.
    :param extra: what they must say, among others.
    :param partition_pattern: a regular expression of PostgreSQL's that their partition key must match.
    """
    has_key = bool(name and uri)
    statement, parameters = _EVENTS[ascending].by(
        key=has_key or None,
        name=(not has_key and name) or None,
        uri=(not has_key and uri) or None,
        alias_name=alias_name,
        is_active=None if alias_name is not None or name or uri else True,
        after=after,
        before=before,
        says=json.dumps(extra) if extra else None,
        partition_key=partition_key or None,
        pattern=partition_pattern,
    )
    return (await session.execute(statement, {**parameters, "name": name, "uri": uri, "most": limit or None})).all()


# Those with the keys (names, uris), the names (by_names) or the URIs (by_uris) that a statement binds.
ACTIVE = (
    select(asset.c.id.label("asset_pk"), asset.c.name, asset.c.uri)
    .join(asset_active, _is_active)
    .where(
        or_(
            _these_keys,
            asset.c.name == any_(bindparam("by_names", type_=ARRAY(Text))),
            asset.c.uri == any_(bindparam("by_uris", type_=ARRAY(Text))),
        )
    )
    .cte("found")
)
_BY_KEYS = select(asset.c.id, asset.c.name, asset.c.uri).join(
    _keys, (asset.c.name == _keys.c.name) & (asset.c.uri == _keys.c.uri)
)


async def pks(session: Session, *, keys: Collection[AssetKey]) -> dict[AssetKey, int]:
    """Return the ids of those assets that exist, active or not."""
    found = await session.execute(_BY_KEYS, arguments(["names", "uris"], keys))
    return {(row.name, row.uri): row.id for row in found}


_made = rows_of("made", name=Text, uri=Text, extra=JSON)
_CREATE = (
    insert(asset)
    .from_select(
        ["name", "uri", "group", "extra", "created_at", "updated_at"],
        select(
            _made.c.name, _made.c.uri, literal("asset"), _made.c.extra,
            bindparam("now", type_=asset.c.created_at.type), bindparam("now", type_=asset.c.created_at.type),
        ).order_by(_made.c.place),
    )
    .on_conflict_do_nothing()
    .returning(asset.c.id, asset.c.name, asset.c.uri)
)  # fmt: skip


async def create(session: Session, *, extras: Mapping[AssetKey, Mapping[str, Any]], now: datetime) -> dict[AssetKey, int]:
    """Make the assets that a task emits through an alias, in this order, and return their ids.

    :param extras: of each.
    :raises LockTimeout: when somebody else makes one of them right now.
    """
    rows = [(*key, extra) for key, extra in extras.items()]
    created = await session.execute(_CREATE, {**arguments(["names", "uris", "extras"], rows), "now": now})
    ids = {(row.name, row.uri): row.id for row in created}
    if missing := extras.keys() - ids.keys():  # another task made them in between
        ids |= await pks(session, keys=missing)
    return ids


_KNOWN_ALIASES = select(asset_alias.c.name, asset_alias.c.id).where(
    asset_alias.c.name == any_(bindparam("names", type_=ARRAY(Text)))
)
_MAKE_ALIASES = insert(asset_alias).on_conflict_do_nothing()
_attached = rows_of("attached", alias_pk=Integer, asset_pk=Integer)
_ATTACH = (
    insert(asset_alias_asset)
    .from_select(["alias_id", "asset_id"], select(_attached.c.alias_pk, _attached.c.asset_pk).order_by(_attached.c.place))
    .on_conflict_do_nothing()
)


async def attach_aliases(session: Session, *, names: Mapping[int, Collection[str]]) -> dict[str, int]:
    """Attach assets to aliases, making those that do not exist, and return the aliases' ids.

    :param names: of the aliases, by asset id.
    """
    wanted = sorted({name for of_asset in names.values() for name in of_asset})
    ids = {row.name: row.id for row in await session.execute(_KNOWN_ALIASES, {"names": wanted})}
    if missing := [name for name in wanted if name not in ids]:
        rows = [{"name": name, "group": ""} for name in missing]  # an alias made by its use has no group
        await session.execute(_MAKE_ALIASES, rows)
        ids = {row.name: row.id for row in await session.execute(_KNOWN_ALIASES, {"names": wanted})}
    pairs = sorted((ids[name], asset_pk) for asset_pk, of_asset in names.items() for name in of_asset)
    await session.execute(_ATTACH, arguments(["alias_pks", "asset_pks"], pairs))
    return ids
