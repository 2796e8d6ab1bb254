"""The newest runs of a Dag, and the newest of what its runs have, without reading all runs that it ever had.

Runs are ordered by :func:`~app.db.tables.date_of`, and no index of Airflow's has that. Those with a logical date are found
where an index ends. Those without one are in no order there: they are looked for among the newest runs of all Dags.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    FromClause,
    Select,
    Subquery,
    and_,
    bindparam,
    exists,
    func,
    literal,
    select,
    true,
    union_all,
)

from app.db.session import Session
from app.db.tables import UNBOUNDED, AnyRow, dag_run, date_of

NEAR = 20  # runs that are looked into, at four to eleven pages each
WALK = 100  # runs that are looked at, of which a page has several
FEW = 500  # runs, at one to four pages each
RECENT = 2000  # runs of all Dags, at twenty or so a page: a Dag that often runs has its newest among them
IsEarlier = Callable[[ColumnElement[Any]], ColumnElement[bool]]  # of the date of ``dag_run``
OF_DAG = bindparam("dag_id", type_=dag_run.c.dag_id.type)


def is_before(date: ColumnElement[Any]) -> ColumnElement[bool]:
    """Match runs with a logical date before the one that a statement binds as ``before``."""
    return dag_run.c.logical_date.is_not(None) & (date < bindparam("before"))


def newest_runs(
    is_earlier: IsEarlier,
    *where: ColumnElement[bool],
    columns: Sequence[ColumnElement[Any]] = (),
    of_dag: ColumnElement[str] = OF_DAG,
    most: int | ColumnElement[int] = NEAR,
    are_dated: bool = False,
) -> Subquery:
    """Select a Dag's newest runs, newest first: the ``id`` of each, and ``when`` it is.

    :param is_earlier: which runs count; what it says of the date finds where to begin.
    :param where: further conditions on ``dag_run``.
    :param columns: of ``dag_run``, to have too.
    :param of_dag: the Dag; else a statement binds ``dag_id``.
    :param most: how many.
    :param are_dated: whether only those with a logical date count, as ``is_earlier`` says too.
    """
    when, pk = dag_run.c.logical_date, dag_run.c.id
    dated = select(when.label("when"), pk, *columns).where(
        dag_run.c.dag_id == of_dag, when.is_not(None), is_earlier(when), *where
    )
    kinds: list[Select[Any] | CompoundSelect[Any]] = [dated.order_by(when.desc(), pk.desc()).limit(most)]
    if not are_dated:
        is_own, counts = (dag_run.c.dag_id == of_dag, when.is_(None)), (is_earlier(dag_run.c.run_after), *where)
        kinds.append(_newest_by_run_after(*is_own, columns=columns, counts=counts, most=most))
    runs = union_all(*(select(kind.subquery()) for kind in kinds)).subquery("runs")
    return select(runs).order_by(runs.c.when.desc(), runs.c.id.desc()).limit(most).subquery("newest")


def newest_to_start(most: ColumnElement[int]) -> Subquery:
    """Select the newest runs of the Dag ``dag_id``, which a statement binds, by when they could start: by ``run_after``.

    :param most: how many; in no order.
    """
    columns = [dag_run.c[name] for name in ("dag_id", "run_id")]
    return _newest_by_run_after(dag_run.c.dag_id == OF_DAG, columns=columns, most=most).subquery("newest")


def _newest_by_run_after(
    *is_own: ColumnElement[bool],
    columns: Sequence[ColumnElement[Any]],
    counts: Sequence[ColumnElement[bool]] = (),
    most: int | ColumnElement[int],
) -> CompoundSelect[Any]:
    """Select some of a Dag's runs, the newest by ``run_after``; no index has that of one Dag's runs.

    So they are looked for among all of them, if those are few; else among the newest of all Dags, which an index has; and
    where a Dag of many runs has not run lately, among all of its own.

    :param is_own: which are the Dag's: what an index has.
    :param counts: which of all runs count.
    """
    own: list[ColumnElement[Any]] = [dag_run.c.run_after.label("when"), dag_run.c.id, *columns]
    are_few = _are_few(select(literal(1)).where(*is_own).limit(FEW + 1).subquery())
    in_order = dag_run.c.run_after.desc(), dag_run.c.id.desc()
    recent = select(*own, and_(*is_own).label("is_own")).where(*counts).order_by(*in_order).limit(RECENT).subquery("recent")
    columns = [recent.c[column.name] for column in own]
    near = select(*columns).where(recent.c.is_own, ~are_few).order_by(recent.c.when.desc(), recent.c.id.desc())
    found = near.limit(most).cte()
    are_enough = select(func.count()).select_from(found).scalar_subquery() >= most
    others = select(*own).where(*is_own, *counts).offset(0).subquery("own")  # not by the index of all runs
    newest = select(others).where(~are_enough).order_by(others.c.when.desc(), others.c.id.desc()).limit(most)
    return union_all(select(found).where(are_enough), select(newest.subquery()))


def _are_few(rows: FromClause) -> ColumnElement[bool]:
    """Tell whether of something, limited to more than :data:`FEW`, there is not more."""
    return select(func.count()).select_from(rows).scalar_subquery() <= FEW


class Newest(NamedTuple):
    """What finds one row, of the newest run that has it.

    :ivar near: looks at the newest runs, one after the other. When it is in none of them and there may be more runs, the
        row is of NULL alone; one that is so by itself is found again.
    :ivar far: looks at all: only at those in which it may be, if an index tells that these are few; else at one after the
        other. Where no index tells, and five hundred have none, it looks through all rows.
    """

    near: Select[Any]
    far: Select[Any] | CompoundSelect[Any]

    async def row(self, session: Session, parameters: Mapping[str, Any]) -> AnyRow | None:
        """Return the row, or None."""
        row = (await session.execute(self.near, parameters)).one_or_none()
        if row is None or any(value is not None for value in row):
            return row
        return (await session.execute(self.far, parameters)).one_or_none()


def newest(
    rows: FromClause,
    *where: ColumnElement[bool],
    columns: Sequence[ColumnElement[Any]],
    of_run: Sequence[ColumnElement[Any]] = (),
    is_earlier: IsEarlier,
    then: Sequence[ColumnElement[Any]] = (),
    listed: Sequence[ColumnElement[bool]] = (),
    are_dated: bool = False,
) -> Newest:
    """Find that one of ``rows`` which is of the newest run of the Dag ``dag_id``, which a statement binds.

    :param rows: what runs have; of which run, tells their ``dag_run_id``, if they have that, or else ``run_id``.
    :param where: which of them are meant.
    :param columns: of them.
    :param of_run: columns of ``dag_run``, to have too.
    :param is_earlier: which runs count.
    :param then: in which order the rows of one run are.
    :param listed: those of the conditions that an index of theirs has, if where they are met it has ``run_id`` in order.
    :param are_dated: see :func:`newest_runs`.
    """
    of_runs, date = [dag_run.c.run_id, *of_run], date_of(dag_run)
    its_key, key = (rows.c.dag_run_id, "id") if "dag_run_id" in rows.c else (rows.c.run_id, "run_id")

    def looked_into(runs: Subquery) -> Select[Any]:
        inside = select(*columns).select_from(rows).where(its_key == runs.c[key], *where)
        its_first = inside.order_by(*then).limit(1).lateral("inside")
        found = select(*its_first.c, *(runs.c[column.name] for column in of_run)).select_from(runs.join(its_first, true()))
        return found.order_by(runs.c.when.desc(), runs.c.id.desc())

    def looked_into_newest(most: int) -> Select[Any]:
        return looked_into(newest_runs(is_earlier, columns=of_runs, most=most, are_dated=are_dated))

    def the_run(is_it: ColumnElement[bool]) -> Select[Any]:
        run = select(date.label("when"), dag_run.c.id, *of_runs).where(dag_run.c.dag_id == OF_DAG, is_earlier(date), is_it)
        return run.limit(1)

    if listed:
        entries = select(rows.c.run_id).where(*listed).order_by(rows.c.run_id).limit(FEW + 1).cte("entries")
        places = select(entries.c.run_id).distinct().subquery("places")
        run, are_few = the_run(dag_run.c.run_id == places.c.run_id).lateral("the_run"), _are_few(entries)
        runs = select(run).select_from(places.join(run, true())).order_by(run.c.when.desc(), run.c.id.desc()).subquery("few")
        far = [looked_into(runs).where(are_few), looked_into_newest(UNBOUNDED).where(~are_few)]
    else:
        walked = looked_into_newest(FEW).limit(1).cte("walked")
        run = the_run(its_key == dag_run.c[key]).lateral("the_run")
        rest = select(*columns, *(run.c[column.name] for column in of_run)).select_from(rows.join(run, true())).where(*where)
        in_order = rest.order_by(run.c.when.desc(), run.c.id.desc(), *then)
        are_more = exists(select(newest_runs(is_earlier, most=FEW + 1, are_dated=are_dated).c.id).offset(FEW))
        far = [select(walked), in_order.where(~exists(select(walked)), are_more)]
    return _found(looked_into_newest, NEAR, far, is_earlier, are_dated=are_dated)


def newest_in_state(
    state: Any,
    is_earlier: IsEarlier,
    *,
    columns: Sequence[ColumnElement[Any]],
    of_dag: ColumnElement[str] = OF_DAG,
    are_dated: bool = False,
) -> Newest:
    """Find a Dag's newest run in a state.

    :param is_earlier: which runs count.
    :param columns: of ``dag_run``.
    :param of_dag: the Dag; else a statement binds ``dag_id``.
    :param are_dated: see :func:`newest_runs`.
    """

    def looked_at(most: int) -> Select[Any]:
        its_state = dag_run.c.state.label("its_state")
        runs = newest_runs(is_earlier, columns=[*columns, its_state], of_dag=of_dag, most=most, are_dated=are_dated)
        found = select(*(runs.c[column.name] for column in columns)).where(runs.c.its_state == state)
        return found.order_by(runs.c.when.desc(), runs.c.id.desc())

    # As a range, of which PostgreSQL expects few: of one of two states it expects half, and would rather read all of a Dag.
    is_so = dag_run.c.dag_id == of_dag, dag_run.c.state.between(state, state)
    are_few = _are_few(select(literal(1)).where(*is_so).limit(FEW + 1).subquery())
    date = date_of(dag_run)
    few = select(*columns).where(*is_so, is_earlier(date), are_few).order_by(date.desc(), dag_run.c.id.desc())
    far = [few, looked_at(UNBOUNDED).where(~are_few)]
    return _found(looked_at, WALK, far, is_earlier, of_dag=of_dag, are_dated=are_dated)


def _found(
    looked_at: Callable[[int], Select[Any]],
    near: int,
    far: Sequence[Select[Any]],
    is_earlier: IsEarlier,
    *,
    of_dag: ColumnElement[str] = OF_DAG,
    are_dated: bool,
) -> Newest:
    """Make the statements of what looks at so many of the newest runs and, if more than ``near`` may count, further.

    :param far: what does that; at most one of them finds something.
    """
    of_this, when = dag_run.c.dag_id == of_dag, dag_run.c.logical_date
    more_dated = exists(select(literal(1)).where(of_this, is_earlier(when)).order_by(when.desc()).offset(near))
    undated = exists().where(of_this, when.is_(None))  # of these no index tells which are earlier
    are_more = more_dated if are_dated else more_dated | undated
    always, first = select(literal(1)).subquery("always"), looked_at(near).limit(1)
    found = first.add_columns(true().label("is_found")).subquery("found")
    columns = [found.c[column.name] for column in first.selected_columns]
    told = select(*columns).select_from(always.outerjoin(found, true())).where(found.c.is_found | are_more)
    return Newest(told, union_all(*(select(each.limit(1).subquery()) for each in far)))
