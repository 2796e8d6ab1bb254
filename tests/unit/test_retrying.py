from __future__ import annotations

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app import errors
from app.db.retrying import breaks_connection, classify, translated
from tests.sqlstates import fault, reason, sqlstates


def server_error(sqlstate: str, message: str = "said the server") -> asyncpg.PostgresError:
    error = asyncpg.PostgresError(message)
    error.sqlstate = sqlstate
    return error


KINDS = {
    "request": {code: errors.InvalidValue for code in sqlstates() if fault(code) == "request"}
    | {"23503": errors.MissingReference, "23505": errors.UniqueViolation},
    "ours": dict.fromkeys((code for code in sqlstates() if fault(code) == "ours"), type(None)),
}


@pytest.mark.parametrize("wrapper", [DBAPIError, OperationalError, ProgrammingError, None])
def test_the_code_decides_and_never_the_class(wrapper: type[DBAPIError] | None) -> None:
    for sqlstate in sqlstates():
        cause = server_error(sqlstate)
        error: BaseException = cause if wrapper is None else wrapper("SELECT 1", {"secret": "x"}, cause)
        found = classify(error)
        if fault(sqlstate) == "database":
            assert isinstance(found, errors.RetryableDatabaseError) and found.reason == reason(sqlstate), sqlstate
        else:
            assert type(found) is KINDS[fault(sqlstate)][sqlstate], sqlstate
        assert "secret" not in str(found)


def test_a_code_that_postgresql_does_not_have_yet_is_its_own_affair() -> None:
    assert type(classify(server_error("ZZ999"))) is errors.RetryableDatabaseError
    assert type(classify(server_error("22ZZZ"))) is errors.InvalidValue
    assert type(classify(server_error("57ZZZ"))) is errors.ConnectionLost


def test_defects_stay_defects() -> None:
    with pytest.raises(DBAPIError), translated():
        raise DBAPIError("SELECT", {}, server_error("42601"))


class _MySQLError(Exception):
    __module__ = "asyncmy.errors"


@pytest.mark.parametrize(
    ("errno", "kind"),
    [
        (1213, errors.DeadlockDetected),
        (1205, errors.LockTimeout),
        (2006, errors.ConnectionLost),
        (2013, errors.ConnectionLost),
        (1290, errors.ReadOnlyServer),
        (1406, errors.InvalidValue),
        (1062, errors.UniqueViolation),
        (1021, errors.RetryableDatabaseError),
    ],
)
def test_mysql_codes(errno: int, kind: type) -> None:
    assert type(classify(OperationalError("SELECT", {}, _MySQLError(errno, "said the server")))) is kind
    assert str(classify(_MySQLError(errno, "said the server"))) == f"MySQL error {errno}"
    assert classify(OperationalError("SELECT", {}, _MySQLError(1064, "syntax"))) is None
    assert classify(OperationalError("SELECT", {}, RuntimeError(errno))) is None


VALUES = [
    UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    OverflowError("date value out of range"),
    RecursionError("maximum recursion depth exceeded"),
    asyncpg.DataError("invalid input for query argument $1"),
]


@pytest.mark.parametrize("error", VALUES, ids=lambda error: type(error).__name__)
def test_an_error_that_a_value_causes_refuses_the_value(error: Exception) -> None:
    with pytest.raises(errors.InvalidValue) as raised, translated():
        raise error
    assert raised.value.__cause__ is error
    assert raised.value.status == 422


def test_which_errors_leave_a_connection_of_no_use() -> None:
    """Its siblings most likely share its fate: a pool may ask the same question for them."""
    broken = {sqlstate for sqlstate in sqlstates() if breaks_connection(DBAPIError("", {}, server_error(sqlstate)))}
    assert broken == {s for s in sqlstates() if s.startswith(("08", "57"))} - {"57014"} | {"25006"}
    ended = server_error("25P03")
    ended.severity_en = "FATAL"  # idle_in_transaction_session_timeout: whatever the code, nobody answers any more
    assert breaks_connection(ended)
    assert type(classify(ended)) is errors.ConnectionLost
    assert breaks_connection(ConnectionResetError())
    assert breaks_connection(asyncpg.InterfaceError("another operation is in progress"))
    assert not breaks_connection(RuntimeError())


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
    assert len({kind.reason for kind in kinds}) == len(kinds) == 11
    assert all(kind.delay >= 1 and kind.__doc__ for kind in kinds)
