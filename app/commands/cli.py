"""The commands that a person types: ``execution-api serve | dev | check | token``.

What a command needs is imported when it runs: none waits for what only another uses.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from app import __version__, settings
from app.errors import ConfigurationError, ExecutionApiError

# For the files in which processes count together: in memory where there is such a folder, also if no other can be written.
MEMORY = "/dev/shm"  # noqa: S108  the folder in it is made for us alone
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
    dev.add_argument("--data", type=Path, help="data folder (/var/lib/execution-api for root, else ~/.local/share/...)")
    dev.add_argument("--port", type=int, default=9091, help="port to listen on (%(default)s)")
    dev.set_defaults(run=_dev)

    check = commands.add_parser("check", help="say, line by line, whether this configuration can serve")
    check.set_defaults(run=_check)

    token = commands.add_parser("token", help="mint a task token, to debug with")
    token.add_argument("task_instance_id", help="the task instance that the token shall speak for")
    token.add_argument("--valid-for", type=int, metavar="SECONDS", help="([execution_api] jwt_expiration_time)")
    token.add_argument("--scope", choices=("execution", "workload"), default="execution")
    token.set_defaults(run=_token)
    return parser


def _serve(options: argparse.Namespace) -> int:
    try:
        folder = tempfile.TemporaryDirectory(prefix="execution-api-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
    except OSError as error:
        raise ConfigurationError(f"no temporary folder can be made ({error.strerror}): name one by TMPDIR") from error
    with folder as name:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = name  # before anything that counts is imported, see app.server.metrics
        from app.commands import serve

        return serve.run(options)


def _dev(options: argparse.Namespace) -> int:
    from app.commands import development

    return development.run(options.data or development.default_folder(), port=options.port)


def _check(_: argparse.Namespace) -> int:
    from app.commands import checks

    results = asyncio.run(checks.run(os.environ))
    for result in results:
        print(f"{'ok  ' if result.passed else 'FAIL'}  {result.name}: {result.message}")
    return 0 if all(result.passed for result in results) else NOT_READY


def _token(options: argparse.Namespace) -> int:
    from app.commands import checks
    from app.server.auth import Tokens

    try:
        claims = {"sub": checks.task_instance_id(options.task_instance_id), "scope": options.scope}
    except ExecutionApiError as error:
        raise ConfigurationError(str(error)) from None
    print(Tokens(settings.load().tokens).mint(claims, valid_for=options.valid_for))
    return 0
