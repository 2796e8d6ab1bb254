"""One frozen :class:`~app.settings.model.Settings`, read once when the process starts.

Airflow's options keep Airflow's names (:mod:`app.settings.airflow` reads them as Airflow does); what Airflow has no name for
lives in the section ``[execution_api_service]``.
"""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog

from app.errors import FOREIGN, ConfigurationError
from app.settings.airflow import AirflowConfiguration, Option, Options
from app.settings.connect_args import import_connect_args, split_tls
from app.settings.model import (
    DETAIL_LEVEL,
    PROPAGATION,
    RUN_ID_PATTERN,
    DatabaseSettings,
    LogSettings,
    ServerSettings,
    Settings,
    StatsSettings,
    TokenSettings,
    TraceSettings,
)
from app.settings.secrets_backend import load_backend

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

__all__ = [
    "DETAIL_LEVEL",
    "DatabaseSettings",
    "LogSettings",
    "ServerSettings",
    "Settings",
    "StatsSettings",
    "TokenSettings",
    "TraceSettings",
]

log = structlog.get_logger(__name__)

OWN_SECTION = "execution_api_service"

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LOG_FORMATS = ("auto", "json", "text")


def load(environment: Mapping[str, str] | None = None, *, options: Options | None = None) -> Settings:
    """Read the settings of this process.

    :param environment: defaults to ``os.environ``.
    :param options: takes each option that is read, and where it came from; also if the configuration is wrong.
    :raises ConfigurationError: naming the first setting that is missing or wrong, and what was expected.
    """
    environment = os.environ if environment is None else environment
    backend, kwargs = _secrets_backend(AirflowConfiguration(environment, options=options), environment)
    conf = _configuration(environment, options)
    settings = Settings(
        database=_database(conf, lambda: _database_url(_configuration(environment))[0]),
        tokens=_tokens(conf),
        server=_server(conf),
        log=LogSettings(
            level=conf.choice("logging", "logging_level", "INFO", LOG_LEVELS),
            form=conf.choice(OWN_SECTION, "log_format", "auto", LOG_FORMATS),
        ),
        traces=_traces(conf),
        stats=_stats(conf),
        fernet_keys=conf.strings("core", "fernet_key"),
        secrets_backend=backend,
        secrets_backend_kwargs=kwargs,
        multi_team=conf.boolean("core", "multi_team", False),
        max_map_length=conf.integer("core", "max_map_length", 1024),
        regexp_timeout=conf.seconds("api", "regexp_query_timeout", 0.0),
        rendered_fields_runs=conf.integer("core", "num_dag_runs_to_retain_rendered_fields", 30),
        task_scope=conf.choice(OWN_SECTION, "task_scope", "airflow", ("airflow", "own")),
        clear_state_on_success=conf.boolean("state_store", "clear_on_success", False),
        heartbeat_write_interval=_heartbeat_write_interval(conf),
        heartbeat_timeout=_heartbeat_timeout(conf),
        run_id_pattern=conf.pattern("scheduler", "allowed_run_id_pattern", RUN_ID_PATTERN),
        max_downstream_keys=conf.integer("scheduler", "partition_mapper_max_downstream_keys", 1000),
        rerun_with_latest_version=conf.boolean("core", "rerun_with_latest_version", False),
        double_dots_in_run_ids=conf.boolean("core", "allow_double_dot_in_ids", False),
        sensitive_names=conf.strings("core", "sensitive_var_conn_names"),
        trusted_classes=conf.strings(OWN_SECTION, "trusted_classes"),
        hide_sensitive_names=conf.boolean("core", "hide_sensitive_var_conn_fields", True),
    )
    _refuse_unknown(conf)
    return settings


def load_tokens(environment: Mapping[str, str] | None = None) -> TokenSettings:
    """Read what tokens are signed with, and nothing else; see :func:`load`."""
    return _tokens(_configuration(os.environ if environment is None else environment))


def load_server(environment: Mapping[str, str] | None = None) -> ServerSettings:
    """Read where and how it listens, and nothing else; see :func:`load`."""
    return _server(_configuration(os.environ if environment is None else environment))


def _configuration(environment: Mapping[str, str], options: Options | None = None) -> AirflowConfiguration:
    """Return Airflow's options, those too that a custom secrets backend holds."""

    def from_backend(reference: str) -> str | None:
        backend, kwargs = _secrets_backend(AirflowConfiguration(environment), environment)
        if not backend:
            raise ConfigurationError(f"a _SECRET setting refers to {reference!r}, but [secrets] backend is not set")
        loaded = load_backend(backend, kwargs)
        try:
            value: str | None = loaded.get_config(reference)
        except FOREIGN as error:
            failed = f"[secrets] backend {backend!r} failed at {reference!r}, which a _SECRET setting refers to"
            raise ConfigurationError(f"{failed} ({type(error).__name__})") from None
        return value

    return AirflowConfiguration(environment, secret=from_backend, options=options)


def _refuse_unknown(conf: AirflowConfiguration) -> None:
    """Refuse what is set in our own section and nobody has read: it is misspelt, and would have no effect."""
    known = [key for section, key in conf.options if section == OWN_SECTION]
    for key, where in conf.unread_in(OWN_SECTION):
        near = get_close_matches(key, known, 1)
        meant = f": did you mean {near[0]}?" if near else f": expected one of {', '.join(sorted(known))}"
        raise ConfigurationError(f"[{OWN_SECTION}] has no option {key!r} ({where}){meant}")


def _heartbeat_timeout(conf: AirflowConfiguration) -> float:
    return conf.seconds("scheduler", "task_instance_heartbeat_timeout", 300.0)


def _heartbeat_write_interval(conf: AirflowConfiguration) -> float:
    """Read for how long a heartbeat may go unrecorded: too long, and the scheduler would take a living task for dead."""
    interval = conf.seconds(OWN_SECTION, "heartbeat_write_interval", 0.0)
    timeout = _heartbeat_timeout(conf)
    if interval > timeout / 10:
        raise ConfigurationError(
            f"[{OWN_SECTION}] heartbeat_write_interval is {interval:g} s: expected a tenth at most of [scheduler]"
            f" task_instance_heartbeat_timeout, which is {timeout:g} s, or the scheduler ends tasks that live"
        )
    return interval


def _database_url(conf: AirflowConfiguration) -> tuple[URL, ssl.SSLContext | None]:
    """Return the database's URL with the driver's arguments that belong to it, and the TLS context among them."""
    from app.settings.database_url import async_url  # and SQLAlchemy: who asks for no database does not wait for them

    name = "sql_alchemy_conn_async" if conf.get("database", "sql_alchemy_conn_async") else "sql_alchemy_conn"
    text = conf.get("database", name).strip()  # what a command prints ends with a newline
    if not text:
        raise ConfigurationError(
            "[database] sql_alchemy_conn is not set: expected the URL of Airflow's metadata database,"
            " such as postgresql://user:password@host/airflow (AIRFLOW__DATABASE__SQL_ALCHEMY_CONN);"
            f" {conf.path} {'was read too' if conf.is_there else 'is not there'}"
        )
    args = name.replace("_conn", "_connect_args")
    given, tls = split_tls(import_connect_args(conf.get("database", args), setting=f"[database] {args}", home=conf.home))
    setting = f"[database] {name}" + (f" with {args}" if given else "")
    return async_url(text, setting=setting, given=given), tls


def _database(conf: AirflowConfiguration, ask: Callable[[], URL]) -> DatabaseSettings:
    own = OWN_SECTION
    if conf.get(own, "pool_timeout"):
        log.warning(
            "a setting has no effect any more: a request waits as long as its client does",
            setting=f"[{own}] pool_timeout",
        )
    url, tls = _database_url(conf)
    return DatabaseSettings(
        url=url,
        tls=tls,
        pool_size=conf.integer(own, "pool_size", 10, minimum=1),
        pool_recycle=conf.integer("database", "sql_alchemy_pool_recycle", 1800, minimum=-1),
        lock_timeout=conf.seconds(own, "lock_timeout", 1.5, minimum=0.001),
        statement_timeout=conf.seconds(own, "statement_timeout", 3.0, minimum=0.001),
        pgbouncer=conf.boolean(own, "pgbouncer", False),
        schema=conf.get("database", "sql_alchemy_schema").strip(),
        preview_releases=conf.strings(own, "preview_releases"),
        ask=ask,
    )


def _tokens(conf: AirflowConfiguration) -> TokenSettings:
    jwks_url = conf.get("api_auth", "trusted_jwks_url") or None
    key_path = conf.get("api_auth", "jwt_private_key_path") or None
    secret = conf.get("api_auth", "jwt_secret") or None
    if not (secret or key_path):
        raise ConfigurationError(
            "no key to verify and renew task tokens with: expected [api_auth] jwt_secret (AIRFLOW__API_AUTH__JWT_SECRET,"
            " the same value as Airflow's scheduler) or [api_auth] jwt_private_key_path"
        )
    algorithms = tuple(a for a in conf.strings("api_auth", "jwt_algorithm") if a != "GUESS")
    return TokenSettings(
        secret=None if key_path else secret,
        private_key=_read_file(key_path, "[api_auth] jwt_private_key_path", "a PEM private key") if key_path else None,
        algorithms=algorithms,
        key_id=conf.get("api_auth", "jwt_kid") or None,
        trusted_jwks_url=jwks_url,
        issuers=conf.strings("api_auth", "jwt_issuer"),
        audiences=conf.strings("execution_api", "jwt_audience", "urn:airflow.apache.org:task"),
        leeway=conf.seconds("api_auth", "jwt_leeway", 10.0),
        valid_for=conf.integer("execution_api", "jwt_expiration_time", 600, minimum=1),
    )


def _server(conf: AirflowConfiguration) -> ServerSettings:
    certificate, key = conf.get("api", "ssl_cert"), conf.get("api", "ssl_key")
    if bool(certificate) != bool(key):
        raise ConfigurationError("[api] ssl_cert and [api] ssl_key belong together: set both, or neither")
    for path, name in ((certificate, "ssl_cert"), (key, "ssl_key")):
        if path:
            _read_file(path, f"[api] {name}", "a PEM file")
    largest = conf.integer(OWN_SECTION, "max_body_bytes", 64 * 1024 * 1024, minimum=1)
    together = max(2 * largest, 128 * 1024 * 1024)
    return ServerSettings(
        host=conf.get("api", "host", "0.0.0.0"),
        port=conf.integer(OWN_SECTION, "port", conf.integer("api", "port", 9091, minimum=1), minimum=1),
        workers=conf.integer("api", "workers", 1, minimum=1),
        ssl_cert=Path(certificate) if certificate else None,
        ssl_key=Path(key) if key else None,
        metrics_port=conf.integer(OWN_SECTION, "metrics_port", 0) or None,
        documents=conf.boolean(OWN_SECTION, "documents", True),
        root_path=urlsplit(conf.get("api", "base_url")).path.rstrip("/"),
        keep_alive_seconds=conf.seconds(OWN_SECTION, "keep_alive_seconds", 75.0, minimum=1.0),
        drain_seconds=conf.seconds(OWN_SECTION, "drain_seconds", 10.0),
        access_log=conf.boolean(OWN_SECTION, "access_log", True),
        access_log_share=conf.share(OWN_SECTION, "access_log_share", 1.0),
        access_log_heartbeats=conf.boolean(OWN_SECTION, "access_log_heartbeats", True),
        max_body_bytes=largest,
        max_held_body_bytes=conf.integer(OWN_SECTION, "max_held_body_bytes", together, minimum=largest),
    )


def _stats(conf: AirflowConfiguration) -> StatsSettings:
    section = "metrics"
    is_datadog, is_statsd = (conf.boolean(section, name, False) for name in ("statsd_datadog_enabled", "statsd_on"))

    def patterns(name: str, default: str = "") -> tuple[re.Pattern[str], ...]:
        try:
            return tuple(re.compile(part.lower()) for part in conf.strings(section, name, default))
        except re.error as error:
            raise ConfigurationError(f"[{section}] {name} must be regular expressions ({error.msg})") from None

    return StatsSettings(
        client="datadog" if is_datadog else "statsd" if is_statsd else "",
        host=conf.get(section, "statsd_host", "localhost").strip(),
        port=conf.integer(section, "statsd_port", 8125),
        prefix=conf.get(section, "statsd_prefix", "airflow").strip(),
        ipv6=conf.boolean(section, "statsd_ipv6", False),
        legacy_names=conf.boolean(section, "legacy_names_on", True),
        influxdb=conf.boolean(section, "statsd_influxdb_enabled", False),
        allowed=patterns("metrics_allow_list"),
        blocked=patterns("metrics_block_list"),
        disabled_tags=patterns("statsd_disabled_tags", "job_id,run_id"),
        datadog_tags=conf.strings(section, "statsd_datadog_tags"),
        datadog_metrics_tags=conf.boolean(section, "statsd_datadog_metrics_tags", True),
        name_handler=conf.get(section, "stat_name_handler").strip(),
        custom_client=conf.get(section, "statsd_custom_client_path").strip(),
        otel=conf.boolean(section, "otel_on", False),
    )


def _traces(conf: AirflowConfiguration) -> TraceSettings:
    host, port = conf.get("traces", "otel_host").strip(), conf.get("traces", "otel_port").strip()
    scheme = "https" if conf.boolean("traces", "otel_ssl_active", False) else "http"
    return TraceSettings(
        on=conf.boolean("traces", "otel_on", False),
        propagation=conf.choice("execution_api", "otel_trace_propagation", PROPAGATION[0], PROPAGATION),
        endpoint=f"{scheme}://{host}:{port}/v1/traces" if host and port else None,
        service=conf.get("traces", "otel_service").strip() or None,
    )


def _secrets_backend(conf: AirflowConfiguration, environment: Mapping[str, str]) -> tuple[str | None, Mapping[str, Any]]:
    """Return the custom secrets backend's class path and arguments, single arguments from the environment included."""
    class_path = conf.get("secrets", "backend") or None
    text = conf.get("secrets", "backend_kwargs")
    try:
        kwargs = json.loads(text) if text else {}
    except ValueError:
        kwargs = None
    if not isinstance(kwargs, dict):
        raise ConfigurationError("[secrets] backend_kwargs must be a JSON object")
    prefix = "AIRFLOW__SECRETS__BACKEND_KWARG__"
    for name, value in environment.items():
        if name.startswith(prefix):
            key = name.removeprefix(prefix).lower()
            kwargs[key] = value
            conf.options["secrets", f"backend_kwarg {key}"] = Option(
                "secrets", f"backend_kwarg {key}", value, "environment", name
            )
    return class_path, kwargs


def _read_file(path: str, setting: str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{setting} names {path!r}, which cannot be read ({error.strerror}): expected {what}"
        ) from error
