"""A module of a Dag author's: what it has, and that importing it is seen."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

IMPORTED = True


class Odd:
    """A timetable and a mapper at once."""

    @classmethod
    def deserialize(cls, fields: Mapping[str, Any]) -> Odd:
        return cls()

    def infer_manual_data_interval(self, *, run_after: datetime) -> Any:
        return SimpleNamespace(start=run_after - timedelta(days=1), end=run_after)

    def to_downstream(self, key: str) -> str:
        return key.upper()


class Endless(Odd):
    """One that never answers."""

    def infer_manual_data_interval(self, *, run_after: datetime) -> Any:
        threading.Event().wait()


class Leaving(Odd):
    """One that ends the process that asks it."""

    def infer_manual_data_interval(self, *, run_after: datetime) -> Any:
        raise SystemExit(0)

    def to_downstream(self, key: str) -> str:
        raise SystemExit(0)


def not_a_class() -> None:
    raise AssertionError("it was called")
