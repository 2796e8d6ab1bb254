"""The commands that a person types: ``execution-api serve | dev | check | token``."""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn

from app import __version__, settings
from app.commands import checks, development
from app.errors import ConfigurationError, ExecutionApiError
from app.server import logs
from app.server.auth import SCOPES, Tokens
from app.settings import ServerSettings

BACKLOG = 65_535  # connections that wait to be accepted: all the kernel lets; who finds no room tries again a second later
# The Task SDK keeps its connection and asks every 5 s. A server that closes idle connections after 5 s (uvicorn's
# default) races with the next heartbeat; 75 s is longer than any usual pause and than common load balancers' 60 s.
KEEP_ALIVE = 75
GRACEFUL_SHUTDOWN = 10  # seconds for requests under way; twice what a client waits for its answer
NOT_READY, MISCONFIGURED = 1, 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; a configuration that cannot serve ends it with one sentence and exit code 2."""
    options = _parser().parse_args(arguments)
    try:
        sys.exit(options.run(options))
    except ConfigurationError as error:
        print(f"execution-api: {error}", file=sys.stderr)
        sys.exit(MISCONFIGURED)
    except KeyboardInterrupt:
        sys.exit(130)  # as shells have it for a command that Ctrl-C ended


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="execution-api", description="A Task Execution API for Apache Airflow.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve beside an Airflow, with Airflow's own settings")
    serve.add_argument("--host", help="address to listen on ([api] host)")
    serve.add_argument("--port", type=int, help="port to listen on ([execution_api_service] port, [api] port, 9091)")
    serve.add_argument("--workers", type=int, help="worker processes ([api] workers)")
    serve.add_argument("--ssl-cert", type=Path, help="TLS certificate, PEM ([api] ssl_cert)")
    serve.add_argument("--ssl-key", type=Path, help="TLS private key, PEM ([api] ssl_key)")
    serve.set_defaults(run=_serve)

    dev = commands.add_parser("dev", help="serve on an embedded PostgreSQL, with nothing else installed")
    dev.add_argument("--data", type=Path, default=development.default_folder(), help="data folder (%(default)s)")
    dev.add_argument("--port", type=int, default=9091, help="port to listen on (%(default)s)")
    dev.set_defaults(run=_dev)

    check = commands.add_parser("check", help="say, line by line, whether this configuration can serve")
    check.set_defaults(run=_check)

    token = commands.add_parser("token", help="mint a task token, to debug with")
    token.add_argument("task_instance_id", help="the task instance that the token shall speak for")
    token.add_argument("--valid-for", type=int, metavar="SECONDS", help="([execution_api] jwt_expiration_time)")
    token.add_argument("--scope", choices=SCOPES, default=SCOPES[0])
    token.set_defaults(run=_token)
    return parser


def _serve(options: argparse.Namespace) -> int:
    loaded = settings.load()
    logs.configure(loaded.log.level, loaded.log.form)
    server = _overridden(loaded.server, options)
    asyncio.run(checks.require_database(loaded.database))
    Tokens(loaded.tokens)
    _require_free_port(server)
    uvicorn.run(
        "app.main:create_app",
        factory=True,
        host=server.host,
        port=server.port,
        workers=server.workers,
        ssl_certfile=server.ssl_cert,
        ssl_keyfile=server.ssl_key,
        **_uvicorn_options(),
    )
    return 0


def _dev(options: argparse.Namespace) -> int:
    logs.configure()
    _require_free_port(ServerSettings(host="127.0.0.1", port=options.port))
    with development.environment(options.data, port=options.port) as environment:
        print(environment.welcome(), flush=True)
        from app.main import create_app  # it brings the whole application; the other commands start faster without

        application = create_app(environment.settings)
        uvicorn.Server(uvicorn.Config(application, host="127.0.0.1", port=options.port, **_uvicorn_options())).run()
    return 0


def _check(_: argparse.Namespace) -> int:
    results = asyncio.run(checks.run(os.environ))
    for result in results:
        print(f"{'ok  ' if result.passed else 'FAIL'}  {result.name}: {result.message}")
    return 0 if all(result.passed for result in results) else NOT_READY


def _token(options: argparse.Namespace) -> int:
    try:
        claims = {"sub": checks.task_instance_id(options.task_instance_id), "scope": options.scope}
    except ExecutionApiError as error:
        raise ConfigurationError(str(error)) from None
    print(Tokens(settings.load().tokens).mint(claims, valid_for=options.valid_for))
    return 0


def _overridden(server: ServerSettings, options: argparse.Namespace) -> ServerSettings:
    """Return the server settings with what the command line says."""
    given = {n: v for n in ("host", "port", "workers", "ssl_cert", "ssl_key") if (v := getattr(options, n)) is not None}
    server = replace(server, **given)
    if bool(server.ssl_cert) != bool(server.ssl_key):
        raise ConfigurationError("--ssl-cert and --ssl-key belong together: give both, or neither")
    for option, path in (("--ssl-cert", server.ssl_cert), ("--ssl-key", server.ssl_key)):
        if path and not path.is_file():
            raise ConfigurationError(f"{option} names {str(path)!r}, which is not there: expected a PEM file")
    return server


def _require_free_port(server: ServerSettings) -> None:
    try:
        family = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((server.host, server.port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            f"cannot listen on {server.host} port {server.port} ({reason}): choose another with --port"
        ) from error


def _uvicorn_options() -> dict[str, Any]:
    return {
        "log_level": "warning",
        "access_log": False,  # ours is structured, see app.server.middleware
        "server_header": False,
        "backlog": BACKLOG,
        "timeout_keep_alive": KEEP_ALIVE,
        "timeout_graceful_shutdown": GRACEFUL_SHUTDOWN,
        "loop": "uvloop",
        "http": "app.server.protocol:Protocol",
        "ws": "none",
    }
