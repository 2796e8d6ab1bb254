"""The commands that a person types, such as ``execution-api serve``.

What a command needs is imported when it runs: none waits for what only another uses.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from app import __version__, settings
from app.commands.arguments import (
    INTERRUPTED,
    MISCONFIGURED,
    MISTYPED,
    NOT_READY,
    NOT_THERE_YET,
    UNREAD,
    Parser,
    port,
    root_path,
    task_instance_id,
)
from app.commands.arguments import command as _command
from app.commands.arguments import count as _count
from app.errors import ConfigurationError

# For the files in which processes count together: in memory where there is such a folder, also if no other can be written.
MEMORY = "/dev/shm"  # noqa: S108  the folder in it is made for us alone

# The names of the releases in app.releases, which would bring all statements along, and count before anybody may.
_NUMBERS = (path.stem.split("-")[1].split(".") for path in (Path(__file__).parents[1] / "releases").glob("airflow-*.sql"))
RELEASES = [".".join(map(str, number)) for number in sorted(tuple(map(int, number)) for number in _NUMBERS)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what is wrong with its configuration ends it with one sentence and exit code 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.run is None:
        parser.print_help()
        sys.exit(MISTYPED)
    try:
        code = options.run(options)
        sys.stdout.flush()
        sys.exit(code)
    except BrokenPipeError:  # whoever read what it says has heard enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(UNREAD)
    except ConfigurationError as error:
        print(f"execution-api: {error}", file=sys.stderr)
        sys.exit(MISCONFIGURED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="execution-api",
        description="A Task Execution API for Apache Airflow, beside an Airflow that stays as it is.",
        epilog="execution-api COMMAND --help tells what a command does, with examples and its exit codes.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    serve = _command(
        commands,
        "serve",
        _serve,
        help="serve beside an Airflow, with Airflow's own settings",
        description="""\
Serves the Task Execution API in worker processes on Airflow's metadata database. It reads Airflow's
settings, from AIRFLOW__SECTION__KEY and airflow.cfg; what is said here wins over them. SIGTERM ends it
after a time in which balancers turn to others, Ctrl-C as soon as what is under way is answered; SIGHUP
replaces one worker after the other by one that reads the settings anew.""",
        examples=(
            "execution-api serve --port 9091 --workers 4",
            "execution-api serve --host :: --ssl-cert cert.pem --ssl-key key.pem",
            "execution-api serve --uds /run/execution-api/http.sock --root-path /airflow",
        ),
        codes={0: "it was told to end", NOT_READY: "a worker failed, its log says how"},
    )
    serve.add_argument("--host", help="address to listen on; :: is all of both families ([api] host, 0.0.0.0)")
    port_or_path = serve.add_mutually_exclusive_group()
    port_or_path.add_argument("--port", type=port, help="port to listen on ([execution_api_service] port, [api] port, 9091)")
    port_or_path.add_argument("--uds", type=Path, metavar="PATH", help="Unix socket to listen on instead")
    serve.add_argument("--workers", type=_count, help="worker processes ([api] workers, 1)")
    serve.add_argument("--ssl-cert", type=Path, metavar="FILE", help="TLS certificate, PEM ([api] ssl_cert)")
    serve.add_argument("--ssl-key", type=Path, metavar="FILE", help="TLS private key, PEM ([api] ssl_key)")
    serve.add_argument(
        "--root-path",
        type=root_path,
        metavar="PATH",
        help="path below which a proxy puts it, whether it takes it off or not (the path of [api] base_url)",
    )

    dev = _command(
        commands,
        "dev",
        _dev,
        help="serve on an embedded PostgreSQL, with nothing else installed",
        description="""\
Starts a PostgreSQL in one folder, makes Airflow's tables with a sample task instance, and serves on
127.0.0.1. It prints a curl with a valid token and the settings that point an Airflow at it. Ctrl-C
stops the server and the database; the data stays for the next start.""",
        examples=("execution-api dev", "execution-api dev --airflow 3.2 --data ./airflow-3.2 --port 9092"),
        codes={0: "it was told to end"},
    )
    dev.add_argument(
        "--airflow",
        choices=RELEASES,
        help="whose tables a new database gets (those of the newest release that is no preview)",
    )
    dev.add_argument(
        "--data", type=Path, metavar="FOLDER", help="data folder (/var/lib/execution-api for root, else ~/.local/share/...)"
    )
    dev.add_argument("--port", type=port, default=9091, help="port to listen on (%(default)s)")

    check = _command(
        commands,
        "check",
        _check,
        help="say, line by line, whether this configuration can serve",
        description="""\
Reads the settings as serve does, and tries what serving needs: a token signed as the scheduler signs
it, stored values, time-outs, the database, its revision, its connections, clocks. Each line of the
output is one check.""",
        examples=(
            "execution-api check --replicas 3 --workers 4",
            "execution-api check --wait 300",
            "execution-api check --json",
            "execution-api check --explain",
        ),
        codes={
            0: "every check passed",
            NOT_READY: "a check failed, its line begins with FAIL",
            MISCONFIGURED: "a setting is missing or wrong, and nothing else was tried",
            NOT_THERE_YET: "only the database or the key set is not there yet, or a login is refused; after --wait too",
        },
    )
    check.add_argument("--replicas", type=_count, default=1, metavar="N", help="how many of it shall run (%(default)s)")
    check.add_argument("--workers", type=_count, metavar="N", help="worker processes of each ([api] workers)")
    check.add_argument(
        "--wait", type=_count, default=0, metavar="SECONDS", help="how long to wait for the database and the key set"
    )
    check.add_argument("--json", action="store_true", help="for programs")
    check.add_argument(
        "--explain",
        action="store_true",
        help="list instead what the tables that we use lack, or have beyond the releases that are known",
    )

    healthcheck = _command(
        commands,
        "healthcheck",
        _healthcheck,
        help="say whether the service on this machine answers, for a container engine",
        description="""\
Asks the service that these settings start on this machine whether it answers, with TLS if it has it, in
2.5 s at most. The database is not asked: a service that waits for it is well.""",
        examples=("execution-api healthcheck", "execution-api healthcheck --uds /run/execution-api/http.sock"),
        codes={0: "it answers", NOT_READY: "it does not"},
    )
    port_or_path = healthcheck.add_mutually_exclusive_group()
    port_or_path.add_argument("--port", type=port, help="port that serve was told")
    port_or_path.add_argument("--uds", type=Path, metavar="PATH", help="Unix socket that serve was told")

    size = _command(
        commands,
        "size",
        _size,
        help="say how many workers, connections and cores so many running tasks need",
        description="""\
Computes from measured costs (docs/performance.md, docs/sizing.md) what so many tasks need that run at the same
time. It reads no settings and asks nobody.""",
        examples=(
            "execution-api size --running-tasks 20000",
            "execution-api size --running-tasks 500 --task-seconds 5 --json",
        ),
        codes={0: "it is on standard output"},
    )
    size.add_argument("--running-tasks", type=_count, required=True, metavar="N", help="at the same time")
    size.add_argument(
        "--heartbeat-seconds", type=_count, default=5, metavar="SECONDS", help="between two of a task (%(default)s)"
    )
    size.add_argument("--task-seconds", type=_count, default=60, metavar="SECONDS", help="that a task runs (%(default)s)")
    size.add_argument(
        "--requests", type=_count, default=7, metavar="N", help="of a task beside its heartbeats (%(default)s)"
    )
    size.add_argument("--pool-size", type=_count, default=10, metavar="N", help="connections of a worker (%(default)s)")
    size.add_argument("--json", action="store_true", help="for programs")

    rehearse = _command(
        commands,
        "rehearse",
        _rehearse,
        help="live a run of each of your Dags on your own database, with nothing changed",
        description="""\
Reads Dags, variables, connections and XComs as workers would; then triggers each Dag, runs its tasks
through every state, registers its assets and clears it. What is written stands in temporary tables, in
read-only transactions that are rolled back: PostgreSQL itself refuses a write to Airflow's tables, or a
lock on one of their rows. Values are never shown.""",
        examples=(
            "execution-api rehearse",
            "execution-api rehearse --sample 50 --json",
            "execution-api rehearse --against http://airflow-api-server:8080/execution/",
        ),
        codes={
            0: "each Dag that there is can be served, and what is stored be read; with --against, as the other server does",
            NOT_READY: "something cannot be, or is answered otherwise; lines that begin with FAIL tell what and why",
        },
    )
    rehearse.add_argument("--sample", type=_count, metavar="N", help="so many of the Dags, the same each time (all of them)")
    rehearse.add_argument(
        "--against", metavar="URL", help="the execution API of Airflow's own server: ask it, too, for all that is read"
    )
    rehearse.add_argument("--json", action="store_true", help="for programs")

    config = _command(
        commands,
        "config",
        _config,
        help="show each option that is read, its value and where it came from",
        description="""\
Prints the options that the service reads from Airflow's settings and its own, with their values and
where each came from: a variable, a command, a secrets backend, a line of airflow.cfg, or the default.
Secrets are shown as ***.""",
        examples=("execution-api config", "execution-api config --json"),
        codes={0: "the configuration can be read"},
    )
    config.add_argument("--json", action="store_true", help="for programs")

    top = _command(
        commands,
        "top",
        _top,
        help="show which component holds which row, and how tasks and requests fare",
        description="""\
Shows again and again who holds the rows that others need, which of Airflow's components that is and what
it does; running tasks and late heartbeats; and from the service's metrics what is asked of it. Without a
terminal it is shown once. Ctrl-C ends it.""",
        examples=(
            "execution-api top",
            "execution-api top --once --metrics http://10.0.0.7:9091/metrics",
            "execution-api top --json",
        ),
        codes={0: "it was shown", NOT_READY: "the database could not be read, or not all of it"},
    )
    top.add_argument("--once", action="store_true", help="once, not again and again")
    top.add_argument("--json", action="store_true", help="once, for programs")
    top.add_argument("--every", type=_count, default=2, metavar="SECONDS", help="between two readings (%(default)s)")
    top.add_argument("--metrics", metavar="URL", help="the service's metrics (/metrics on this machine, by the settings)")

    token = _command(
        commands,
        "token",
        _token,
        help="mint a task token, to debug with",
        description="""\
Prints a token that speaks for a task instance, signed as Airflow's scheduler signs it. It needs the
settings of the tokens alone ([api_auth] jwt_*), and no database.""",
        examples=(
            "execution-api token 01900000-0000-7000-8000-000000000001",
            "execution-api token 01900000-0000-7000-8000-000000000001 --valid-for 60 --scope workload",
        ),
        codes={0: "the token is on standard output"},
    )
    token.add_argument(
        "task_instance_id", type=task_instance_id, metavar="TASK_INSTANCE_ID", help="whom the token speaks for, a UUID"
    )
    token.add_argument(
        "--valid-for", type=_count, metavar="SECONDS", help="how long it is valid ([execution_api] jwt_expiration_time)"
    )
    token.add_argument("--scope", choices=("execution", "workload"), default="execution", help="what it opens (%(default)s)")
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

    return development.run(options.data or development.default_folder(), port=options.port, release=options.airflow)


def _check(options: argparse.Namespace) -> int:
    from app.commands import checks, explain
    from app.server import logs

    logs.configure("WARNING", "auto")  # to standard error
    if options.explain:
        print(*asyncio.run(explain.run(os.environ)), sep="\n")
        return 0
    waiting = partial(print, "waiting:", file=sys.stderr, flush=True)
    results = asyncio.run(
        checks.run_until(os.environ, wait=options.wait, told=waiting, replicas=options.replicas, workers=options.workers)
    )
    passed = all(result.passed for result in results)
    if options.json:
        print(json.dumps({"passed": passed, "checks": [asdict(each) for each in results]}, indent=2))
    else:
        for result in results:
            print(f"{'ok  ' if result.passed else 'FAIL'}  {result.name}: {result.message}")
    if not results[0].passed:
        return MISCONFIGURED
    return 0 if passed else NOT_THERE_YET if checks.may_still_pass(results) else NOT_READY


def _healthcheck(options: argparse.Namespace) -> int:
    from app.commands import healthcheck

    server = settings.load_server()
    if options.port:
        server = replace(server, port=options.port)
    if wrong := healthcheck.run(server, uds=options.uds):
        print(f"execution-api: {wrong}", file=sys.stderr)
        return NOT_READY
    return 0


def _size(options: argparse.Namespace) -> int:
    from app.commands import size

    load = size.Load(options.running_tasks, options.heartbeat_seconds, options.task_seconds, options.requests)
    found = size.of(load, pool_size=options.pool_size)
    print(json.dumps(asdict(found), indent=2) if options.json else "\n".join(size.told(load, found)))
    return 0


def _rehearse(options: argparse.Namespace) -> int:
    from app.commands import rehearse
    from app.server import logs

    logs.configure("CRITICAL")  # what is wrong is in the report
    how = {"most": options.sample, "against": options.against, "as_json": options.json}
    return 0 if rehearse.run(settings.load(), **how) else NOT_READY


def _config(options: argparse.Namespace) -> int:
    from app.commands import configuration

    return configuration.run(os.environ, as_json=options.json)


def _top(options: argparse.Namespace) -> int:
    from app.commands import top
    from app.server import logs

    logs.configure("CRITICAL")  # what is wrong is on the screen
    how = {"once": options.once, "as_json": options.json, "every": options.every, "metrics": options.metrics}
    return 0 if top.run(settings.load(), **how) else NOT_READY


def _token(options: argparse.Namespace) -> int:
    from app.server.auth import Tokens

    claims = {"sub": options.task_instance_id, "scope": options.scope}
    print(Tokens(settings.load_tokens()).mint(claims, valid_for=options.valid_for))
    return 0
