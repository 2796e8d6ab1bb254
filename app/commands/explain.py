"""What a database has otherwise than the releases that we know: for who looks at a new one.

The tables are those that our statements name. As PostgreSQL tells of them, they are compared with what a release's
``airflow db migrate`` makes: columns, primary, unique and foreign keys, and checks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from app import releases, settings
from app.commands import checks
from app.commands.counting import number_of
from app.db import tables
from app.db.session import Database
from app.releases import Revision

_TABLE = re.compile(r"CREATE TABLE public\.(\w+) \(\n(.*?)\n\);", re.DOTALL)
_CONSTRAINT = re.compile(r"ALTER TABLE ONLY public\.(\w+)\n    ADD CONSTRAINT \w+ (.*?);")
_COLUMNS = text(
    "SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
    " WHERE c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid) AND a.attnum > 0 AND NOT a.attisdropped"
)
_CONSTRAINTS = text(
    "SELECT c.relname, pg_get_constraintdef(k.oid) FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid"
    " WHERE pg_table_is_visible(c.oid) AND k.contype IN ('p', 'u', 'f', 'c')"
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table's columns by name, and its constraints as PostgreSQL writes them, without their names."""

    columns: frozenset[str]
    constraints: frozenset[str]


async def run(environment: Mapping[str, str]) -> list[str]:
    """Return :func:`differences` of the configured database.

    :raises ConfigurationError: when it cannot be reached, or is no metadata database.
    """
    return await checks.asked(settings.load(environment).database, differences)


async def differences(database: Database) -> list[str]:
    """Return a line for each thing that a database has otherwise than the release that it is most like.

    :raises RetryableDatabaseError: when the database cannot be reached.
    """
    found = await _found(database)
    version = await database.alembic_version()
    compared = {revision.name: list(_between(revision, found)) for revision in releases.REVISIONS}
    of_this = [revision.name for revision in releases.REVISIONS if revision.alembic_version == version]
    nearest = of_this[0] if of_this else min(reversed(compared), key=lambda name: len(compared[name]))
    lines = compared[nearest]
    said = f"metadata revision {version}, compared with Airflow {nearest}"
    return [f"{said}: {number_of(len(lines), 'difference')} in the tables that we use", *lines]


def used(revision: Revision) -> set[str]:
    """Return the names of the tables that our statements on a release's database name."""
    return {*tables.metadata.tables, *revision.storage.schema.metadata.tables}


def known(revision: Revision) -> dict[str, Table]:
    """Return the tables that a release makes."""
    script = (Path(releases.__file__).parent / f"airflow-{revision.name}.sql").read_text()
    constraints: dict[str, set[str]] = {}
    for name, constraint in _CONSTRAINT.findall(script):
        constraints.setdefault(name, set()).add(_plain(constraint))
    made = {}
    for name, body in _TABLE.findall(script):
        lines = [line.strip().removesuffix(",") for line in body.splitlines()]
        checks = {_plain(line.split(" ", 2)[2]) for line in lines if line.startswith("CONSTRAINT ")}
        columns = frozenset(line.split(" ")[0].strip('"') for line in lines if not line.startswith("CONSTRAINT "))
        made[name] = Table(columns, frozenset(checks | constraints.get(name, set())))
    return made


async def _found(database: Database) -> dict[str, Table]:
    async with database.autocommit() as session:
        columns, constraints = [(await session.execute(query)).all() for query in (_COLUMNS, _CONSTRAINTS)]
    of: dict[str, tuple[set[str], set[str]]] = {name: (set(), set()) for name, _ in columns}
    for name, column in columns:
        of[name][0].add(column)
    for name, constraint in constraints:
        if name in of:
            of[name][1].add(_plain(constraint))
    return {name: Table(frozenset(has), frozenset(rules)) for name, (has, rules) in of.items()}


def _between(revision: Revision, found: Mapping[str, Table]) -> Iterator[str]:
    """Yield what a database lacks, and has beyond, of the tables that our statements for a release name."""
    made = known(revision)
    for name in sorted(used(revision) & made.keys()):
        if name not in found:
            yield f"{name}: there is no such table"
            continue
        expected, has = made[name], found[name]
        for lacks, one, other in (("lacks", expected, has), ("has beyond", has, expected)):
            yield from (f"{name}: {lacks} column {column}" for column in sorted(one.columns - other.columns))
            yield from (f"{name}: {lacks} {constraint}" for constraint in sorted(one.constraints - other.constraints))


def _plain(constraint: str) -> str:
    """Return a constraint without what depends on the search path, or on how the table came to be."""
    return constraint.replace("public.", "").removesuffix(" NOT VALID")
