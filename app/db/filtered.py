"""Statements with conditions of which each execution has some."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Select, any_, bindparam


class Filtered:
    """A statement and what may be asked of its rows: made once for each combination that is asked for.

    :param statement: without these conditions.
    :param conditions: by the name of what each binds.
    """

    def __init__(self, statement: Select[Any], **conditions: ColumnElement[bool]) -> None:
        self._conditions = conditions
        self._made = {frozenset[str](): statement}

    def by(self, **filters: Any) -> tuple[Select[Any], dict[str, Any]]:
        """Return the statement with the conditions for which there is a value, and its parameters.

        :param filters: by name; empty ones, as None and lists without an element, do not filter.
        """
        given = {name: value for name, value in filters.items() if value is not None and value != []}
        names = frozenset(given)
        if names not in self._made:
            wanted = (condition for name, condition in self._conditions.items() if name in names)
            self._made[names] = self._made[frozenset()].where(*wanted)
        return self._made[names], given


def one_of(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """Match rows whose column has one of the values of a list: one parameter, however many they are."""
    return column == any_(bindparam(name, type_=ARRAY(column.type, dimensions=1)))
