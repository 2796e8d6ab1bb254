"""The newest runs of a Dag, and the newest of what its runs have, without reading all runs that it ever had.

Runs are ordered by :func:`~app.db.tables.date_of`, and no index of Airflow's has that. Those with a logical date are found
where an index ends. Those without one are in no order there: of them, all that the Dag has are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    FromClause,
    Select,
    Subquery,
    bindparam,
    exists,
    func,
    select,
    true,
    union_all,
)

from app.db.tables import dag_run, date_of

NEAR = 20  # runs that are looked into, at four to eleven pages each
WALK = 100  # runs that are looked at, of which a page has several
FEW = 500  # runs of a Dag, at a page each
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
) -> Subquery:
    """Select a Dag's newest runs, newest first: the ``id`` of each, and ``when`` it is.

    :param is_earlier: which runs count; what it says of the date finds where to begin.
    :param where: further conditions on ``dag_run``.
    :param columns: of ``dag_run``, to have too.
    :param of_dag: the Dag; else a statement binds ``dag_id``.
    :param most: how many.
    """
    kinds = []
    for when, is_so in (
        (dag_run.c.logical_date, dag_run.c.logical_date.is_not(None)),
        (date_of(dag_run), dag_run.c.logical_date.is_(None)),  # an index has run_after alone, of the runs of all Dags
    ):
        kind = select(when.label("when"), dag_run.c.id, *columns).where(dag_run.c.dag_id == of_dag, is_so)
        kind = kind.where(is_earlier(when), *where).order_by(when.desc(), dag_run.c.id.desc()).limit(most)
        kinds.append(select(kind.subquery()))
    runs = union_all(*kinds).subquery("runs")
    return select(runs).order_by(runs.c.when.desc(), runs.c.id.desc()).limit(most).subquery("newest")


def newest_to_start(most: ColumnElement[int]) -> Subquery:
    """Select the newest runs of the Dag ``dag_id``, which a statement binds, by when they could start: by ``run_after``.

    No index has that of one Dag's runs. So they are looked for among all that a Dag has, if those are few; else among the
    newest of all Dags, which an index has; and where a Dag of many runs has not run lately, among all of its own.

    :param most: how many; in no order.
    """
    columns = [dag_run.c[name] for name in ("dag_id", "run_id", "run_after", "id")]
    of_dag = select(*columns).where(dag_run.c.dag_id == OF_DAG)
    few = of_dag.limit(FEW + 1).cte()
    are_few = select(func.count()).select_from(few).scalar_subquery() <= FEW
    recent = select(*columns).order_by(dag_run.c.run_after.desc(), dag_run.c.id.desc()).limit(RECENT).subquery("recent")
    near = _newest_of(select(recent).where(recent.c.dag_id == OF_DAG, ~are_few), most).cte()
    is_enough = select(func.count()).select_from(near).scalar_subquery() >= most
    own = of_dag.offset(0).subquery("own")  # not by the index of all runs
    found = (
        _newest_of(select(few).where(are_few), most),
        select(near).where(is_enough),
        _newest_of(select(own).where(~are_few, ~is_enough), most),
    )
    return union_all(*(select(each.subquery()) for each in found)).subquery("newest")


def _newest_of(runs: Select[Any], most: ColumnElement[int]) -> Select[Any]:
    when, pk = (runs.selected_columns[name] for name in ("run_after", "id"))
    return runs.order_by(when.desc(), pk.desc()).limit(most)


def newest(
    rows: FromClause,
    *where: ColumnElement[bool],
    nearby: Sequence[ColumnElement[bool]] = (),
    elsewhere: Sequence[ColumnElement[bool]] = (),
    columns: Sequence[ColumnElement[Any]],
    by: tuple[str, str],
    of_run: Sequence[ColumnElement[Any]] = (),
    is_earlier: IsEarlier,
    then: Sequence[ColumnElement[Any]] = (),
) -> CompoundSelect[Any]:
    """Select that one of ``rows`` which is of the newest run of the Dag ``dag_id``, which a statement binds.

    It is in one of the newest runs, or hardly anywhere. So these are looked into, one after the other; and if it is in none
    of them, and there are more, ``rows`` are looked through, and the run of each is asked for. To go on looking into runs
    would be to look into all that a Dag ever had, if there is no such row.

    :param where: which rows are meant.
    :param nearby: conditions too, where it is known of which run.
    :param elsewhere: the same where it is not, so written that they choose no index.
    :param columns: of them.
    :param by: the column of theirs, and that of ``dag_run``, ``id`` or ``run_id``, that tell of which run they are.
    :param of_run: columns of ``dag_run``, to have too.
    :param is_earlier: which runs count.
    :param then: in which order the rows of one run are.
    """
    runs = newest_runs(is_earlier, columns=[dag_run.c.run_id, *of_run])
    inside = (
        select(*columns)
        .select_from(rows)
        .where(rows.c[by[0]] == runs.c[by[1]], *where, *nearby)
        .order_by(*then)
        .limit(1)
        .lateral("inside")
    )
    near = select(*inside.c, *(runs.c[column.name] for column in of_run)).select_from(runs.join(inside, true()))
    date = date_of(dag_run)
    its_run = (
        select(date.label("when"), dag_run.c.id, *of_run)
        .where(dag_run.c.dag_id == OF_DAG, rows.c[by[0]] == dag_run.c[by[1]], is_earlier(date))
        .limit(1)
        .lateral("its_run")
    )
    are_more = exists(select(newest_runs(is_earlier).c.id).offset(NEAR - 1))
    far = select(*columns, *(its_run.c[column.name] for column in of_run)).select_from(rows.join(its_run, true()))
    return _or_else(
        near.order_by(runs.c.when.desc(), runs.c.id.desc()),
        far.where(*where, *elsewhere).order_by(its_run.c.when.desc(), its_run.c.id.desc(), *then),
        are_more,
    )


def newest_in_state(
    state: Any,
    is_earlier: IsEarlier,
    *,
    columns: Sequence[ColumnElement[Any]],
    of_dag: ColumnElement[str] = OF_DAG,
) -> CompoundSelect[Any]:
    """Select a Dag's newest run in a state: one of the newest of all, or if they are in others, of all in this one.

    :param is_earlier: which runs count.
    :param columns: of ``dag_run``.
    :param of_dag: the Dag; else a statement binds ``dag_id``.
    """
    runs = newest_runs(is_earlier, columns=[*columns, dag_run.c.state.label("its_state")], of_dag=of_dag, most=WALK)
    near = select(*(runs.c[column.name] for column in columns)).where(runs.c.its_state == state)
    date = date_of(dag_run)
    far = select(*columns).where(dag_run.c.dag_id == of_dag, dag_run.c.state == state, is_earlier(date))
    return _or_else(near.order_by(runs.c.when.desc(), runs.c.id.desc()), far.order_by(date.desc(), dag_run.c.id.desc()))


def _or_else(near: Select[Any], far: Select[Any], *where: ColumnElement[bool]) -> CompoundSelect[Any]:
    """Select the first row of one, or if it has none, of the other, which is begun only then.

    :param where: when it is begun, too; asked in this order.
    """
    found = near.limit(1).cte("near")
    return union_all(select(found), select(far.where(~exists(select(found)), *where).limit(1).subquery("far")))
