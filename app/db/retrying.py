"""Driver errors become ours here, by SQLSTATE or MySQL errno and never by exception class.

SQLAlchemy's classes do not tell: under asyncpg a deadlock is a plain ``DBAPIError``, under psycopg an
``OperationalError``. The codes are PostgreSQL's (Appendix A of its manual) and MySQL's (server error reference).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app import errors
from app.server import metrics

_Result = TypeVar("_Result")

PAUSE = (0.01, 0.05)  # seconds: as long as a scheduler's or another success' rows stay locked; spread, to meet once
CROWD = 10  # who pause at once without pausing longer: at 30 ms each, they ask 330 times a second; an answer takes 0.3 ms

# A code's own entry decides, else that of its class (the first two characters), else that of no code: whatever is not the
# request's own fault is the database's condition, in which nothing was written and another try is right. A healthy task must
# not be failed for it. None is a defect of ours.
BY_SQLSTATE: dict[str, type[errors.RetryableDatabaseError | errors.RejectedByDatabase] | None] = {
    "": errors.RetryableDatabaseError,
    "08": errors.ConnectionLost,
    "22": errors.InvalidValue,
    "23": errors.InvalidValue,
    "23503": errors.MissingReference,  # foreign_key_violation
    "23505": errors.UniqueViolation,
    "25006": errors.ReadOnlyServer,  # read_only_sql_transaction: a standby, or a primary that became one
    "40001": errors.SerializationFailure,
    "40P01": errors.DeadlockDetected,
    "42": None,
    "42501": errors.RetryableDatabaseError,  # insufficient_privilege: a grant is missing
    "42P05": errors.RetryableDatabaseError,  # duplicate_prepared_statement: a pooler stands between that we were not told of
    # What a statement that is right on its own revision hears in a database that is being migrated to another one:
    "42P01": errors.RetryableDatabaseError,  # undefined_table
    "42703": errors.RetryableDatabaseError,  # undefined_column
    "42704": errors.RetryableDatabaseError,  # undefined_object
    "42804": errors.RetryableDatabaseError,  # datatype_mismatch
    "42883": errors.RetryableDatabaseError,  # undefined_function, of which operators are some
    "53300": errors.TooManyConnections,
    "55P03": errors.LockTimeout,
    "57": errors.ConnectionLost,  # operator intervention: ended, crashed, starting up, dropped, idle for too long
    "57014": errors.StatementTimeout,
}
BY_ERRNO: dict[int | None, type[errors.RetryableDatabaseError | errors.RejectedByDatabase] | None] = {
    None: errors.RetryableDatabaseError,  # those that have no entry
    0: errors.ConnectionLost,  # the driver's own, of a connection that it closed
    1040: errors.TooManyConnections,
    1048: errors.InvalidValue,  # column cannot be null
    1053: errors.ConnectionLost,  # server shutdown in progress
    1062: errors.UniqueViolation,
    1064: None,  # syntax
    1149: None,  # syntax
    1205: errors.LockTimeout,
    1213: errors.DeadlockDetected,
    1216: errors.MissingReference,
    1217: errors.MissingReference,
    1264: errors.InvalidValue,  # out of range
    1290: errors.ReadOnlyServer,
    1292: errors.InvalidValue,  # truncated value
    1366: errors.InvalidValue,  # incorrect value, such as a character that the column's set lacks
    1406: errors.InvalidValue,  # too long
    1451: errors.MissingReference,
    1452: errors.MissingReference,
    1836: errors.ReadOnlyServer,
    1927: errors.ConnectionLost,  # MariaDB: connection was killed
    1969: errors.StatementTimeout,  # MariaDB's max_statement_time
    2003: errors.ConnectionLost,  # cannot connect
    2006: errors.ConnectionLost,  # server has gone away
    2013: errors.ConnectionLost,  # lost connection during query
    3024: errors.StatementTimeout,  # MySQL's max_execution_time
    3140: errors.InvalidValue,  # not JSON
    3819: errors.InvalidValue,  # MySQL: check constraint
    4025: errors.InvalidValue,  # MariaDB: check constraint
}
MYSQL_DRIVERS = {"pymysql", "asyncmy", "aiomysql"}  # top-level modules of their errors
DRIVER_ERRORS = (
    DBAPIError,
    AsyncAdapt_asyncpg_dbapi.Error,  # SQLAlchemy's between the two, from its pool
    PoolTimeout,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
# What Python raises for a value while it reckons with it or encodes it: a lone surrogate, a date after the year 9999, JSON
# that is nested too deep. No other cause is known to our code.
VALUE_ERRORS = (UnicodeError, OverflowError, RecursionError)
TRANSLATED = (*DRIVER_ERRORS, *VALUE_ERRORS)
ENDS_SESSION = {"FATAL", "PANIC"}  # severities after which the server closes the connection, whatever the code says


def classify(error: BaseException) -> errors.ExecutionApiError | None:
    """Return our error for a driver's, or None when it is a defect (a statement that is wrong in itself, and the like).

    :param error: what SQLAlchemy, the driver, the network or a value raised; its ``__cause__`` chain is looked at too.
    """
    if isinstance(error, PoolTimeout):
        return errors.PoolExhausted("no database connection became free in time")
    kinds = (_kind(cause) for cause in _causes(error))
    kind = next((kind for kind in kinds if kind is not None), None)
    return None if kind is None else kind(_summary(error))


def breaks_connection(error: BaseException) -> bool:
    """Say whether a connection is of no use any more after this error, whatever the driver still holds it for.

    It was lost, the server ends it, or it leads to a server that does not write. What happened to one of a pool's
    connections has most likely happened to the others.
    """
    if isinstance(error, errors.ConnectionLost | asyncpg.InterfaceError | asyncpg.InternalClientError | OSError):
        return True
    return any(_ends_session(cause) for cause in _causes(error)) or isinstance(classify(error), errors.ConnectionLost)


@contextmanager
def translated() -> Iterator[None]:
    """Raise our own errors for the driver's and for those of values, with the first error as ``__cause__``."""
    try:
        yield
    except Exception as error:  # which of them are the driver's is asked there
        raise_ours(error)
        raise


def raise_ours(error: BaseException) -> None:
    """Raise our own error for one of the driver's or of a value; return for any other."""
    if isinstance(error, TRANSLATED) and (ours := classify(error)) is not None:
        try:
            raise ours from error
        finally:
            del ours  # else it refers to itself, by this frame; and to what the request held, until garbage is collected


class ComingBack:
    """Units of work that met a lock come back: between two attempts one holds neither a lock nor a connection.

    So rows that somebody holds keep nobody else waiting, and nothing of ours can be part of a deadlock. Each pauses for as
    long as a row usually stays locked; the more of them do, the longer each does: together they ask no more often than
    :data:`CROWD` of them would, whoever came first.

    ``away`` is how many pause now.

    :param within: seconds after which one gives up.
    """

    def __init__(self, within: float) -> None:
        self._within = within
        self.away = 0
        self.when_given_up: Callable[[errors.LockTimeout], None] = lambda _: None  # returns at once

    async def __call__(self, work: Callable[..., Awaitable[_Result]], **arguments: Any) -> _Result:
        """Do a unit of work: what may be done again from its beginning, as often as it meets a lock.

        :raises LockTimeout: when the lock is still held in the end; nothing was written.
        """
        deadline = 0.0  # within what is allowed from the first lock on: nothing waits for one
        while True:
            try:
                return await work(**arguments)
            except errors.LockTimeout as error:
                deadline = deadline or time.monotonic() + self._within
                left = deadline - time.monotonic()
                if left <= 0:
                    self.when_given_up(error)
                    raise
                metrics.REPEATED.labels(error.reason).inc()
            self.away += 1
            try:
                await asyncio.sleep(min(left, random.uniform(*PAUSE) * max(1, self.away / CROWD)))
            finally:
                self.away -= 1


def _kind(error: BaseException) -> type[errors.RetryableDatabaseError | errors.RejectedByDatabase] | None:
    """Return what one error of a chain becomes, or None when it does not tell."""
    if _is_of_mysql(error):
        return BY_ERRNO.get(_errno(error), BY_ERRNO[None])
    if isinstance(sqlstate := getattr(error, "sqlstate", None), str):
        found = BY_SQLSTATE.get(sqlstate, BY_SQLSTATE.get(sqlstate[:2], BY_SQLSTATE[""]))
        return errors.ConnectionLost if found is BY_SQLSTATE[""] and _ends_session(error) else found
    if isinstance(error, VALUE_ERRORS):
        return errors.InvalidValue
    if isinstance(error, asyncpg.InterfaceError):  # "connection is closed" and its like; the others are misuse of the driver
        return errors.ConnectionLost if "connection" in str(error) else None
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return errors.ReadOnlyServer
    if isinstance(error, asyncpg.InternalClientError | OSError):  # its last word came and its end has not yet; unreachable
        return errors.ConnectionLost
    return None


def _is_of_mysql(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in MYSQL_DRIVERS


def _errno(error: BaseException) -> int | None:
    """Return a MySQL driver's number: their SQLSTATE, where one tells it, is HY000 for most of them."""
    return next((argument for argument in error.args if isinstance(argument, int)), None)


def _ends_session(error: BaseException) -> bool:
    return getattr(error, "severity_en", None) in ENDS_SESSION


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, its driver's error and their causes, outermost first."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = getattr(current, "orig", None) or current.__cause__


def _summary(error: BaseException) -> str:
    """Say what happened; of the server's words the primary message: the statement and its parameters may hold secrets."""
    for cause in _causes(error):
        if isinstance(cause, asyncpg.PostgresError) and cause.args:
            return str(cause.args[0])
        if _is_of_mysql(cause):
            return f"MySQL error {_errno(cause)}"
        if isinstance(cause, VALUE_ERRORS):
            return f"a value cannot be stored: {_WHY.get(type(cause), 'it holds text that is no Unicode')}"
        if isinstance(cause, OSError):
            return "the database cannot be reached"
    return "the connection to the database was lost"


_WHY = {OverflowError: "a number or date is out of range", RecursionError: "it is nested too deep"}
