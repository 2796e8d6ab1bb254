"""Where the task instances of a run are placed that something repeats."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from app.db.session import Session


class Regions:
    """Of a release in whose database a map index is all that tells the instances of a mapped task apart."""

    async def placed(self, session: Session, *, rows: Sequence[dict[str, Any]], now: datetime) -> Sequence[dict[str, Any]]:
        """Return new task instances of one run with the columns that say where they are; what that needs is inserted.

        :param rows: their columns, and ``is_mapped``.
        """
        return rows
