"""What the service is told: each part that has settings, and :class:`Settings` with all of them."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

HIGHEST_PORT = 65_535
PROPAGATION = ("only-authenticated", "unsafe-always", "never")
DETAIL_LEVEL = "airflow/task_span_detail_level"  # a key of a run's conf, and of the tracestate of its tasks
RUN_ID_PATTERN = r"^[A-Za-z0-9_.~:+-]+$"  # Airflow's default of [scheduler] allowed_run_id_pattern


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """How to reach the metadata database.

    :param url: the SQLAlchemy URL, driver ``asyncpg``.
    :param pool_size: connections kept open per worker process; the pool never overflows.
    :param pool_recycle: seconds after which a connection is replaced; -1 for never.
    :param lock_timeout: seconds for which a request comes back to a lock that somebody holds; below the client's 5 s with
        room for an answer.
    :param statement_timeout: seconds a statement may run, its lock waits included.
    :param pgbouncer: whether a PgBouncer in transaction mode stands between: no prepared statements and no start-up
        parameters, the timeouts are set inside each transaction instead.
    :param schema: the PostgreSQL schema of the tables; empty for the role's own search path.
    :param preview_releases: the Airflow releases, such as ``3.4``, whose databases are served though not all of it is done.
    :param tls: what TLS is spoken with, where the operator made it himself; else the URL says it.
    :param ask: reads the URL again from where it came, which may block: a password or a token in it may be rotated.
        It raises ConfigurationError when there is none.
    """

    url: URL
    pool_size: int = 10
    pool_recycle: int = 1800
    lock_timeout: float = 1.5
    statement_timeout: float = 3.0
    pgbouncer: bool = False
    schema: str = ""
    preview_releases: tuple[str, ...] = ()
    tls: ssl.SSLContext | None = field(default=None, repr=False, compare=False)
    ask: Callable[[], URL] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """How task tokens are verified and signed; the ``[api_auth]`` and ``[execution_api]`` options of the same names."""

    secret: str | None = field(default=None, repr=False)
    private_key: bytes | None = field(default=None, repr=False)
    algorithms: tuple[str, ...] = ()
    key_id: str | None = None
    trusted_jwks_url: str | None = None
    issuers: tuple[str, ...] = ()
    audiences: tuple[str, ...] = ("urn:airflow.apache.org:task",)
    leeway: float = 10.0
    valid_for: int = 600


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where and how to listen and tell: ``[api] host, port, workers, ssl_cert, ssl_key``, or what ``serve`` was told.

    :param metrics_port: where ``/metrics`` is answered, and nowhere else; None for :attr:`port`.
    :param root_path: the path below which a proxy puts us, without a slash at its end; the path of ``[api] base_url``.
    :param keep_alive_seconds: for which a connection is kept that nothing is asked on.
    :param drain_seconds: for which requests are served after a request to stop, while balancers turn to other instances.
    :param access_log_share: of requests without an error that have a line in the log, from 0 to 1.
    :param access_log_heartbeats: whether heartbeats are among them.
    :param max_body_bytes: of an XCom; other bodies with users' data have a quarter of it.
    :param max_held_body_bytes: of all bodies that a worker process holds at once; the next is answered 503.
    """

    host: str = "0.0.0.0"  # Airflow's default for its own server
    port: int = 9091
    workers: int = 1
    ssl_cert: Path | None = None
    ssl_key: Path | None = None
    metrics_port: int | None = None
    documents: bool = True
    root_path: str = ""
    # The Task SDK keeps its connection and asks every 5 s. A server that closes idle connections after 5 s (uvicorn's
    # default) races with the next heartbeat; 75 s is longer than any usual pause and than common load balancers' 60 s.
    keep_alive_seconds: float = 75.0
    drain_seconds: float = 10.0
    access_log: bool = True
    access_log_share: float = 1.0
    access_log_heartbeats: bool = True
    max_body_bytes: int = 64 * 1024 * 1024  # 64 MiB: XComs of tens of MB exist; PostgreSQL's jsonb ends at 255 MiB
    max_held_body_bytes: int = 128 * 1024 * 1024  # two of the largest; a body takes about four times its size meanwhile


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is logged: ``[logging] logging_level`` and our own ``log_format`` (``auto``, ``json`` or ``text``)."""

    level: str = "INFO"
    form: str = "auto"


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """What becomes of traces: ``[traces]``, and ``[execution_api] otel_trace_propagation``.

    :param on: whether spans are made and sent.
    :param propagation: from which requests a trace goes on here; one of :data:`PROPAGATION`.
    :param endpoint: where they are sent if no ``OTEL_*`` variable says so.
    :param service: the name that they are sent with, likewise.
    """

    on: bool = False
    propagation: str = PROPAGATION[0]
    endpoint: str | None = None
    service: str | None = None


@dataclass(frozen=True, slots=True)
class StatsSettings:
    """Where counts are sent, and which: ``[metrics]``.

    :param client: ``statsd``, ``datadog``, or empty for nowhere.
    :param allowed: what a name must match one of; empty for every name but the ``blocked`` ones.
    :param disabled_tags: what no tag may match.
    :param name_handler: class path of a function that takes a name and returns what is sent.
    :param custom_client: class path of a client to be used instead of the library's.
    :param otel: whether Airflow's components send theirs by OpenTelemetry, which is not done here.
    """

    client: str = ""
    host: str = "localhost"
    port: int = 8125
    prefix: str = "airflow"
    ipv6: bool = False
    legacy_names: bool = True
    influxdb: bool = False
    allowed: tuple[re.Pattern[str], ...] = ()
    blocked: tuple[re.Pattern[str], ...] = ()
    disabled_tags: tuple[re.Pattern[str], ...] = ()
    datadog_tags: tuple[str, ...] = ()
    datadog_metrics_tags: bool = True
    name_handler: str = ""
    custom_client: str = ""
    otel: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the service is told, read once at start-up.

    :param trusted_classes: prefixes of the class paths that may be imported because a serialized Dag names them.
    :param task_scope: ``own`` narrows what a task's token opens beside its own task instance; ``airflow`` does not.
    :param regexp_timeout: seconds that a search by regular expression may take; 0 refuses them.
    :param heartbeat_write_interval: seconds after a recorded heartbeat in which others are verified only; 0 records each.
    :param heartbeat_timeout: seconds without a heartbeat after which the scheduler takes a task for dead.
    """

    database: DatabaseSettings
    tokens: TokenSettings
    server: ServerSettings = ServerSettings()
    log: LogSettings = LogSettings()
    traces: TraceSettings = TraceSettings()
    stats: StatsSettings = StatsSettings()
    fernet_keys: tuple[str, ...] = field(default=(), repr=False)
    secrets_backend: str | None = None
    secrets_backend_kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    multi_team: bool = False
    max_map_length: int = 1024
    regexp_timeout: float = 0.0
    rendered_fields_runs: int = 30
    clear_state_on_success: bool = False
    task_scope: str = "airflow"
    heartbeat_write_interval: float = 0.0
    heartbeat_timeout: float = 300.0
    run_id_pattern: str = RUN_ID_PATTERN
    max_downstream_keys: int = 1000
    rerun_with_latest_version: bool = False
    double_dots_in_run_ids: bool = False
    sensitive_names: tuple[str, ...] = ()
    trusted_classes: tuple[str, ...] = ()
    hide_sensitive_names: bool = True
