"""Every error of this service, and the one place that says what each becomes over HTTP.

::

    ExecutionApiError
    ├── ConfigurationError            the process ends with exit code 2 and this one sentence
    ├── RefusedRequest                a 4xx that is known before a handler runs: tokens, malformed requests
    ├── UnknownInDag                  a Dag's text names what cannot be told or asked here: 400, or 422 of a success
    ├── RejectedByDatabase            a value or reference that the database does not take: 4xx, nothing written
    │   ├── InvalidValue              422
    │   ├── MissingReference          404
    │   └── UniqueViolation           409
    └── RetryableDatabaseError        503 with Retry-After; nothing was written, asking again is right
        ├── DeadlockDetected
        ├── SerializationFailure
        ├── LockTimeout
        ├── StatementTimeout
        ├── ConnectionLost
        │   └── ReadOnlyServer
        ├── TooManyConnections
        ├── UnknownRevision           of the metadata database, which is being migrated
        ├── PoolExhausted
        ├── KeySetUnavailable         of what the operator configured: it cannot be read
        ├── SecretsBackendTimeout     of what the operator configured: it has not answered in time
        └── ServerBusy                of this process: it holds, or computes, as much as it can

A refusal that a handler expects (the task runs elsewhere, there is no such XCom) is no error: it returns a
:class:`app.tasks.transitions.Refuse`.
"""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

# What code raises that is not ours: that it calls sys.exit is no order to end this process.
FOREIGN = (Exception, SystemExit)


def invalid_value(message: str, *where: str) -> list[dict[str, Any]]:
    """Return the ``detail`` of a 422 in the form that FastAPI's validation has and the documents promise.

    :param where: the place of the value in the request, from the outside in; none when it is not known.
    """
    return [{"type": "invalid_value", "loc": where, "msg": message}]


class ExecutionApiError(Exception):
    """Something went wrong in the execution API."""


class ConfigurationError(ExecutionApiError):
    """The configuration cannot serve; the message names the setting and what was expected."""


class RefusedRequest(ExecutionApiError):
    """The request is refused before any handler runs.

    :param status: the HTTP status, 4xx.
    :param detail: the ``detail`` of the answer's body.
    """

    def __init__(self, status: int, detail: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class UnknownInDag(ExecutionApiError):
    """A serialized Dag names what cannot be told or asked here: a class, a time zone; the message says which."""


class RejectedByDatabase(ExecutionApiError):
    """The database does not take a value of this request; the transaction was rolled back."""

    status: ClassVar[int] = 422
    reason: ClassVar[str] = "rejected_by_database"

    @property
    def detail(self) -> Any:
        """The body's ``detail``: what the database said of the value, in one sentence."""
        return {"reason": self.reason, "message": str(self)}


class InvalidValue(RejectedByDatabase):
    """A value is too long, out of range, or not representable in its column."""

    reason = "invalid_value"

    @property
    def detail(self) -> list[dict[str, Any]]:
        """The body's ``detail``, as for values that are refused before the database sees them."""
        return invalid_value(str(self))


class MissingReference(RejectedByDatabase):
    """A row that the request refers to does not exist."""

    status = 404
    reason = "not_found"

    @property
    def detail(self) -> dict[str, str]:
        """The body's ``detail``; the database names only its constraint, which tells a caller nothing."""
        return {"reason": self.reason, "message": "The task instance or Dag run that this refers to does not exist"}


class UniqueViolation(RejectedByDatabase):
    """A row with this key exists already."""

    status = 409
    reason = "already_exists"


class RetryableDatabaseError(ExecutionApiError):
    """The database could not do it now; nothing was written, and the same request may succeed later.

    Itself, it stands for every condition of the database that has no class of its own: a full disk, a lack of memory, a
    schema that is being migrated. The driver's own error is the ``__cause__``. ``delay`` is the shortest wait that makes a
    second try worthwhile, in seconds; the middleware adds jitter, so that victims of one collision do not meet again.
    """

    reason: ClassVar[str] = "database_unavailable"
    delay: ClassVar[int] = 1


class DeadlockDetected(RetryableDatabaseError):
    """PostgreSQL ended this transaction to resolve a deadlock."""

    reason = "deadlock"


class SerializationFailure(RetryableDatabaseError):
    """The transaction could not be serialized against a concurrent one."""

    reason = "serialization_failure"


class LockTimeout(RetryableDatabaseError):
    """A row stayed locked by another transaction for longer than the lock timeout.

    :param ti_id: the task instance whose row it is, where no error of PostgreSQL's tells the row.
    """

    reason = "lock_timeout"

    def __init__(self, message: str = "", *, ti_id: UUID | None = None) -> None:
        super().__init__(message)
        self.ti_id = ti_id


class StatementTimeout(RetryableDatabaseError):
    """A statement ran for longer than the statement timeout."""

    reason = "statement_timeout"
    delay = 2  # a database this slow needs relief, not the next statement


class ConnectionLost(RetryableDatabaseError):
    """The connection to the database was refused or lost."""

    reason = "connection_lost"
    delay = 2  # a restart or failover takes seconds


class ReadOnlyServer(ConnectionLost):
    """The server at the other end of the connection does not write: a standby, or a primary that became one."""

    reason = "read_only"


class TooManyConnections(RetryableDatabaseError):
    """The database has no connection slot left."""

    reason = "too_many_connections"
    delay = 2  # others must close theirs first


class UnknownRevision(RetryableDatabaseError):
    """The metadata database is being migrated, or is at a revision that this service does not know."""

    reason = "unknown_revision"
    delay = 2  # a migration takes seconds


class PoolExhausted(RetryableDatabaseError):
    """No connection of this worker process became free in time, or could be expected to."""

    reason = "pool_exhausted"


class SecretsBackendTimeout(RetryableDatabaseError):
    """The custom secrets backend did not answer in time; the database was not asked."""

    reason = "secrets_backend_timeout"


class KeySetUnavailable(RetryableDatabaseError):
    """The trusted key set could not be read, so nobody knows whether a token's key is in it; the database was not asked."""

    reason = "key_set_unavailable"


class ServerBusy(RetryableDatabaseError):
    """This worker process is asked for more than it can answer in time; the database was not asked."""

    reason = "server_busy"
