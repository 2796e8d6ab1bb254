"""A transition in one statement: the task instance, if it is as it was seen, its audit row, and what goes with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import CTE, ColumnElement, Executable, Text, Update, bindparam, cast, literal_column, select

from app.db.audit import AuditLog

THIS_VERSION = cast(literal_column("task_instance.xmin"), Text)  # which transaction wrote this version of the row


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """A part of such a statement; made once, since statements are kept by their parts.

    :param writes: makes what it writes of the changed row; without that row it must write nothing.
    :param sets: columns of the task instance that it sets itself.
    :param leaves: whether the last of what it writes says, as ``left``, how many rows it left since somebody holds them.
    """

    writes: Callable[[CTE], Sequence[CTE]]
    sets: Mapping[str, ColumnElement[Any]] = field(default_factory=dict)
    leaves: bool = False


class Along(NamedTuple):
    """What goes along with one transition: a part of its statement, with the parameters of that."""

    part: Part
    parameters: Mapping[str, Any]


def recording(change: Update, parts: Sequence[Part], audit: AuditLog | None) -> Executable:
    """Return the statement that makes a change if the row still is the ``version`` that was seen.

    It returns a row then, with how many others it left. All of it sees the tables as they were before.

    :param change: of one task instance.
    :param audit: where it is logged, if it is.
    """
    for part in parts:
        change = change.values(dict(part.sets)) if part.sets else change
    names = change.table.c.id, change.table.c.trigger_id
    changed = change.where(bindparam("version") == THIS_VERSION).returning(*names).cte("changed")
    along = list[CTE]()
    left: ColumnElement[int] = literal_column("0")
    for part in parts:
        along += part.writes(changed)
        left = select(along[-1].c.left).scalar_subquery() if part.leaves else left
    if audit is not None:
        along.append(audit.copied(changed).cte("noted"))
    return select(left).select_from(changed).add_cte(*along)
