"""Statements of SQLAlchemy Core, compiled once and sent by asyncpg itself.

For what workers ask all the time. A session of SQLAlchemy's costs several times what such a statement does: its connection,
transaction and result objects, and a greenlet for each await. Statements stay Core expressions: only what lies between them
and the driver is left out.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import asyncpg
from sqlalchemy import BindParameter, Dialect, Executable, TextClause
from sqlalchemy.sql.compiler import SQLCompiler

from app.db.pool import Pool, Pooled, is_ended_unasked
from app.errors import InvalidValue
from app.server import metrics

Compiler = Callable[[Executable, tuple[str, ...]], "Compiled"]
TABLE = re.compile(r'\b(?:FROM|UPDATE|INTO) (?:ONLY )?"?(?:\w+"?\."?)?(\w+)')  # without the schema before it
STATEMENTS = 500  # compiled statements that are kept; the code base has far fewer


class DirectRow(asyncpg.Record):  # type: ignore[misc]  # asyncpg has no types
    """A result row whose columns are read by name, as SQLAlchemy's are."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def _fields(self) -> tuple[str, ...]:
        return tuple(self.keys())


class DirectRows:
    """The rows of a result, with the part of SQLAlchemy's interface that we use."""

    __slots__ = ("_rows",)

    def __init__(self, rows: Sequence[Any]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def all(self) -> Sequence[Any]:
        return self._rows

    def one_or_none(self) -> Any:
        assert len(self._rows) < 2, "at most one row was expected"
        return self._rows[0] if self._rows else None

    def one(self) -> Any:
        (row,) = self._rows
        return row


class Compiled:
    """A statement as PostgreSQL is sent it.

    :param statement: a Core expression; what is the same on every execution belongs into it, all else is a ``bindparam``.
    :param names: of the parameters that it will be executed with.
    """

    __slots__ = ("_bound", "_compiled", "_expands", "_sql", "seconds")

    def __init__(self, statement: Executable, names: Sequence[str], dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=names)  # type: ignore[attr-defined]  # every clause has it
        assert isinstance(compiled, SQLCompiler)
        self._compiled = compiled
        self.seconds = metrics.STATEMENT.labels(_described(compiled))
        values: Mapping[str, Any] = compiled.construct_params(_check=False)
        self._expands = any(each.key in names for each in compiled.post_compile_params)  # IN: a bind for each given value
        self._sql, of_lists = compiled.string, dict[str, Any]()
        in_place: Sequence[str] = compiled.positiontup or ()
        if compiled.post_compile_params and not self._expands:  # its lists are its own
            expanded = compiled.construct_expanded_state(dict.fromkeys(names))
            self._sql, in_place = expanded.statement, expanded.positiontup or ()
            values, of_lists = expanded.parameters, dict(expanded.processors)
        self._bound = [
            (name, values[name], _processor(compiled.binds[name], dialect) if name in compiled.binds else of_lists.get(name))
            for name in in_place
        ]

    def with_arguments(self, parameters: Mapping[str, Any]) -> tuple[str, Sequence[Any]]:
        """Return the SQL and its positional arguments for these parameters.

        :raises InvalidValue: when a value has no form in its column's type, as an infinity has none in JSON.
        """
        try:
            if self._expands:
                expanded = self._compiled.construct_expanded_state(dict(parameters))
                given = [(expanded.parameters[name], expanded.processors.get(name)) for name in expanded.positiontup or ()]
                return expanded.statement, [value if processor is None else processor(value) for value, processor in given]
            arguments = []
            for name, default, processor in self._bound:
                value = parameters.get(name, default)
                arguments.append(value if processor is None else processor(value))
            return self._sql, arguments
        except ValueError as error:
            raise InvalidValue(f"a value cannot be stored: {error}") from error


class DirectSession:
    """Executes statements on one connection; see :class:`app.db.session.Database` for when they are committed.

    A connection that the server ended while nobody used it may be found dead by the first statement only. That one was not
    executed, and is sent once more on another connection if there is time: nobody needs to hear of it.

    :param until: when to give up waiting for another connection, by the event loop's clock.
    """

    __slots__ = ("_compiled", "_is_first", "_pool", "_pooled", "_until", "took")

    def __init__(self, pool: Pool, pooled: Pooled, compiled: Compiler, *, until: float) -> None:
        self._pool = pool
        self._pooled = pooled
        self._compiled = compiled
        self._until = until
        self._is_first = True
        self.took = 0.0  # seconds, of the last statement

    async def execute(self, statement: Executable, params: Any = None) -> DirectRows:
        """Execute one statement.

        :param params: by the names of its ``bindparam``s; a list of them, all of the same names, executes it for each.
        """
        return DirectRows(await self._rows(statement, params))

    async def scalar(self, statement: Executable, params: Any = None) -> Any:
        """Return the first column of the first row, or None."""
        rows = await self._rows(statement, params)
        return rows[0][0] if rows else None

    async def scalars(self, statement: Executable, params: Any = None) -> list[Any]:
        """Return the first column of every row."""
        return [row[0] for row in await self._rows(statement, params)]

    async def _rows(self, statement: Executable, params: Any) -> Sequence[Any]:
        if isinstance(params, list):
            return await self._each(statement, params)
        compiled = self._compiled(statement, tuple(params or ()))
        sql, arguments = compiled.with_arguments(params or {})
        try:
            rows: Sequence[Any] = await self._sent(asyncpg.Connection.fetch, sql, *arguments, record_class=DirectRow)
        finally:
            compiled.seconds.observe(self.took)
        return rows

    async def _each(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
        if rows:
            compiled = self._compiled(statement, tuple(rows[0]))
            sqls, arguments = zip(*(compiled.with_arguments(row) for row in rows), strict=True)
            await self.send(sqls[0], arguments)
        return ()

    async def send(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Send one statement with the arguments of many rows, all of which are written or none."""
        await self._sent(asyncpg.Connection.executemany, sql, rows)

    async def control(self, command: str) -> None:
        """Send a command that controls the transaction."""
        await self._sent(asyncpg.Connection.execute, command)

    async def _sent(self, send: Callable[..., Awaitable[Any]], *arguments: Any, **named: Any) -> Any:
        pooled = self._pooled
        pooled.asked = asked = time.perf_counter()
        try:
            return await send(pooled.connection, *arguments, **named)
        except (asyncpg.PostgresError, asyncpg.InternalClientError) as error:
            is_in_time = asyncio.get_running_loop().time() + self._pool.longest_statement < self._until
            if not (self._is_first and is_in_time and is_ended_unasked(error)):
                raise
        finally:
            pooled.asked, self._is_first = None, False
            self.took = time.perf_counter() - asked
        await self._pool.renew(pooled, until=self._until)
        return await self._sent(send, *arguments, **named)

    @property
    def is_open(self) -> bool:
        """Whether the connection can still be used."""
        return not self._pooled.connection.is_closed()

    @property
    def is_in_transaction(self) -> bool:
        """Whether a transaction is open on the connection."""
        return bool(self._pooled.connection.is_in_transaction())


class CompilingSession:
    """Compiles the statements that it is told to execute and sends none, as if they found no rows: whoever executes them
    finds them made.
    """

    def __init__(self, compiled: Compiler) -> None:
        self._compiled = compiled

    async def execute(self, statement: Executable, params: Any = None) -> DirectRows:
        """Compile one statement, and let others have a turn: it takes some 2 ms."""
        self._compiled(statement, tuple(params or ()))
        await asyncio.sleep(0)
        return DirectRows(())

    async def scalar(self, statement: Executable, params: Any = None) -> None:
        """Compile one statement."""
        await self.execute(statement, params)

    async def scalars(self, statement: Executable, params: Any = None) -> Sequence[Any]:
        """Compile one statement."""
        return (await self.execute(statement, params)).all()


def _processor(bound: BindParameter[Any], dialect: Dialect) -> Callable[[Any], Any] | None:
    return bound.type.dialect_impl(dialect).bind_processor(dialect)


def _described(compiled: SQLCompiler) -> str:
    """Return what a statement does to which table first: as many as there are in the code, whatever is asked."""
    does = "insert" if compiled.isinsert else "update" if compiled.isupdate else "delete" if compiled.isdelete else "select"
    table = TABLE.search(compiled.string)
    return f"{does} {table[1]}" if table else does


def compiler(dialect: Dialect) -> Compiler:
    """Return what compiles statements, each once.

    One that is executed without parameters, and is no plain text, was made for its call, and has its values in it, as what
    looks for the holders of a lock has: it is not kept, nor are they.
    """

    @lru_cache(maxsize=STATEMENTS)
    def kept(statement: Executable, names: tuple[str, ...]) -> Compiled:
        return Compiled(statement, names, dialect)

    def compiled(statement: Executable, names: tuple[str, ...]) -> Compiled:
        is_made_once = names or isinstance(statement, TextClause)
        return kept(statement, names) if is_made_once else Compiled(statement, names, dialect)

    return compiled
