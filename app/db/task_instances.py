"""One task instance: its row lock, what is read and written of it, and its transitions."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import (
    Executable,
    Integer,
    Label,
    Table,
    Text,
    bindparam,
    case,
    cast,
    exists,
    func,
    insert,
    literal,
    literal_column,
    null,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningInsert

from app.db.audit import AuditLog
from app.db.dag_runs import NewRun
from app.db.recording import THIS_VERSION, Along, Part, recording
from app.db.regions import Regions
from app.db.schema import Schema, known, writes
from app.db.session import Session
from app.db.tables import AnyRow, arguments, as_text, dag, dag_run, dagrun_asset_event, rows_of, task_reschedule
from app.db.tries import Tries
from app.db.xcoms import XComs

_TRACEPARENT = dag_run.c.context_carrier.op("#>>")(literal_column("'{__var,traceparent}'"))
_IS_UNSAMPLED = _TRACEPARENT.op("~")(literal_column("'-[0-9a-f][02468ace]$'"))  # the last bit of its flags is not set


# Columns in which new task instances of a run differ; in all others they are of a few kinds.
OWN = frozenset({"id", "task_id", "map_index", "region_id", "priority_weight", "task_display_name", "context_carrier"})


class NewTasks(NamedTuple):
    """Task instances of one run that were never tried.

    :param alike: the columns that they have alike, ``dag_id`` and ``run_id`` among them.
    :param each: the others of each, all with the same, and what repeats it (``is_mapped``, ``loop``); most tasks of a Dag
        have those alike that are not :data:`OWN`.
    """

    alike: Mapping[str, Any]
    each: Sequence[dict[str, Any]]


class TaskInstances:
    """The task instances of a release's database, found by the id of their try.

    :param tries: which of their rows are tries that count.
    :param xcoms: where what an earlier try left is found.
    :param audit: where their transitions are written down.
    :param regions: where new ones are placed.
    """

    def __init__(self, schema: Schema, tries: Tries, xcoms: XComs, audit: AuditLog, regions: Regions) -> None:
        self._schema = schema
        self._audit = audit
        self._regions = regions
        self._recording: dict[tuple[frozenset[str], tuple[Part, ...], bool], Executable] = {}
        self._table = row = schema.task_instance
        map_index = schema.map_index(row).label("map_index")
        self._creating: dict[tuple[frozenset[str], frozenset[str], Executable | None], Executable] = {}
        self._is_this = (row.c.id == bindparam("pk")) & tries.live
        seen = (
            select(
                row.c.id,
                row.c.dag_id,
                row.c.task_id,
                row.c.run_id,
                map_index,
                row.c.state,
                row.c.try_number,
                row.c.max_tries,
                row.c.start_date,
                row.c.hostname,
                row.c.unixname,
                row.c.pid,
                row.c.queue,
                row.c.queued_dttm,
                row.c.next_method,
                as_text(row.c.next_kwargs),
                row.c.operator,
                row.c.dag_version_id,
                *schema.place(row),
                schema.pass_number(row).label("pass_number"),
                dag_run.c.id.label("run_pk"),
                dag_run.c.logical_date,
                dag_run.c.data_interval_start,
                dag_run.c.data_interval_end,
                dag_run.c.run_after,
                dag_run.c.start_date.label("run_start_date"),
                dag_run.c.end_date.label("run_end_date"),
                dag_run.c.clear_number,
                dag_run.c.run_type,
                dag_run.c.state.label("run_state"),
                as_text(dag_run.c.conf),
                dag_run.c.triggering_user_name,
                dag_run.c.partition_key,
                dag_run.c.partition_date,
                dag.c.owners,
                dag.c.fail_fast,
                THIS_VERSION.label("version"),
            )
            .join(dag_run, (dag_run.c.dag_id == row.c.dag_id) & (dag_run.c.run_id == row.c.run_id))
            .join(dag, dag.c.dag_id == row.c.dag_id)
            .where(self._is_this)
        )
        self._seen = {False: seen, True: seen.add_columns(_span(row))}
        self._lock = {traced: each.with_for_update(of=row, key_share=True) for traced, each in self._seen.items()}
        self._identity = select(
            row.c.state,
            row.c.hostname,
            row.c.pid,
            row.c.dag_id,
            row.c.task_id,
            row.c.run_id,
            map_index,
        ).where(self._is_this)
        self._is_live = select(literal(1)).where(self._is_this)
        started = task_reschedule.c.start_date
        rescheduled = (
            select(func.count().label("times"), func.min(started).label("first"))
            .where(task_reschedule.c.ti_id == bindparam("pk"))
            .subquery("rescheduled")
        )
        self._context = select(
            rescheduled.c.times,
            rescheduled.c.first,
            xcoms.left_behind,
            exists().where(dagrun_asset_event.c.dag_run_id == bindparam("run_pk")),
        )
        self._label = (
            update(row)
            .where(self._is_this)
            .values(rendered_map_index=bindparam("label"), updated_at=bindparam("now"))
            .returning(literal(1))
        )

    async def seen(self, session: Session, *, ti_id: uuid.UUID, traced: bool = False) -> AnyRow | None:
        """Return one task instance with its run and Dag, and the row's ``version`` for :meth:`record`; without a lock.

        :param ti_id: the primary key.
        :param traced: whether what its span is made of is returned too, as ``span``: when it was queued, and the contexts of
            its run and its own, as JSON; None if its run is not sampled.
        """
        return (await session.execute(self._seen[traced], {"pk": ti_id})).one_or_none()

    async def lock(self, session: Session, *, ti_id: uuid.UUID, traced: bool = False) -> AnyRow | None:
        """Return what :meth:`seen` returns, with a lock: where what else is read must not become old meanwhile.

        The lock is ``FOR NO KEY UPDATE OF task_instance``: neither the run nor the Dag is locked, and the rows that refer to
        this one (XComs, rendered fields, reschedules) can still be inserted by others.

        :raises LockTimeout: when somebody holds it.
        """
        return (await session.execute(self._lock[traced], {"pk": ti_id})).one_or_none()

    async def identity(self, session: Session, *, ti_id: uuid.UUID) -> AnyRow | None:
        """Return who runs a task instance, its state, last heartbeat, Dag and run; without a lock."""
        return (await session.execute(self._identity, {"pk": ti_id})).one_or_none()

    async def is_live(self, session: Session, *, ti_id: uuid.UUID) -> bool:
        """Say whether this id is that of a last try."""
        return await session.scalar(self._is_live, {"pk": ti_id}) is not None

    async def context(self, session: Session, *, row: AnyRow) -> tuple[int, datetime | None, list[str], bool]:
        """Return what a starting task is told beyond its own row.

        :returns: how often it was rescheduled, and when first, the keys of the XComs that an earlier try left, and whether
            its run consumed asset events.
        """
        parameters = {"pk": row.id, "run_pk": row.run_pk, "task_id": row.task_id, "map_index": row.map_index}
        times, first, keys, has_events = (await session.execute(self._context, parameters)).one()
        return times, first, keys or [], has_events

    async def record(
        self,
        session: Session,
        *,
        row: AnyRow,
        values: Mapping[str, Any],
        event: str | None,
        hostname: str | None,
        in_teams: bool,
        now: datetime,
        along: Sequence[Along] = (),
    ) -> int | None:
        """Set columns of a task instance and write its audit row, in one statement, if nobody changed the row meanwhile.

        :param row: from :meth:`seen` or :meth:`lock`.
        :param event: of the audit row; None for none.
        :param in_teams: whether its Dag may be a team's.
        :param along: what else the statement writes.
        :returns: how many other task instances it left that somebody holds; None: the row was changed, nothing was written.
        """
        values = known(self._table, values)
        parts = tuple(each.part for each in along)
        statement = self._recording.get(kind := (frozenset(values), parts, event is not None))
        if statement is None:
            audit = None if event is None else self._audit
            self._recording[kind] = statement = recording(self._schema.setting(values), parts, audit)
        parameters = writes(row.id, values)
        if event is not None:
            parameters |= self._audit.transition(row, event=event, hostname=hostname, in_teams=in_teams, now=now)
        for each in along:
            parameters |= each.parameters
        left: int | None = await session.scalar(statement, {**parameters, "version": row.version})
        return left

    async def set_label(self, session: Session, *, ti_id: uuid.UUID, label: str, now: datetime) -> bool:
        """Set the label of a mapped task instance; one statement.

        :returns: whether the task instance exists.
        """
        return await session.scalar(self._label, {"pk": ti_id, "label": label, "now": now}) is not None

    async def create(self, session: Session, *, new: NewTasks, within: Any = None, now: datetime) -> None:
        """Insert task instances of one run, however many they are; one statement, and what placing them needs.

        :param within: see :meth:`app.db.regions.Regions.placed`.
        """
        if new.each:
            await session.execute(*await self._creation(session, new, within=within, now=now))

    def are_placed(self, new: NewTasks) -> bool:
        """Say whether what places task instances is inserted between their run and them: these are in one transaction."""
        return self._regions.place(new.each)

    async def create_run(self, session: Session, *, run: NewRun, new: NewTasks, now: datetime) -> int | None:
        """Insert a run with its task instances and return its id; None, and nothing is written, when there is such a run.

        It is one statement, unless they :meth:`are_placed`.
        """
        run_pk: int | None
        if new.each and not self.are_placed(new):
            statement, parameters = await self._creation(session, new, now=now, of=run)
            run_pk = await session.scalar(statement, {**run.parameters, **parameters})
        elif (run_pk := await session.scalar(*run)) is not None:
            await self.create(session, new=new, now=now)
        return run_pk

    async def _creation(
        self, session: Session, new: NewTasks, *, within: Any = None, now: datetime, of: NewRun | None = None
    ) -> tuple[Executable, dict[str, Any]]:
        """Return what inserts task instances, and what it is executed with.

        :param of: their run, which the statement inserts too.
        """
        run = {name: new.alike[name] for name in ("dag_id", "run_id")}
        placed = await self._regions.placed(session, rows=new.each, run=run, within=within, now=now)
        alike, names = known(self._table, new.alike), known(self._table, placed[0]).keys()
        own, shared = sorted(names & OWN), sorted(names - OWN)
        shape = frozenset(alike), frozenset(names), of and of.statement
        if shape not in self._creating:
            self._creating[shape] = self._created(alike, own, shared, of and of.statement)
        kinds: dict[tuple[Any, ...], int] = {}  # numbered from 1
        kind_of = itemgetter(*shared)
        parameters = {f"new_{name}": value for name, value in alike.items()}
        parameters |= {f"{name}s": [row[name] for row in placed] for name in own}
        parameters["kinds"] = [kinds.setdefault(kind_of(row), len(kinds) + 1) for row in placed]
        return self._creating[shape], parameters | arguments([f"{name}s" for name in shared], kinds)

    def _created(
        self,
        alike: Collection[str],
        own: Collection[str],
        shared: Collection[str],
        run: ReturningInsert[tuple[int]] | None,
    ) -> Executable:
        """Return the statement that inserts task instances.

        :param alike: the columns that all have alike.
        :param own: those that each has of its own.
        :param shared: those that each has of its kind.
        :param run: what inserts their run, whose id is returned; when there is such a run already, nothing is inserted.
        """
        row = self._table
        made = rows_of("made", kind=Integer, **{name: row.c[name].type for name in own})
        kind = rows_of("kind", **{name: row.c[name].type for name in shared})
        values = {**self._schema.bound(alike), **{name: made.c[name] for name in own}}
        values |= {name: kind.c[name] for name in shared}
        found = select(*values.values()).select_from(made.join(kind, kind.c.place == made.c.kind))
        if run is None:
            return insert(row).from_select([*values], found)
        begun = run.cte("begun")
        created = insert(row).from_select([*values], found.where(exists(select(begun.c.id))))
        return select(begun.c.id).add_cte(created.cte("created"))


def _span(row: Table) -> Label[str | None]:
    """Return what the span of a task instance is made of, as JSON; null if its run is not sampled."""
    parts = func.jsonb_build_array(row.c.queued_dttm, dag_run.c.context_carrier, row.c.context_carrier)
    return case((_IS_UNSAMPLED, null()), else_=cast(parts, Text)).label("span")
