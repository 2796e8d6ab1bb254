from __future__ import annotations

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app import errors
from app.db.retrying import RETRYABLE_BY_SQLSTATE, classify, translated


def server_error(sqlstate: str, message: str = "said the server") -> asyncpg.PostgresError:
    error = asyncpg.PostgresError(message)
    error.sqlstate = sqlstate
    return error


CODES = [
    *RETRYABLE_BY_SQLSTATE.items(),
    ("08006", errors.ConnectionLost),
    ("08001", errors.ConnectionLost),
    ("22001", errors.InvalidValue),
    ("22P05", errors.InvalidValue),
    ("23502", errors.InvalidValue),
    ("23503", errors.MissingReference),
    ("23505", errors.UniqueViolation),
    ("23514", errors.InvalidValue),
]


@pytest.mark.parametrize(("sqlstate", "kind"), CODES)
@pytest.mark.parametrize("wrapper", [DBAPIError, OperationalError, ProgrammingError, None])
def test_the_code_decides_and_never_the_class(sqlstate: str, kind: type, wrapper: type[DBAPIError] | None) -> None:
    cause = server_error(sqlstate)
    error: BaseException = cause if wrapper is None else wrapper("SELECT 1", {"secret": "x"}, cause)
    assert type(classify(error)) is kind
    assert "secret" not in str(classify(error))


@pytest.mark.parametrize("sqlstate", ["42601", "42P01", "42703", "XX000", "0A000", "25P02", "28P01"])
def test_defects_stay_defects(sqlstate: str) -> None:
    assert classify(DBAPIError("SELECT", {}, server_error(sqlstate))) is None
    with pytest.raises(DBAPIError), translated():
        raise DBAPIError("SELECT", {}, server_error(sqlstate))


class _MySQLError(Exception):
    __module__ = "asyncmy.errors"


@pytest.mark.parametrize(
    ("errno", "kind"),
    [
        (1213, errors.DeadlockDetected),
        (1205, errors.LockTimeout),
        (2006, errors.ConnectionLost),
        (2013, errors.ConnectionLost),
    ],
)
def test_mysql_codes(errno: int, kind: type) -> None:
    assert type(classify(OperationalError("SELECT", {}, _MySQLError(errno, "said the server")))) is kind
    assert classify(OperationalError("SELECT", {}, _MySQLError(1064, "syntax"))) is None
    assert classify(OperationalError("SELECT", {}, RuntimeError(errno))) is None


def test_the_pool_and_the_network() -> None:
    assert type(classify(PoolTimeout("no connection"))) is errors.PoolExhausted
    assert type(classify(ConnectionRefusedError(111, "refused"))) is errors.ConnectionLost
    assert type(classify(OSError("host not found"))) is errors.ConnectionLost
    assert type(classify(asyncpg.InterfaceError("connection is closed"))) is errors.ConnectionLost


def test_the_drivers_error_stays_as_the_cause() -> None:
    cause = DBAPIError("SELECT", {}, server_error("40P01"))
    with pytest.raises(errors.DeadlockDetected) as raised, translated():
        raise cause
    assert raised.value.__cause__ is cause


def test_every_retryable_error_says_when_to_come_back() -> None:
    kinds = errors.RetryableDatabaseError.__subclasses__()
    assert len({kind.reason for kind in kinds}) == len(kinds) == 8
    assert all(kind.delay >= 1 and kind.__doc__ for kind in kinds)
