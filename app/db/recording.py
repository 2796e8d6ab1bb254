"""A transition in one statement: the task instance, if it is as it was seen, its audit row, and what goes with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import CTE, ColumnElement, Executable, Text, Update, bindparam, cast, literal, literal_column, select

from app.db.audit import AuditLog

THIS_VERSION = cast(literal_column("task_instance.xmin"), Text)  # which transaction wrote this version of the row


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """A part of such a statement; made once, since statements are kept by their parts.

    :param writes: makes what it writes of the changed row; without that row it must write nothing.
    :param sets: columns of the task instance that it sets itself.
    """

    writes: Callable[[CTE], Sequence[CTE]]
    sets: Mapping[str, ColumnElement[Any]] = field(default_factory=dict)


class Along(NamedTuple):
    """What goes along with one transition: a part of its statement, with the parameters of that."""

    part: Part
    parameters: Mapping[str, Any]


def recording(change: Update, parts: Sequence[Part], audit: AuditLog | None) -> Executable:
    """Return the statement that makes a change if the row still is the ``version`` that was seen, and returns a row then.

    All of it sees the tables as they were before.

    :param change: of one task instance.
    :param audit: where it is logged, if it is.
    """
    for part in parts:
        change = change.values(dict(part.sets)) if part.sets else change
    names = change.table.c.id, change.table.c.trigger_id
    changed = change.where(bindparam("version") == THIS_VERSION).returning(*names).cte("changed")
    along = [cte for part in parts for cte in part.writes(changed)]
    if audit is None:
        return select(changed.c.id).add_cte(*along)
    return audit.copied(changed).add_cte(*along).returning(literal(1))
