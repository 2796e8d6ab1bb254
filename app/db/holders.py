"""Who holds what: the rows that somebody waits for or that a living task needs, and whose transactions have locked them.

PostgreSQL tells who waits for whom. Our own requests are not among them, since none waits (decision 17): so tables, and the
rows of running and queued tasks, are looked at too, to which those would come back. A row's own header names the transaction
that has locked it, so nobody has to wait to find out. Everything here reads, each statement on its own, and locks nothing
but tables, in the weakest mode.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from sqlalchemy import Executable, Select, TextClause, column, select, table, text

from app.db.components import UNKNOWN, Component, component_of, shape
from app.db.session import Database
from app.db.tables import AnyRow, metadata
from app.errors import LockTimeout, RetryableDatabaseError

MOST_ROWS = 1000  # of living tasks that are looked for at once
HIDDEN = "<insufficient privilege>"  # PostgreSQL's word for what a role may not see of others' sessions

# By what a person knows a row; a table that is not here has its rows told by page and number.
NAMED_BY = {
    "task_instance": ("dag_id", "task_id", "map_index", "run_id", "state", "id"),
    "dag_run": ("dag_id", "run_id", "state", "id"),
    "dag": ("dag_id",),
    "asset": ("id",),
    "asset_dag_run_queue": ("asset_id", "target_dag_id"),
    "asset_partition_dag_run": ("id",),
    "connection": ("id",),
    "connection_test_request": ("id",),
    "deadline": ("id",),
    "hitl_detail": ("ti_id",),
    "job": ("id",),
    "dynamic_region": ("dag_id", "run_id", "node_id", "id"),
    "rendered_task_instance_fields": ("dag_id", "run_id", "task_id", "map_index"),
    "serialized_dag": ("id", "dag_id"),
    "slot_pool": ("id", "pool"),
    "trigger": ("id",),
    "variable": ("id",),
    "xcom": ("dag_id", "run_id", "task_id", "map_index"),
    "xcom_v2": ("task_instance_id", "key"),
}

# Each part is filtered before it is joined: PostgreSQL expects one row of each of them, and would read them all for every
# row of the other. The wait's beginning is told since PostgreSQL 14.
_WAITS = text("""
    WITH locks AS MATERIALIZED (SELECT * FROM pg_locks),
         waiting AS MATERIALIZED (SELECT * FROM locks WHERE NOT granted),
         first AS MATERIALIZED (SELECT pid, relation, page, tuple FROM locks WHERE granted AND locktype = 'tuple'),
         here AS MATERIALIZED (SELECT pid FROM pg_stat_activity WHERE datname = current_database())
    SELECT w.pid, w.locktype, w.mode, c.relname, w.transactionid::text AS xid,
           coalesce(w.page, f.page) AS page, coalesce(w.tuple, f.tuple) AS number, fc.relname AS tuple_of,
           extract(epoch FROM clock_timestamp() - (to_jsonb(w) ->> 'waitstart')::timestamptz)::float8 AS seconds,
           pg_blocking_pids(w.pid) AS blockers
    FROM waiting w
         JOIN here ON here.pid = w.pid
         LEFT JOIN first f ON f.pid = w.pid AND w.locktype = 'transactionid'
         LEFT JOIN pg_class c ON c.oid = w.relation
         LEFT JOIN pg_class fc ON fc.oid = coalesce(f.relation, w.relation)
""")
# Transactions that have written or locked a row, and have been open for some time.
_OPEN = text("""
    WITH writing AS MATERIALIZED (
             SELECT pid, transactionid FROM pg_locks
             WHERE locktype = 'transactionid' AND granted AND mode = 'ExclusiveLock' AND pid <> pg_backend_pid()
         ),
         here AS MATERIALIZED (
             SELECT pid FROM pg_stat_activity
             WHERE datname = current_database()
                   AND coalesce(xact_start, '-infinity') <= clock_timestamp() - make_interval(secs => :since)
         )
    SELECT pid, transactionid::text::bigint AS xid FROM writing JOIN here USING (pid)
""")
# Tables that have been locked for some time in a mode that no writer gets along with, as an ALTER or a CREATE INDEX does.
_TABLES = text("""
    WITH strong AS MATERIALIZED (
             SELECT l.pid, c.relname FROM pg_locks l JOIN pg_class c ON c.oid = l.relation AND c.relkind IN ('r', 'p')
             WHERE l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                   AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
                   AND l.locktype = 'relation' AND c.relnamespace <> 'pg_catalog'::regnamespace
         ),
         here AS MATERIALIZED (
             SELECT pid FROM pg_stat_activity
             WHERE coalesce(xact_start, '-infinity') <= clock_timestamp() - make_interval(secs => :since)
         )
    SELECT DISTINCT pid, relname FROM strong JOIN here USING (pid)
""")
_SESSIONS = text("""
    SELECT a.pid, a.usename, a.application_name, host(a.client_addr) AS client, a.state, a.backend_type, a.query,
           extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS in_transaction,
           CASE WHEN a.state LIKE 'idle%' THEN extract(epoch FROM clock_timestamp() - a.state_change)::float8 END AS idle,
           coalesce(l.tables, '{}') AS tables, coalesce(l.advisory, '{}') AS advisory
    FROM pg_stat_activity a LEFT JOIN (
        SELECT l.pid, array_agg(DISTINCT c.relname || ' ' || l.mode) FILTER (WHERE c.relkind IN ('r', 'p')) AS tables,
               array_agg(DISTINCT l.objid::bigint)
                   FILTER (WHERE l.locktype = 'advisory' AND l.classid = 0 AND l.objsubid = 1) AS advisory
        FROM pg_locks l LEFT JOIN pg_class c ON c.oid = l.relation
        WHERE l.granted AND l.pid = ANY(CAST(:pids AS int[])) GROUP BY l.pid
    ) l USING (pid)
    WHERE a.pid = ANY(CAST(:pids AS int[]))
""")


@dataclass(frozen=True, slots=True)
class Session:
    """A database session that holds or waits.

    :param pid: of its server process; 0 for a prepared transaction, which has none.
    :param component: whose it is, as far as that can be told.
    :param role: it connected as this one.
    :param client: the address that it connected from; None for a Unix socket, or what may not be seen.
    :param application: its ``application_name``.
    :param state: such as ``active`` or ``idle in transaction``.
    :param statement: the shape of what it does, or did last.
    :param in_transaction: seconds since its transaction began; None if that may not be seen.
    :param idle: seconds since it last did something, if it does nothing.
    :param waits: seconds that it has waited for the row; None if it does not, or PostgreSQL does not tell.
    :param is_hidden: whether this role may not see what it does.
    """

    pid: int
    component: Component
    role: str | None = None
    client: str | None = None
    application: str = ""
    state: str | None = None
    statement: str = ""
    in_transaction: float | None = None
    idle: float | None = None
    waits: float | None = None
    is_hidden: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """What is held, by whom, and who waits for it.

    :param kind: ``row``, ``table``, ``transaction`` (such as a key that both insert: PostgreSQL tells no row), or another of
        PostgreSQL's kinds of locks.
    :param table: None where PostgreSQL does not tell.
    :param row: by what it is known (see :data:`NAMED_BY`), else its page and number; empty where there is none.
    :param holders: who has locked it; several may share it.
    :param waiting: who waits for it in PostgreSQL, whoever has waited longest first.
    """

    kind: str
    table: str | None
    row: Mapping[str, Any]
    holders: tuple[Session, ...]
    waiting: tuple[Session, ...] = ()

    @property
    def seconds(self) -> float:
        """For how long somebody has waited, or how long it may have been held if nobody does."""
        waited = [session.waits or 0.0 for session in self.waiting]
        return max(waited or [session.in_transaction or 0.0 for session in self.holders], default=0.0)


@dataclass(frozen=True, slots=True)
class Picture:
    """Who holds what, at one moment.

    :param held: what somebody has waited for longest first; then what nobody waits for in PostgreSQL.
    :param is_whole: whether this role may see what others' sessions do.
    """

    held: tuple[Held, ...] = ()
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row is, as long as nobody has written it anew."""

    table: str
    page: int
    number: int

    def __str__(self) -> str:
        return f"({self.page},{self.number})"

    @classmethod
    def of(cls, table: str, ctid: str) -> Place:
        """Return the place that a ``ctid`` in PostgreSQL's own form names."""
        page, number = ctid.strip("()").split(",")
        return cls(table, int(page), int(number))

    @classmethod
    def in_context(cls, context: str | None) -> Place | None:
        """Return the row that an error's context names, such as ``while locking tuple (0,7) in relation "task_instance"``.

        It may be in any language: the table is the word that is one of Airflow's.
        """
        found = re.search(r"\((\d+,\d+)\)", context or "")
        name = next((word for word in re.findall(r"\w+", context or "") if word in metadata.tables), None)
        return cls.of(name, found[1]) if found and name else None


@dataclass(slots=True)
class _Spot:
    """Where sessions meet, and which."""

    kind: str
    table: str | None = None
    place: Place | None = None
    waits: dict[int, float | None] = field(default_factory=dict)
    blockers: set[int] = field(default_factory=set)


async def look(database: Database, *, since: float) -> Picture:
    """Return who holds what, and who waits.

    :param since: seconds for which a transaction is open at least whose locks on tables and on the rows of living tasks are
        told, though nobody waits for them in PostgreSQL.
    :raises RetryableDatabaseError: when the database cannot tell now.
    """
    spots = _meeting(await _rows(database, _WAITS))
    holding = {row.xid: row.pid for row in await _rows(database, _OPEN, since=since)}
    lockers: Sequence[AnyRow] = ()
    if holding:
        with suppress(LockTimeout):  # the whole table is held: who waits for it is told of above
            lockers = await _rows(database, _HELD_TASKS, xids=list(holding))
    for row in lockers:
        place = Place.of("task_instance", row.place)
        spots.setdefault(place, _Spot("row", "task_instance", place)).blockers.add(holding[row.xid])
    for row in await _rows(database, _TABLES, since=since):
        spots.setdefault(("table", row.relname), _Spot("table", row.relname)).blockers.add(row.pid)
    return await _picture(database, spots.values())


async def holders_of(database: Database, place: Place) -> Picture:
    """Return who holds a row now; an empty picture if nobody does any more.

    :raises RetryableDatabaseError: when the database cannot tell now.
    """
    holding = {row.xid: row.pid for row in await _rows(database, _OPEN, since=0.0)}
    lockers = await _rows(database, _lockers(place.table), place=str(place), xids=list(holding))
    spot = _Spot("row", place.table, place, blockers={holding[row.xid] for row in lockers})
    return await _picture(database, [spot] if spot.blockers else [])


async def sessions(database: Database, pids: Collection[int]) -> dict[int, Session]:
    """Return sessions by the pids of their server processes; those that have ended are left out."""
    found = await _rows(database, _SESSIONS, pids=sorted(pids)) if pids else ()
    return {0: Session(0, Component("prepared transaction"))} | {row.pid: _session(row) for row in found}


async def _rows(database: Database, statement: Executable, **parameters: Any) -> Sequence[AnyRow]:
    async with database.autocommit() as session:
        return (await session.execute(statement, parameters)).all()


def _meeting(waits: Sequence[AnyRow]) -> dict[Any, _Spot]:
    """Return where sessions wait, and for whom: not for those that only stand before them in the same line."""
    spots: dict[Any, _Spot] = {}
    for row in waits:
        if row.number is not None:  # a row's first in line waits for the transaction, the others for the first
            place = Place(row.tuple_of, row.page, row.number)
            spot = spots.setdefault(place, _Spot("row", row.tuple_of, place))
        elif row.locktype == "transactionid":
            spot = spots.setdefault(row.xid, _Spot("transaction"))
        else:
            kind = "table" if row.locktype == "relation" else row.locktype
            spot = spots.setdefault((kind, row.relname), _Spot(kind, row.relname))
        spot.waits[row.pid] = row.seconds
        spot.blockers.update(row.blockers)
    for spot in spots.values():
        spot.blockers -= spot.waits.keys()
    return spots


async def _picture(database: Database, spots: Collection[_Spot]) -> Picture:
    found = await sessions(database, {pid for spot in spots for pid in (*spot.waits, *spot.blockers)})
    rows = await _names(database, [spot.place for spot in spots if spot.place])

    def session(pid: int, waits: float | None = None) -> Session:
        return replace(found.get(pid) or Session(pid, UNKNOWN), waits=waits)  # it has ended meanwhile

    held = [
        Held(
            kind=spot.kind,
            table=spot.table,
            row=rows[spot.place] if spot.place else {},
            holders=tuple(session(pid) for pid in sorted(spot.blockers)),
            waiting=tuple(session(*wait) for wait in sorted(spot.waits.items(), key=lambda wait: -(wait[1] or 0.0))),
        )
        for spot in spots
    ]
    held.sort(key=lambda each: (bool(each.waiting), each.seconds), reverse=True)
    return Picture(tuple(held), is_whole=not any(each.is_hidden for each in found.values()))


def _session(row: AnyRow) -> Session:
    is_hidden = row.query == HIDDEN
    statement = "" if is_hidden else shape(row.query or "")
    return Session(
        pid=row.pid,
        component=component_of(
            row.application_name or "", statement, advisory=row.advisory, locks=row.tables, backend=row.backend_type
        ),
        role=row.usename,
        client=row.client,
        application=row.application_name or "",
        state=row.state,
        statement=statement,
        in_transaction=row.in_transaction,
        idle=row.idle,
        is_hidden=is_hidden,
    )


async def _names(database: Database, places: Iterable[Place]) -> dict[Place, dict[str, Any]]:
    """Return by what rows are known: where they are, for those that have gone, or may not be read now."""
    names: dict[Place, dict[str, Any]] = {place: {"page": place.page, "number": place.number} for place in places}
    by_table = defaultdict[str, list[str]](list)
    for place in names:
        by_table[place.table].append(str(place))
    for name, at in by_table.items():
        if name in NAMED_BY:
            with suppress(RetryableDatabaseError):
                for row in await _rows(database, _named(name), at=at):
                    names[Place.of(name, row.place)] = {each: _plain(getattr(row, each)) for each in NAMED_BY[name]}
    return names


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | None) else str(value)


# Whatever a release calls it: who looks need not know which one the database is of.
_MAP_INDEX = text("(SELECT coalesce(t ->> 'map_index', t ->> 'region_index')::int FROM to_jsonb(here) AS t) AS map_index")


@lru_cache
def _named(name: str) -> Select[Any]:
    columns = [_MAP_INDEX if each == "map_index" else column(each) for each in NAMED_BY[name]]
    at = text("ctid = ANY(CAST(CAST(:at AS text[]) AS tid[]))")
    return select(text("ctid::text AS place"), *columns).select_from(table(name).alias("here")).where(at)


def _locked(name: str, condition: str) -> TextClause:
    """Return what asks for the rows of a table that some transactions have locked or written.

    A row's header has the transaction, or a number for several; they are looked up only where there can be such a number.
    They may have locked the row against going away only, since they refer to it: that keeps nobody from reporting on it.
    """
    return text(f"""
        WITH found AS (
            SELECT ctid::text AS place, xmax AS locker, tableoid AS oid FROM {name} WHERE {condition} AND xmax <> '0'
        )
        SELECT place, locker::text::bigint AS xid FROM found WHERE locker = ANY(CAST(:xids AS xid[]))
        UNION
        SELECT place, member.xid::text::bigint FROM found JOIN pg_class c USING (oid), LATERAL pg_get_multixact_members(
            CASE WHEN mxid_age(locker) BETWEEN 1 AND mxid_age(c.relminmxid) THEN locker END) member
        WHERE member.xid = ANY(CAST(:xids AS xid[])) AND member.mode <> 'keysh'
        LIMIT {MOST_ROWS}
    """)  # noqa: S608  both are constants of ours


_HELD_TASKS = _locked("task_instance", "state IN ('running', 'queued', 'restarting')")


@lru_cache
def _lockers(name: str) -> TextClause:
    return _locked(name, "ctid = CAST(CAST(:place AS text) AS tid)")
