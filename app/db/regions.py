"""Where the task instances of a run are placed that something repeats."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.db.session import Session
from app.db.tables import AnyRow


class Regions:
    """Of a release in whose database a map index is all that tells the instances of a mapped task apart.

    :ivar have_loops: whether there are loops.
    """

    have_loops = False

    def place(self, rows: Sequence[dict[str, Any]]) -> bool:
        """Say whether :meth:`placed` inserts anything for new task instances: their run must be there before."""
        return False

    async def placed(
        self,
        session: Session,
        *,
        rows: Sequence[dict[str, Any]],
        run: Mapping[str, str],
        within: Any = None,
        now: datetime,
    ) -> Sequence[dict[str, Any]]:
        """Return new task instances of one run with the columns that say where they are; what that needs is inserted.

        One that a loop repeats is in each pass that the run has, so there may be more of them than rows; a loop that the run
        does not have begins with its first pass.

        :param rows: their columns, and what repeats each: ``is_mapped``, ``loop``.
        :param run: its ``dag_id`` and ``run_id``.
        :param within: of a loop: in this pass alone; from :meth:`next_pass`.
        :raises LockTimeout: when somebody else places the same tasks right now.
        """
        return rows

    async def next_pass(self, session: Session, *, gate: AnyRow) -> Any:
        """Return the pass after that of a loop's gate, or None if it has begun already.

        :param gate: its task instance, locked; the run is locked too.
        """
        raise NotImplementedError

    async def go_back(self, session: Session, *, rows: Sequence[AnyRow], now: datetime) -> set[uuid.UUID]:
        """Let the loops of a run that is cleared go back to their first passes.

        :param rows: all its task instances, locked; the run is locked too.
        :returns: the ids of those of later passes that are over for good. Those that run are not yet among them.
        """
        return set()

    async def expand_anew(self, session: Session, *, rows: Sequence[AnyRow], now: datetime) -> set[uuid.UUID]:
        """Let the mapped tasks of a run that is cleared be expanded anew, if they were expanded before regions were known.

        :param rows: all its task instances, locked; the run is locked too.
        :returns: the ids of those that are over for good. Those that run are not yet among them.
        """
        return set()

    def may_be_over(self, row: AnyRow) -> bool:
        """Say whether a task instance may be over for good: who asks :meth:`is_over` locks the run first."""
        return False

    async def is_over(self, session: Session, *, row: AnyRow) -> bool:
        """Say whether a task instance is over for good: its loop has gone back, or its task is expanded anew.

        :param row: with its place; the run is locked.
        """
        return False

    async def end(self, session: Session, *, row: AnyRow, values: Mapping[str, Any]) -> bool:
        """End the try of such a task instance, as failed: none follows it.

        :param row: locked to end the try.
        :param values: its columns that say when it ended.
        :returns: whether it was the last that kept its task from being expanded anew.
        """
        raise NotImplementedError
