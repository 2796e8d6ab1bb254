"""What ``execution-api dev`` serves: an embedded PostgreSQL, generated secrets and a sample task instance, in one folder."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from cryptography.fernet import Fernet

from app.commands import explain
from app.commands.embedded import CannotRunHere, EmbeddedPostgres, EmbeddedPostgresError
from app.commands.serve import uvicorn_options
from app.errors import ConfigurationError
from app.main import create_app
from app.releases import REVISIONS, Revision, revision_of
from app.server import listening, logs
from app.server.auth import Tokens
from app.server.draining import DrainingServer, Readiness, serve
from app.settings import DatabaseSettings, ServerSettings, Settings, TokenSettings
from app.settings.database_url import async_url

DATABASE = "airflow"
SAMPLE_ID = "01900000-0000-7000-8000-000000000001"
SAMPLE_TOKEN_LIFETIME = 24 * 3600  # seconds; a day of trying things out


@dataclass(frozen=True, slots=True)
class Environment:
    """A running development environment.

    :param release: the Airflow whose tables its database has, such as ``3.3``.
    """

    settings: Settings
    folder: Path
    release: str

    def welcome(self) -> str:
        """Return what a person needs next."""
        base = f"http://127.0.0.1:{self.settings.server.port}/execution"
        database = self.settings.database.url
        token = Tokens(self.settings.tokens).mint({"sub": SAMPLE_ID}, valid_for=SAMPLE_TOKEN_LIFETIME)
        start = json.dumps(
            {
                "state": "running",
                "hostname": "laptop",
                "unixname": "you",
                "pid": 1,
                "start_date": "2026-01-01T00:00:00Z",
            }
        )
        return f"""
Task Execution API   {base}
API documents        {base}/docs
Other commands       {_command()} --help
Database             postgresql://{database.username}@{database.host}:{database.port}/{database.database}
                     (with its password: {self.folder / "database_url"})
Data folder          {self.folder}

Start the sample task instance (valid for a day):

  curl -X PATCH {base}/task-instances/{SAMPLE_ID}/run \\
    -H 'Content-Type: application/json' -H 'Authorization: Bearer {token}' \\
    -d '{start}'

Point an Airflow {self.release} at it ('airflow db migrate' first; it adds what Airflow itself needs):

  export AIRFLOW__CORE__EXECUTION_API_SERVER_URL={base}/
  export AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_CMD='cat {self.folder / "database_url"}'
  export AIRFLOW__API_AUTH__JWT_SECRET_CMD='cat {self.folder / "jwt_secret"}'

and, so that both read the same encrypted connections and variables:

  export AIRFLOW__CORE__FERNET_KEY_CMD='cat {self.folder / "fernet_key"}'

Ctrl-C stops the server and the database; the data stays.
"""


def run(folder: Path, *, port: int, release: str | None = None) -> int:
    """Serve the development environment until Ctrl-C or SIGTERM, which end it at once.

    :param release: see :func:`environment`.
    :raises ConfigurationError: when it cannot be made.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until it serves, the same as Ctrl-C: stop PostgreSQL
    try:
        return _serve(folder, port=port, release=release)
    except KeyboardInterrupt:
        return 0


def _serve(folder: Path, *, port: int, release: str | None) -> int:
    logs.configure()
    sockets = listening.on_port("127.0.0.1", port)
    _say(f"Starting PostgreSQL in {folder.absolute()}; its first start takes some seconds.")
    with environment(folder, port=port, release=release) as made:
        _say(made.welcome())
        readiness = Readiness()
        application = create_app(made.settings, readiness=readiness)
        config = uvicorn.Config(application, **uvicorn_options(made.settings.server))
        server = DrainingServer(config, readiness=readiness, drain_seconds=0)

        async def until_stopped() -> None:
            for each in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(each, stop)
            await serve(application, server, sockets)

        def stop() -> None:
            (server.quit if server.should_exit else server.finish)()

        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(until_stopped())
        _say("Stopping.")
    return 0


def _say(text: str) -> None:
    """Tell the person who started it; who reads through a pipe reads it now."""
    print(text, flush=True)


def _command() -> str:
    """Return how this program was started, for whoever has no environment activated."""
    return shlex.quote(sys.argv[0]) if Path(sys.argv[0]).name == "execution-api" else f"{sys.executable} -m execution_api"


def default_folder() -> Path:
    """Return where ``dev`` keeps its data: the user's data folder, or for root one that PostgreSQL's own user can reach."""
    if os.geteuid() == 0:
        return Path("/var/lib/execution-api")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "execution-api"


@contextmanager
def environment(folder: Path, *, port: int, release: str | None = None) -> Iterator[Environment]:
    """Start the development environment in ``folder``, and stop it again.

    :param folder: made when it does not exist; a second start finds its data.
    :param port: where the API will listen on 127.0.0.1.
    :param release: the Airflow whose tables the database shall have; None for the newest in a new folder, for what is there
        in another.
    :raises ConfigurationError: when the folder cannot be used or the database does not start.
    """
    folder = folder.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        jwt_secret = _kept(folder / "jwt_secret", lambda: secrets.token_urlsafe(64))
        fernet_key = _kept(folder / "fernet_key", lambda: Fernet.generate_key().decode())
        known_port = folder / "postgres.port"
        preferred = int(known_port.read_text()) if known_port.exists() else 0
        password = _kept(folder / "postgres_password", lambda: secrets.token_urlsafe(32))
        postgres = EmbeddedPostgres(folder, port=preferred, password=password)
        postgres.start()
    except CannotRunHere as error:
        raise ConfigurationError(str(error)) from error
    except (OSError, ValueError, EmbeddedPostgresError) as error:
        raise ConfigurationError(f"--data {folder} cannot be used: {error}") from error
    try:
        known_port.write_text(str(postgres.port))
        if not postgres.has_database(DATABASE):
            _make_database(postgres, release)
        found = _release(postgres)
        if release not in (None, found):
            raise ConfigurationError(
                f"--data {folder} has the tables of Airflow {found}, not of {release}: name another folder"
            )
        url = postgres.url(DATABASE)
        _keep(folder / "database_url", url)
        yield Environment(
            settings=Settings(
                database=DatabaseSettings(url=async_url(url, setting="the embedded database"), preview_releases=(found,)),
                tokens=TokenSettings(secret=jwt_secret),
                server=ServerSettings(host="127.0.0.1", port=port),
                fernet_keys=(fernet_key,),
            ),
            folder=folder,
            release=found,
        )
    finally:
        postgres.stop()


def _make_database(postgres: EmbeddedPostgres, release: str | None) -> None:
    """Make the database, with an Airflow's tables and a sample in them: it has its name once all of it is there."""
    if postgres.has_database("airflow_new"):  # a first start was interrupted
        postgres.run("psql", "-qXc", "DROP DATABASE airflow_new", "postgres")
    new = next(each for each in reversed(REVISIONS) if each.name == release or not (release or each.is_preview))
    _say(f"Making the tables of Airflow {new.name}.")
    postgres.create_metadata_database("airflow_new", new.name)
    postgres.run("psql", "-qX", "-v", "ON_ERROR_STOP=1", "-1", "airflow_new", stdin=_sample(new).encode())
    postgres.run("psql", "-qXc", f'ALTER DATABASE airflow_new RENAME TO "{DATABASE}"', "postgres")


def _sample(revision: Revision) -> str:
    """Return the statements that write a Dag, and a run of it with one queued task instance."""
    has_mappers = "partition_mapper_info" in explain.known(revision)["dag"].columns
    column, value = (", partition_mapper_info", ", '[]'") if has_mappers else ("", "")
    return f"""
INSERT INTO dag_bundle (name, active) VALUES ('sample', true);
INSERT INTO dag (dag_id, is_paused, is_stale, bundle_name, owners, timetable_type, max_active_tasks,
                 max_consecutive_failed_dag_runs, has_task_concurrency_limits{column})
VALUES ('sample', false, false, 'sample', 'you', 'none', 16, 0, false{value});
INSERT INTO dag_run (dag_id, run_id, state, run_type, run_after, logical_date, start_date, conf)
VALUES ('sample', 'manual__sample', 'running', 'manual', now(), '2026-01-01', now(), '{{}}');
INSERT INTO task_instance (id, dag_id, run_id, task_id, state, try_number, max_tries, pool, pool_slots, hostname,
                           unixname, context_carrier)
VALUES ('{SAMPLE_ID}', 'sample', 'manual__sample', 'work', 'queued', 1, 0, 'default_pool', 1, '', '',
        '{{"__var": {{}}, "__type": "dict"}}');
"""


def _release(postgres: EmbeddedPostgres) -> str:
    """Return the Airflow whose tables the database has: an Airflow may have migrated it."""
    version = postgres.run("psql", "-AtqXc", "SELECT version_num FROM alembic_version", DATABASE).strip()
    revision = revision_of(version)
    return revision.name if revision else version


def _kept(path: Path, make: Callable[[], str]) -> str:
    """Return the secret in a file, made on first use and readable by its owner only."""
    if not path.exists():
        _keep(path, make())
    return path.read_text()


def _keep(path: Path, secret: str) -> None:
    partial = path.with_suffix(".new")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secret)
    partial.rename(path)
