"""``execution-api serve``: worker processes beside an Airflow."""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import socket
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import structlog
import uvicorn

from app import settings
from app.commands import checks
from app.errors import ConfigurationError
from app.main import create_app
from app.server import extras, listening, logs, metrics
from app.server.draining import UNDER_WAY, DrainingServer, Readiness, serve
from app.server.workers import Parent, Workers
from app.settings import ServerSettings

log = structlog.get_logger(__name__)

OPTIONS = ("host", "port", "workers", "ssl_cert", "ssl_key", "root_path")  # of the command line that win over the settings
BACKLOG = 65_535  # connections that wait to be accepted: all the kernel lets; who finds no room tries again a second later


def run(options: argparse.Namespace) -> int:
    """Serve until told to end.

    :raises ConfigurationError: before anything listens.
    """
    loaded = settings.load()
    logs.configure(loaded.log.level, loaded.log.form)
    server = overridden(loaded.server, options)
    create_app(loaded)  # what is wrong with the rest of the configuration is told here, once; and the workers share it all
    asyncio.run(checks.require_database(loaded.database))
    if server.metrics_port == server.port and not options.uds:  # both sockets could be bound, as neither listens yet
        raise ConfigurationError(
            f"[execution_api_service] metrics_port is {server.port}, the port of all else: expected another"
        )
    with ExitStack() as until_the_end:
        sockets = _bound(server, options, until_the_end)
        for warning in extras.missing(loaded):
            log.warning(warning)
        raise_file_limit()
        metrics.forget(os.getpid())  # it serves nothing itself
        workers = Workers(
            server.workers,
            sockets,
            partial(_work, options, sockets),
            loop_factory=uvicorn.Config("", loop="uvloop", log_config=None).get_loop_factory() or asyncio.new_event_loop,
            drain_seconds=server.drain_seconds,
        )
        return workers.run()


def _bound(server: ServerSettings, options: argparse.Namespace, until_the_end: ExitStack) -> list[socket.socket]:
    """Return what all workers accept from; where it cannot be, the option is blamed that said so."""
    host_option = "--host" if options.host else "[api] host"
    port_option = "--port" if options.port else "--port or [execution_api_service] port"
    if options.uds:
        sockets = [until_the_end.enter_context(listening.on_path(options.uds))]
    else:
        sockets = listening.on_port(server.host, server.port, host_option=host_option, port_option=port_option)
    if server.metrics_port:
        port_option = "[execution_api_service] metrics_port"
        sockets += listening.on_port(server.host, server.metrics_port, host_option=host_option, port_option=port_option)
    return sockets


async def _work(options: argparse.Namespace, sockets: list[socket.socket], parent: Parent) -> None:
    """Be a worker: read the settings, certificates too, as they are now, and serve."""
    loaded = settings.load()
    logs.configure(loaded.log.level, loaded.log.form)
    configured = overridden(loaded.server, options)
    readiness = Readiness()
    application = create_app(replace(loaded, server=configured), readiness=readiness)
    config = uvicorn.Config(
        application, ssl_certfile=configured.ssl_cert, ssl_keyfile=configured.ssl_key, **uvicorn_options(configured)
    )
    server = DrainingServer(config, readiness=readiness, drain_seconds=configured.drain_seconds, started=parent.is_ready)
    parent.obeyed_by(server)
    await serve(application, server, sockets)


def overridden(server: ServerSettings, options: argparse.Namespace) -> ServerSettings:
    """Return the server settings with what the command line says.

    :raises ConfigurationError: when a certificate is without its key, or cannot be used.
    """
    given = {n: v for n in OPTIONS if (v := getattr(options, n)) is not None}
    server = replace(server, **given)
    if bool(server.ssl_cert) != bool(server.ssl_key):
        raise ConfigurationError("--ssl-cert and --ssl-key belong together: give both, or neither")
    if server.ssl_cert and server.ssl_key:
        certificate, key = checks.CERTIFICATE_OPTIONS
        said = ("--ssl-cert" if options.ssl_cert else certificate, "--ssl-key" if options.ssl_key else key)
        checks.require_certificate(server.ssl_cert, server.ssl_key, options=said)
    return server


def raise_file_limit() -> None:
    """Let a process open as many files as it may: each connection is one, and the usual limit is 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # of a system that calls unlimited what it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def uvicorn_options(server: ServerSettings) -> dict[str, Any]:
    """Return what every server of ours is told."""
    return {
        "log_config": None,  # see app.server.logs
        "log_level": "warning",
        "access_log": False,  # ours is structured, see app.server.middleware
        "server_header": False,
        "backlog": BACKLOG,
        "timeout_keep_alive": server.keep_alive_seconds,
        "timeout_graceful_shutdown": UNDER_WAY,
        "loop": "uvloop",
        "http": "app.server.protocol:Protocol",
        "ws": "none",
        "lifespan": "off",  # app.server.draining.serve runs it
    }
