"""XComs. Values pass as the JSON text that PostgreSQL stores: they are never decoded here, so nothing is lost on the way."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    FromClause,
    Integer,
    ScalarSelect,
    Select,
    SelectBase,
    String,
    Text,
    bindparam,
    delete,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.sql.dml import ReturningInsert

from app.db.earlier import Newest, newest
from app.db.schema import Coordinates, Schema, key_columns
from app.db.session import Session
from app.db.tables import UNBOUNDED, AnyRow, as_bytes, dag_run, date_of, from_bytes, from_text, task_instance


class XComKey(NamedTuple):
    """What names the XComs of one task under one key."""

    dag_id: str
    run_id: str
    task_id: str
    key: str

    def of(self, map_index: int) -> Coordinates:
        """Return the task instance of the task whose XCom it is."""
        return Coordinates(self.dag_id, self.run_id, self.task_id, map_index)


_named, _asking = dag_run.alias("named"), dag_run.alias("asking")
_named_date = select(date_of(_named)).where(_named.c.dag_id == bindparam("dag_id"), _named.c.run_id == bindparam("run_id"))
_of_asker = (task_instance.c.dag_id == _asking.c.dag_id) & (task_instance.c.run_id == _asking.c.run_id)
_asking_date = select(date_of(_asking)).join(task_instance, _of_asker).where(task_instance.c.id == bindparam("asker"))
_until = select(func.coalesce(_named_date.scalar_subquery(), _asking_date.scalar_subquery()).label("date")).cte("until")


def _is_prior(date: ColumnElement[Any]) -> ColumnElement[bool]:
    """Match the dates of runs up to that of the run that is named.

    A task that pulls from another Dag names that Dag and its own run, as the Task SDK does: when the Dag has no such run, it
    is the date of the asking task's run that counts.
    """
    return date <= select(_until.c.date).scalar_subquery()


class Values:
    """XComs of which ``rows`` has one each, and what reads them: the same for all that they may be stored in.

    :param rows: dag_id, run_id, dag_run_id, task_id, map_index, key, value and timestamp of each value that may be read. Of
        several tries of a task instance it has the values of one.
    :param where: of which rows, if not of all.
    :param of_run: the same of one task in one run, which it binds, if they are found sooner so.
    :param listed: see :func:`~app.db.earlier.newest`.
    :param place: the columns by which a sequence of them is in order.
    """

    def __init__(
        self,
        rows: FromClause,
        *where: ColumnElement[bool],
        of_run: FromClause | None = None,
        listed: Sequence[ColumnElement[bool]] = (),
        place: Sequence[ColumnElement[Any]] | None = None,
    ) -> None:
        self.rows, self._bound = rows, dict[str, Any]()
        oldest_first = [date_of(dag_run), dag_run.c.id, rows.c.timestamp]
        matching = {is_prior: _matching(rows, where, include_prior_dates=is_prior) for is_prior in (False, True)}
        orders = {is_prior: [*(place or [rows.c.map_index]), *oldest_first] for is_prior in matching}
        sources = dict.fromkeys(matching, rows)
        if of_run is not None:
            matching[False] = select(of_run.c.value).where(of_run.c.key == bindparam("key"))
            orders[False], sources[False] = [of_run.c.map_index, of_run.c.timestamp], of_run
        at_index = {is_prior: each.c.map_index == bindparam("at_index") for is_prior, each in sources.items()}
        skipped, most = bindparam("skipped", type_=Integer), bindparam("most", type_=Integer)
        self._of_run = matching[False].with_only_columns(as_bytes(sources[False].c.value)).where(at_index[False])
        is_it, newer_first = [*_under_key(rows), at_index[True], *where], [rows.c.timestamp.desc()]
        found = newest(rows, *is_it, columns=[rows.c.value], is_earlier=_is_prior, then=newer_first, listed=listed)
        self._newest = Newest(*map(_as_texts, found))
        self._count = {is_prior: select(func.count()).select_from(each.subquery()) for is_prior, each in matching.items()}
        self._slice = {
            is_prior: _as_texts(each.order_by(*orders[is_prior]).offset(skipped).limit(most))
            for is_prior, each in matching.items()
        }
        self._at = {
            (is_prior, is_backwards, not_null): _as_texts(
                (each.where(sources[is_prior].c.value.is_not(None)) if not_null else each)
                .order_by(*(column.desc() if is_backwards else column for column in orders[is_prior]))
                .offset(skipped)
                .limit(1)
            )
            for is_prior, each in matching.items()
            for is_backwards in (False, True)
            for not_null in (False, True)
        }

    def bound(self, **parameters: Any) -> Values:
        """Return the same, with what its condition binds."""
        values = copy(self)
        values._bound = parameters
        return values

    async def get(
        self, session: Session, *, key: XComKey, map_index: int, asker: uuid.UUID, is_prior: bool = False
    ) -> AnyRow | None:
        """Return the newest value under ``key`` for one map index, as JSON text in the row's ``value``, or None.

        :param asker: the task instance that asks.
        :param is_prior: whether of prior dates too; else of that run alone.
        """
        parameters = {**self._bound, **key._asdict(), "at_index": map_index, "asker": asker}
        if is_prior:
            return await self._newest.row(session, parameters)
        return (await session.execute(self._of_run, parameters)).one_or_none()

    async def at(
        self,
        session: Session,
        *,
        key: XComKey,
        offset: int,
        asker: uuid.UUID,
        is_prior: bool = False,
        not_null: bool = False,
    ) -> AnyRow | None:
        """Return one value in map-index order, older runs first; a negative offset counts from the end, as in Python.

        :param asker: the task instance that asks.
        :param is_prior: whether of prior dates too; else of that run alone.
        :param not_null: whether values that are SQL NULL are passed over.
        """
        is_backwards = offset < 0
        parameters = {**self._bound, **key._asdict(), "asker": asker, "skipped": -1 - offset if is_backwards else offset}
        return (await session.execute(self._at[is_prior, is_backwards, not_null], parameters)).one_or_none()

    async def sliced(
        self,
        session: Session,
        *,
        key: XComKey,
        start: int | None,
        stop: int | None,
        step: int | None,
        asker: uuid.UUID,
        is_prior: bool = False,
    ) -> list[bytes | None]:
        """Return the values that the slice ``[start:stop:step]`` takes in map-index order, older runs first, as JSON texts.

        The bounds are resolved with Python's own rules. Only when one of them counts from the end must the length be asked
        for first.

        :param step: 0 means 1, as Airflow has it.
        :param asker: the task instance that asks.
        :param is_prior: whether of prior dates too; else of that run alone.
        """
        parameters = {**self._bound, **key._asdict(), "asker": asker}
        step = step or 1
        length = UNBOUNDED
        if step < 0 or (start or 0) < 0 or (stop or 0) < 0:
            length = await session.scalar(self._count[is_prior], parameters) or 0
        indices = range(*slice(start, stop, step).indices(length))
        if not indices:
            return []
        first, last = sorted((indices[0], indices[-1]))
        bounds = {"skipped": first, "most": last - first + 1}
        return list(await session.scalars(self._slice[is_prior], {**parameters, **bounds}))[::step]

    async def count(self, session: Session, *, key: XComKey) -> int:
        """Count the map indexes that have a value under ``key``."""
        return await session.scalar(self._count[False], {**self._bound, **key._asdict()}) or 0


class Pass(NamedTuple):
    """A pass of a loop, in which each task of the loop has task instances.

    :param family: what the regions of the loop have in common.
    :param number: from 0.
    """

    family: uuid.UUID
    number: int


class Seen(NamedTuple):
    """How a task instance that asks sees a task.

    :param loop: the family of the loop that repeats the task, if one does.
    :param own: the pass in which who asks is itself, if it is in a loop, and of the same run.
    :param is_live: whether it is the last try.
    :param is_same: whether it is a try of just the task instance that is asked for.
    """

    loop: uuid.UUID | None
    own: Pass | None
    is_live: bool
    is_same: bool


class XComs(Values, ABC):
    """The XComs of a release's database.

    What a loop repeats has no value that a key and a map index name: which one is seen depends on who asks.

    :ivar left_behind: the keys under which an earlier try of a task instance left values: a part of a statement that binds
        its ``pk``, ``run_pk``, ``task_id`` and ``map_index``.
    """

    left_behind: ScalarSelect[Any]

    async def seen(self, session: Session, *, key: XComKey, map_index: int, asker: uuid.UUID) -> Seen | None:
        """Return how a task is seen by who found no value of it, or None where there are no loops."""
        return None

    def within(self, at: Pass) -> Values:
        """Return the values of one pass of a loop."""
        raise NotImplementedError

    async def along(self, session: Session, *, key: XComKey, family: uuid.UUID) -> Values:
        """Return the values of all passes of a loop, one after the other."""
        raise NotImplementedError

    async def ambiguous(self, session: Session, *, key: XComKey, at: Pass) -> int | None:
        """Return a map index that several task instances of a task have in one pass, or None."""
        raise NotImplementedError

    @abstractmethod
    async def put(
        self,
        session: Session,
        *,
        key: XComKey,
        map_index: int,
        value: bytes,
        dag_result: bool,
        mapped_length: int | None,
        asker: uuid.UUID,
        within: Pass | None = None,
        now: datetime,
    ) -> bool:
        """Set a value, in one statement when it is not mapped over; setting it again replaces it.

        :param value: JSON text.
        :param mapped_length: into how many task instances it expands; then the session must be a transaction.
        :param asker: the task instance that pushes it: for who stores values by tries.
        :param within: of what a loop repeats: in which pass.
        :returns: whether there is what it belongs to; without it nothing is written.
        """

    @abstractmethod
    async def mapped_lengths(self, session: Session, *, dag_id: str, run_id: str) -> dict[str, int]:
        """Return, by the id of each unmapped task of a run that has returned such a value, into how many it expands."""

    @abstractmethod
    async def remove(
        self, session: Session, *, key: XComKey, map_index: int, asker: uuid.UUID, within: Pass | None = None
    ) -> bool:
        """Delete the value of one map index, if there is one; see :meth:`put`.

        :returns: whether there is, or may be, what it belongs to.
        """


class XComsOfRuns(XComs):
    """XComs as Airflow 3.2 and 3.3 store them: of a run, by the coordinates of a task instance, whichever try it was."""

    def __init__(self, schema: Schema) -> None:
        self._xcom = xcom = schema.table(
            "xcom",
            Column("dag_run_id", Integer, primary_key=True),
            Column("task_id", String, primary_key=True),
            Column("map_index", Integer, primary_key=True),
            Column("key", String, primary_key=True),
            *(Column(name, String) for name in ("dag_id", "run_id")),
            Column("value", JSONB),
            Column("timestamp", DateTime(timezone=True)),
            Column("dag_result", Boolean),
        )
        of_run, at_index = xcom.c.run_id == bindparam("run_id"), xcom.c.map_index == bindparam("at_index")
        super().__init__(xcom, listed=[*_of_task(xcom), at_index])
        self._put = self._putting()
        self._delete = delete(xcom).where(*_under_key(xcom), of_run, at_index)
        self.left_behind = (
            select(func.array_agg(xcom.c.key))
            .where(
                xcom.c.dag_run_id == bindparam("run_pk"),
                xcom.c.task_id == bindparam("task_id"),
                or_(bindparam("map_index") < 0, xcom.c.map_index == bindparam("map_index")),
            )
            .scalar_subquery()
        )
        length, keys = Column("length", Integer), Column("keys", JSONB(none_as_null=True))
        task_map = schema.table("task_map", *key_columns(primary_key=True), length, keys)
        lengths = insert(task_map).values(keys=from_text(literal("null")))
        self._put_length = lengths.on_conflict_do_update(
            index_elements=[task_map.c[name] for name in Coordinates._fields],
            set_={name: lengths.excluded[name] for name in ("length", "keys")},
        )
        self._lengths = select(task_map.c.task_id, task_map.c.length).where(
            task_map.c.dag_id == bindparam("dag_id"), task_map.c.run_id == bindparam("run_id"), task_map.c.map_index < 0
        )

    def _putting(self) -> ReturningInsert[Any]:
        values = {
            "dag_run_id": dag_run.c.id,
            "task_id": bindparam("of_task", type_=Text),
            "map_index": bindparam("at_index"),
            "key": bindparam("under_key", type_=Text),
            "dag_id": bindparam("dag_id", type_=Text),
            "run_id": bindparam("run_id", type_=Text),
            "value": from_bytes(bindparam("json")),
            "timestamp": bindparam("now"),
            "dag_result": bindparam("dag_result"),
        }
        source = {name: value for name, value in values.items() if name in self._xcom.c}
        of_run = dag_run.c.dag_id == bindparam("dag_id"), dag_run.c.run_id == bindparam("run_id")
        statement = insert(self._xcom).from_select(list(source), select(*source.values()).where(*of_run))
        renewed = {name: statement.excluded[name] for name in source if name in ("value", "timestamp", "dag_result")}
        key = [self._xcom.c[name] for name in ("dag_run_id", "task_id", "map_index", "key")]
        return statement.on_conflict_do_update(index_elements=key, set_=renewed).returning(self._xcom.c.dag_run_id)

    async def put(
        self,
        session: Session,
        *,
        key: XComKey,
        map_index: int,
        value: bytes,
        dag_result: bool,
        mapped_length: int | None,
        asker: uuid.UUID,
        within: Pass | None = None,
        now: datetime,
    ) -> bool:
        parameters = {
            "of_task": key.task_id,
            "at_index": map_index,
            "under_key": key.key,
            "dag_id": key.dag_id,
            "run_id": key.run_id,
            "json": value,
            "now": now,
            "dag_result": dag_result,
        }
        found = await session.scalar(self._put, parameters) is not None
        if found and mapped_length is not None:
            await session.execute(self._put_length, {**key.of(map_index)._asdict(), "length": mapped_length})
        return found

    async def mapped_lengths(self, session: Session, *, dag_id: str, run_id: str) -> dict[str, int]:
        rows = await session.execute(self._lengths, {"dag_id": dag_id, "run_id": run_id})
        return {row.task_id: row.length for row in rows}

    async def remove(
        self, session: Session, *, key: XComKey, map_index: int, asker: uuid.UUID, within: Pass | None = None
    ) -> bool:
        await session.execute(self._delete, {**key._asdict(), "at_index": map_index})
        return True


def _matching(rows: FromClause, where: Sequence[ColumnElement[bool]], *, include_prior_dates: bool = False) -> Select[Any]:
    """Select values under an :class:`XComKey`: of its run alone, or of prior ones too."""
    statement = select(rows.c.value).join(dag_run, dag_run.c.id == rows.c.dag_run_id)
    statement = statement.where(*_under_key(rows), *where)
    return statement.where(_is_prior(date_of(dag_run)) if include_prior_dates else rows.c.run_id == bindparam("run_id"))


def _as_texts(chosen: SelectBase) -> Select[Any]:
    """Select values as JSON texts, once they are chosen and in order: those that are only sorted, all large, stay unread."""
    return select(as_bytes(chosen.subquery("chosen").c.value))


def _of_task(rows: FromClause) -> list[ColumnElement[bool]]:
    return [rows.c[name] == bindparam(name) for name in ("dag_id", "task_id")]


def _under_key(rows: FromClause) -> list[ColumnElement[bool]]:
    return [*_of_task(rows), rows.c.key == bindparam("key")]
