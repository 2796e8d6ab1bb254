"""How many of something there are, as people say it."""

from __future__ import annotations


def number_of(count: float, what: str) -> str:
    """Return a number and what it counts, which has an s for all but one: ``1 Dag``, ``1,204 Dags``."""
    return f"{count:,.15g} {what}{'' if count == 1 else 's'}"
