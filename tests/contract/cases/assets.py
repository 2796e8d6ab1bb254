"""Assets, their events, and successes that register them."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.contract.cases.case import (
    A1,
    A2,
    AE,
    ALIAS,
    BETTER_REFUSAL,
    ERROR_SHAPE,
    NEW,
    NOT_FAILED,
    OBJECTS,
    ONE_NAME,
    OUT,
    Case,
    event,
    on,
    state,
)
from tests.contract.cases.dag_setups import since, write_version
from tests.contract.cases.setups import SETUPS, changed, setup
from tests.world import EPOCH, World


def emitted(note: str, *events: dict[str, Any], outlet: dict[str, Any] = A1, **options: Any) -> Case:
    return state(
        f"success that emits {note}", {**OUT, "task_outlets": [outlet], "outlet_events": list(events)}, "outlets", **options
    )


def through(name: str, uri: str, extra: Any = None, **more: Any) -> dict[str, Any]:
    """Return an event that comes through the alias."""
    key = {"dest_asset_key": {"name": name, "uri": uri}, "extra": {} if extra is None else extra}
    return {**key, "source_alias_name": "alias", "dest_asset_extra": {}, **more}


NEW_ASSET = ("new", "s3://bucket/new")
BY_NAME, BY_URI = {"name": "second", "type": "AssetNameRef"}, {"uri": "s3://bucket/first", "type": "AssetUriRef"}


@setup
async def outlets(world: World) -> Any:
    """Assets with consumers: by asset (one paused), by name, by uri and by alias."""
    first, second = await world.asset("first"), await world.asset("second")
    await world.asset("inactive", active=False)
    for dag_id, paused in (
        ("c2", False),
        ("c1", False),
        ("paused", True),
        ("by_name", False),
        ("by_uri", False),
        ("by_alias", False),
    ):
        await world.dag(dag_id, is_paused=paused)
    for dag_id, asset in (("c2", first), ("c1", first), ("paused", first), ("c1", second)):
        await world.scheduled_by(dag_id, asset)
    await world.insert("dag_schedule_asset_name_reference", name="second", dag_id="by_name", created_at=EPOCH)
    await world.insert("dag_schedule_asset_uri_reference", uri="s3://bucket/first", dag_id="by_uri", created_at=EPOCH)
    alias = await world.insert("asset_alias", "id", name="alias", group="asset")
    await world.insert(
        "dag_schedule_asset_alias_reference", alias_id=alias, dag_id="by_alias", created_at=EPOCH, updated_at=EPOCH
    )
    return await world.one_running("d")


async def _queued_already(world: World) -> Any:
    """An event of ``first`` for which ``c1`` is queued, and has no run yet."""
    ti = await outlets(world)
    asset = await world.connection.fetchval("SELECT id FROM asset WHERE name = 'first'")
    event = await world.insert("asset_event", "id", asset_id=asset, extra={}, source_map_index=-1, timestamp=EPOCH)
    of_event = {"asset_event_id": event} if world.keeps_tries else {}
    await world.insert("asset_dag_run_queue", asset_id=asset, target_dag_id="c1", created_at=EPOCH, **of_event)
    return ti


SETUPS["queued already"] = _queued_already
SETUPS["partitioned_run"] = changed(outlets, "UPDATE dag_run SET partition_key = 'p1'")
SETUPS["partitioned_consumer"] = changed(outlets, "UPDATE dag SET timetable_partitioned = true WHERE dag_id = 'c1'")


@setup
async def asset_events(world: World) -> Any:
    """Two assets of one name's past and present, one alias; events of both, one of which made two runs."""
    ti = await world.one_running("d")
    old = await world.asset("a", "s3://bucket/old", active=False)
    now = await world.asset("a")
    other = await world.asset("b")
    alias = await world.insert("asset_alias", "id", name="alias", group="asset")
    for asset in (other, old):  # not in the order of their ids, in which ours are
        await world.insert("asset_alias_asset", alias_id=alias, asset_id=asset)
    run = await world.connection.fetchval("SELECT id FROM dag_run")
    later = await world.run("d", "later", logical_date=None, data_interval_start=None, data_interval_end=None)
    for number, asset in enumerate((old, now, other, now)):
        event = await world.insert(
            "asset_event",
            "id",
            asset_id=asset,
            extra={"n": number},
            source_task_id="t",
            source_dag_id="p",
            source_run_id="r",
            source_map_index=-1,
            timestamp=EPOCH.replace(minute=number * 10),
            partition_key="key" if number == 3 else None,
        )
        if number == 1:
            for run_pk in (run, later):
                await world.insert("dagrun_asset_event", dag_run_id=run_pk, event_id=event)
        if number == 2:
            await world.insert("asset_alias_asset_event", alias_id=alias, event_id=event)
    return ti


SETUPS["asset_events_that_say"] = changed(
    asset_events, """UPDATE asset_event SET extra = '{"x": "y", "z": "w", "n": 2}', partition_key = 'key' WHERE id >= 3"""
)


# The key of the run whose success each mapper maps.
AT = "2026-02-03T04:05:06"
MAPPED: dict[str, tuple[str, ...]] = {
    "identity": ("p1",),
    "an allowed key": ("p1",),
    "no allowed key": ("p1",),
    "hours": (AT, "2026-03-29T02:30:00"),
    "hours of offsets": ("2026-02-03T04:05+0530",),
    "hours in Paris": (AT, "2026-03-29T02:30:00"),
    "hours in Paris with offsets": ("2026-10-25T02:30:00", "2026-03-29T02:30:00"),
    "hours in Paris of offsets": ("2026-02-03T04:05+0000",),
    "days": (AT, "p1"),
    "weeks": (AT,),
    "weeks in Paris": (AT,),
    "months": (AT,),
    "quarters": ("2026-06-30T04:05:06",),
    "quarters in Paris": ("2026-06-30T04:05:06",),
    "years": ("2026-06-30T04:05:06",),
    "days of an offset": ("2026-06-30T04:05:06",),
    "a product": ("eu|2026-06-30T04:05:06", "eu"),
    "a product by colons": ("eu:2026-06-30T04:05:06:2026",),
    "a chain": ("2026-06-30T04:05:06",),
    "a fixed key": ("p1",),
    "a rollup": (AT,),
    "a rollup of all": (AT,),
    "a rollup of some": (AT,),
    "a rollup of segments": ("a",),
    "weeks to days": (AT,),
    "weeks to days before": (AT,),
    "months to days": (AT,),
    "months to days before": ("2026-03-03T04:05:06",),
    "quarters to months": ("2026-11-03T04:05:06",),
    "years to months before": ("2026-11-03T04:05:06",),
    "days to hours": ("2026-11-03T04:05:06",),
    "hours to minutes": ("2026-11-03T04:05:06",),
    "more than it may": (AT,),
    "two assets of a mapper each": (AT,),
}


async def partitioned(world: World, name: str, key: str) -> Any:
    """Let ``c1`` wait for partitions of both assets of a run."""
    ti = await outlets(world)
    await write_version(world, name, dag_id="c1")
    await world.connection.execute("UPDATE dag SET timetable_partitioned = true WHERE dag_id = 'c1'")
    await world.connection.execute(
        "UPDATE dag_run SET partition_key = $1, partition_date = $2 WHERE dag_id = 'd'", key, EPOCH
    )
    return ti


IN_PARTITIONS = {
    f"partitions, {name}{f', {key}' if number else ''}": (name, key)
    for name, keys in MAPPED.items()
    for number, key in enumerate(keys)
}
SETUPS |= {setup_: partial(partitioned, name=name, key=key) for setup_, (name, key) in IN_PARTITIONS.items()}


async def _waiting(world: World, *, ran: bool = False, **values: Any) -> Any:
    """Let ``c1`` wait for the partition of the run already."""
    ti = await SETUPS["partitions, identity"](world)
    row = {"target_dag_id": "c1", "partition_key": "p1", "created_at": EPOCH, "updated_at": EPOCH}
    if world.revision != "3.2":
        row |= {"partition_date": EPOCH, "rollup_fingerprint": {}, **values}
    if ran:
        row["created_dag_run_id"] = await world.run("c1")
    await world.insert("asset_partition_dag_run", **row)
    return ti


SETUPS["waiting already"] = _waiting
SETUPS["waiting without a date"] = partial(_waiting, partition_date=None)
SETUPS["waiting with another date"] = partial(_waiting, partition_date=EPOCH.replace(year=2025))
SETUPS["waited before"] = partial(_waiting, ran=True)
WAITING = tuple(name for name in SETUPS if name.startswith("wait"))


CASES: list[Case] = [
    # --- assets and their events
    *(on("asset_events", "GET", f"/assets/by-{what}") for what in ("name?name=a", "name?name=none", "name", "uri")),
    *(on("asset_events", "GET", f"/assets/by-uri?uri=s3://bucket/{uri}") for uri in ("a", "old", "none")),
    *(on("asset_events", "GET", f"/assets/by-alias?alias_name={name}", **NEW) for name in ("alias", "none", "")),
    on("asset_events", "GET", "/assets/by-alias", **NEW),
    on("asset_events", "GET", "/assets/by-alias?alias_name=alias", revisions=("3.2",)),
    on("asset_events", "GET", "/assets/by-name?name=a", token="none"),
    *(
        on("asset_events", "GET", f"{AE}?{query}")
        for query in (
            "name=a&uri=s3://bucket/a",
            "name=a&uri=s3://bucket/old",
            "name=a&uri=",
            "name=&uri=s3://bucket/b",
            "name=&uri=s3://bucket/old",
            "name=&uri=",
            "name=none&uri=",
            "name=a",
            "name=a&uri=&ascending=false",
            "name=a&uri=&ascending=perhaps",
            "name=a&uri=&limit=1",
            "name=a&uri=&limit=0",
            "name=a&uri=&limit=x",
            "name=a&uri=&after=2026-01-01T00:20:00Z",
            "name=a&uri=&before=2026-01-01T00:20:00Z",
            "name=a&uri=&after=2026-01-01T00:10:00Z&before=2026-01-01T00:10:00Z",
            "name=a&uri=&after=2026-01-01T00:00:00",
        )
    ),
    on("asset_events", "GET", f"{AE}?name=a&uri=&limit=-1", differs=BETTER_REFUSAL, ours=422),
    *(
        on("asset_events", "GET", f"/asset-events/by-asset-alias?{query}")
        for query in ("name=alias", "name=none", "", "name=alias&limit=1", "name=alias&after=2026-02-01T00:00:00Z")
    ),
    # --- state with assets
    state("success with an outlet", {**OUT, "task_outlets": [A1]}, "outlets"),
    state("success with two outlets", {**OUT, "task_outlets": [A2, A1]}, "outlets"),
    state("success with an event", {**OUT, "task_outlets": [A1], "outlet_events": [event("first", {"rows": 3})]}, "outlets"),
    state("success with a name reference", {**OUT, "task_outlets": [{"name": "second", "type": "AssetNameRef"}]}, "outlets"),
    state("success with a uri reference", {**OUT, "task_outlets": [{"uri": "s3://bucket/first", "type": "AssetUriRef"}]}, "outlets"),
    state("success with an inactive outlet", {**OUT, "task_outlets": [{"name": "inactive", "uri": "s3://bucket/inactive", "type": "Asset"}]}, "outlets"),
    state("success with an unknown outlet", {**OUT, "task_outlets": [{"name": "x", "uri": "y", "type": "Asset"}]}, "outlets"),
    state(
        "success through an alias, of a known asset",
        {**OUT, "task_outlets": [ALIAS], "outlet_events": [event("first", {"a": 1}, source_alias_name="alias", dest_asset_extra={})]},
        "outlets",
    ),
    state(
        "success through an alias, of a new asset",
        {**OUT, "task_outlets": [ALIAS], "outlet_events": [event("new", {}, source_alias_name="alias", dest_asset_extra={"x": 1})]},
        "outlets",
    ),
    state(
        "success through a new alias",
        {**OUT, "task_outlets": [{"name": "fresh", "type": "AssetAlias"}], "outlet_events": [event("first", {}, source_alias_name="fresh")]},
        "outlets",
    ),
    state(
        "success through an alias that is no outlet",
        {**OUT, "task_outlets": [], "outlet_events": [event("first", {}, source_alias_name="alias")]}, "outlets",
    ),
    state("success with an outlet in a partition", {**OUT, "task_outlets": [A1]}, "partitioned_run"),
    state("success with two events of one asset", {**OUT, "task_outlets": [A1], "outlet_events": [event("first", {"a": 1}), event("first", {"a": 2})]}, "outlets"),
    state("success with a partition key", {**OUT, "task_outlets": [A1], "outlet_events": [event("first", {}, partition_key="p")]}, "outlets"),
    state("success with an empty partition key", {**OUT, "task_outlets": [A1], "outlet_events": [event("first", {}, partition_key=" ")]}, "outlets"),
    *(emitted(f"a partition key of {shown}", event("first", {}, partition_key=key)) for key, shown in (("", "nothing"), ("k" * 250, "250"), ("k" * 251, "251"))),
    *(emitted(f"a partition key of {key!r} on 3.2", event("first", {}, partition_key=key), revisions=("3.2",)) for key in (5, ["p"])),
    *(emitted(f"a partition key of {key!r}", event("first", {}, partition_key=key), **NEW, differs=BETTER_REFUSAL, ours=422) for key in (5, ["p"])),
    *(state(f"success in {name}", {**OUT, "task_outlets": [A1]}, name, revisions=since(of)) for name, (of, _) in IN_PARTITIONS.items()),
    state("success in a partition of an unknown time zone", {**OUT, "task_outlets": [A1]}, "a_partition_on_mars", **NEW, differs=NOT_FAILED, ours=422),
    state("success in a partition, by the default mapper", {**OUT, "task_outlets": [A2]}, "partitions, days"),
    *(state(f"success in a partition, {name}", {**OUT, "task_outlets": [A1]}, name) for name in WAITING),
    state("success in a partition of its own", {**OUT, "task_outlets": [A1], "outlet_events": [event("first", {}, partition_key="p2"), event("first", {}, partition_key="p1")]}, "waiting already"),
    state("success heard by a partitioned Dag", {**OUT, "task_outlets": [A2]}, "partitioned_consumer"),
    *(emitted(f"an extra of {extra!r}", event("first", extra)) for extra in (None, [], 0, False, "")),
    *(emitted(f"an extra of {extra!r}", event("first", extra), differs=OBJECTS, ours=422) for extra in ("x", 5, [1], True)),
    emitted("for a reference by name", event("second", {"r": 1}), outlet=BY_NAME),
    emitted("for a reference by name, with another URI", {"dest_asset_key": {"name": "second", "uri": "s3://b"}, "extra": {"r": 1}}, outlet=BY_NAME),
    emitted("for a reference by name, without a URI", {"dest_asset_key": {"name": "second", "uri": ""}, "extra": {"r": 1}}, outlet=BY_NAME),
    emitted("for a reference by name, twice", *({"dest_asset_key": {"name": "second", "uri": f"u{n}"}, "extra": {"r": n}} for n in (1, 2)), outlet=BY_NAME),
    emitted("for a reference by URI, with another name", {"dest_asset_key": {"name": "b", "uri": "s3://bucket/first"}, "extra": {"r": 1}}, outlet=BY_URI),
    state("success with one asset in three ways", {**OUT, "task_outlets": [A1, BY_URI, {"name": "first", "type": "AssetNameRef"}], "outlet_events": [event("first", {"r": 1})]}, "outlets"),
    emitted("one new asset twice, the first describes it", through(*NEW_ASSET, {"b": 2}, dest_asset_extra={"z": 1}), through(*NEW_ASSET, {"a": 1}, dest_asset_extra={"a": 2}), outlet=ALIAS),
    emitted("two new assets in their order", through("z", "s3://z"), through("b", "s3://b"), outlet=ALIAS),
    emitted("a new asset that nothing describes", {k: v for k, v in through(*NEW_ASSET).items() if k != "dest_asset_extra"}, outlet=ALIAS),
    emitted("a known asset that is described anew", through("first", "s3://bucket/first", dest_asset_extra="x"), outlet=ALIAS),
    *(emitted(f"through an alias an extra of {extra!r}", {**through("first", "s3://bucket/first"), "extra": extra}, outlet=ALIAS) for extra in (None, [], 0)),
    emitted("a new asset with a name of other letters", through("é", "s3://bucket/e"), outlet=ALIAS),
    *(
        emitted(f"a new asset {name!r} {uri!r}", through(name, uri), outlet=ALIAS, differs=NOT_FAILED, ours=422)
        for name, uri in (("", ""), ("é", ""), ("e", "s3://é"), ("a", "airflow://x"), ("a", "AIRFLOW:x"))
    ),
    *(
        emitted(f"a new asset {name!r} {uri!r}", through(name, uri), outlet=ALIAS, differs=ONE_NAME, ours=204)
        for name, uri in (("", "s3://x"), ("x", ""))
    ),
    *(emitted(f"a new asset described by {extra!r}", through(*NEW_ASSET, dest_asset_extra=extra), outlet=ALIAS, **NEW) for extra in ([], "")),
    *(emitted(f"a new asset described by {extra!r}", through(*NEW_ASSET, dest_asset_extra=extra), outlet=ALIAS, differs=OBJECTS, ours=204) for extra in (None, 0)),
    *(emitted(f"a new asset described by {extra!r}", through(*NEW_ASSET, dest_asset_extra=extra), outlet=ALIAS, differs=OBJECTS, ours=422) for extra in ("x", 5, [1])),
    *(emitted(f"through {alias!r}", {**through("first", "s3://bucket/first"), "source_alias_name": alias}, outlet=ALIAS) for alias in (5, True, None, "other")),
    *(emitted(f"through {alias!r}", {**through("first", "s3://bucket/first"), "source_alias_name": alias}, outlet=ALIAS, differs=NOT_FAILED, ours=422) for alias in (["alias"], {"a": 1})),
    *(emitted(f"through {alias!r}, without an alias", {**through("first", "s3://bucket/first"), "source_alias_name": alias}) for alias in (5, ["alias"])),
    emitted("through an alias that is no outlet, without a key", {"source_alias_name": "other", "extra": 5}, outlet=ALIAS),
    emitted("through an alias, without a key", {"source_alias_name": "alias", "extra": {}}, outlet=ALIAS, differs=NOT_FAILED, ours=422),
    emitted("through an alias, a key of numbers", through(5, 5), outlet=ALIAS, differs=NOT_FAILED, ours=422),
    emitted("through an alias, a name of 1,501 characters", through("n" * 1501, "s3://n"), outlet=ALIAS, differs=NOT_FAILED, ours=422),
    emitted("through an alias of 1,501 characters", {**through("first", "s3://bucket/first"), "source_alias_name": "n" * 1501}, outlet={"name": "n" * 1501, "type": "AssetAlias"}, differs=NOT_FAILED, ours=422),
    *(emitted(f"for a key of {name!r}", {"dest_asset_key": {"name": name, "uri": "s3://bucket/first"}, "extra": {"r": 1}}) for name in (5, None)),
    emitted("for a key of a list", {"dest_asset_key": {"name": ["first"], "uri": "s3://bucket/first"}, "extra": {}}, differs=NOT_FAILED, ours=422),
    emitted("for a key with a group", {"dest_asset_key": {**event("first", {})["dest_asset_key"], "group": "g"}, "extra": {}}, differs=NOT_FAILED, ours=422),
    state("event without extra", {**OUT, "task_outlets": [A1], "outlet_events": [{"dest_asset_key": {"name": "first", "uri": "u"}}]}, "outlets", differs=NOT_FAILED, ours=422),
    state("event without a key", {**OUT, "task_outlets": [A1], "outlet_events": [{"extra": {}}]}, "outlets", differs=NOT_FAILED, ours=422),
    state("outlets are no list", {**OUT, "task_outlets": {}}, "outlets", differs=ERROR_SHAPE, ours=422),
]  # fmt: skip
