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
from typing import TypeVar

import asyncpg
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app import errors, metrics

_Result = TypeVar("_Result")

PAUSE = (0.01, 0.05)  # seconds: as long as a scheduler's or another success' rows stay locked; spread, to meet once

RETRYABLE_BY_SQLSTATE: dict[str, type[errors.RetryableDatabaseError]] = {
    "40P01": errors.DeadlockDetected,
    "40001": errors.SerializationFailure,
    "55P03": errors.LockTimeout,
    "57014": errors.StatementTimeout,
    "57P01": errors.ConnectionLost,  # admin_shutdown: pg_terminate_backend, server stop
    "57P02": errors.ConnectionLost,  # crash_shutdown
    "57P03": errors.ConnectionLost,  # cannot_connect_now: starting up or shutting down
    "53300": errors.TooManyConnections,
}
RETRYABLE_BY_ERRNO: dict[int, type[errors.RetryableDatabaseError]] = {
    1213: errors.DeadlockDetected,
    1205: errors.LockTimeout,
    1969: errors.StatementTimeout,  # MariaDB's max_statement_time
    3024: errors.StatementTimeout,  # MySQL's max_execution_time
    1040: errors.TooManyConnections,
    1053: errors.ConnectionLost,  # server shutdown in progress
    1927: errors.ConnectionLost,  # MariaDB: connection was killed
    2003: errors.ConnectionLost,  # cannot connect
    2006: errors.ConnectionLost,  # server has gone away
    2013: errors.ConnectionLost,  # lost connection during query
}
DRIVER_ERRORS = (
    DBAPIError,
    AsyncAdapt_asyncpg_dbapi.Error,  # SQLAlchemy's between the two, from its pool
    PoolTimeout,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
MYSQL_DRIVERS = {"pymysql", "asyncmy", "aiomysql"}  # top-level modules of their errors
CONNECTION_CLASS = "08"  # SQLSTATE class 08: connection exceptions
DATA_CLASS = "22"  # SQLSTATE class 22: data exceptions
REJECTED_BY_SQLSTATE: dict[str, type[errors.RejectedByDatabase]] = {
    "23502": errors.InvalidValue,  # not_null_violation
    "23503": errors.MissingReference,  # foreign_key_violation
    "23505": errors.UniqueViolation,
    "23514": errors.InvalidValue,  # check_violation
}


def classify(error: BaseException) -> errors.ExecutionApiError | None:
    """Return our error for a driver's, or None when it is a defect (programming errors and the like).

    :param error: what SQLAlchemy, the driver or the network raised; its ``__cause__`` chain is looked at too.
    """
    if isinstance(error, PoolTimeout):
        return errors.PoolExhausted("no database connection became free in time")
    for cause in _causes(error):
        if (found := _by_code(cause)) is not None:
            return found
    return None


def breaks_connection(error: BaseException) -> bool:
    """Say whether a connection is of no use any more after this error, whatever the driver still holds it for."""
    driver_is_lost = isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError | OSError)
    return driver_is_lost or isinstance(classify(error), errors.ConnectionLost)


@contextmanager
def translated() -> Iterator[None]:
    """Raise our own errors for the driver's, with the driver's as ``__cause__``."""
    try:
        yield
    except DRIVER_ERRORS as error:
        if (ours := classify(error)) is None:
            raise
        raise ours from error


async def coming_back(attempt: Callable[[], Awaitable[_Result]], *, within: float) -> _Result:
    """Repeat a transaction that met a lock while it held its own row: between two attempts it holds nothing.

    :param within: seconds after which it gives up.
    :raises LockTimeout: when the lock is still held then; nothing was written.
    """
    deadline = time.monotonic() + within
    while True:
        try:
            return await attempt()
        except errors.LockTimeout as error:
            if time.monotonic() > deadline:
                raise
            metrics.REPEATED.labels(error.reason).inc()
        await asyncio.sleep(random.uniform(*PAUSE))


def _by_code(error: BaseException) -> errors.ExecutionApiError | None:
    if type(error).__module__.partition(".")[0] in MYSQL_DRIVERS:
        # By errno alone: their SQLSTATE, where a driver tells it, is 40001 for a deadlock and HY000 for most others.
        errno = next((argument for argument in error.args if isinstance(argument, int)), None)
        kind = None if errno is None else RETRYABLE_BY_ERRNO.get(errno)
        return None if kind is None else kind(f"MySQL error {errno}")
    sqlstate = getattr(error, "sqlstate", None)
    if isinstance(sqlstate, str):
        if kind := RETRYABLE_BY_SQLSTATE.get(sqlstate):
            return kind(_summary(error))
        if sqlstate.startswith(CONNECTION_CLASS):
            return errors.ConnectionLost(_summary(error))
        if rejected := REJECTED_BY_SQLSTATE.get(sqlstate):
            return rejected(_summary(error))
        if sqlstate.startswith(DATA_CLASS):
            return errors.InvalidValue(_summary(error))
        return None
    if isinstance(error, asyncpg.DataError):  # raised by the driver itself while it encodes an argument
        return errors.InvalidValue("a value does not fit its column")
    if isinstance(error, asyncpg.InterfaceError) and "connection" in str(error):  # "connection is closed" and its like
        return errors.ConnectionLost("the connection to the database was lost")
    if isinstance(error, asyncpg.InternalClientError):  # the server's last word came in, and its end has not yet
        return errors.ConnectionLost("the connection to the database was lost")
    if isinstance(error, OSError):  # refused, reset, timed out, host not found
        return errors.ConnectionLost("the database cannot be reached")
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, its driver's error and their causes, outermost first."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = getattr(current, "orig", None) or current.__cause__


def _summary(error: BaseException) -> str:
    """Return the server's primary message, without the statement and its parameters, which may hold secrets."""
    for cause in _causes(error):
        if isinstance(cause, asyncpg.PostgresError):
            return str(cause.args[0]) if cause.args else type(cause).__name__
    return type(error).__name__
