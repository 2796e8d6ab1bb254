"""Fixtures: a real PostgreSQL for the whole run, databases cloned from templates, real server processes.

With ``--two-releases`` each test that runs on every metadata revision runs on two of them, one marked ``releases(n)`` on n,
and one marked ``drawn(n)`` on n of its cases; with ``together=True`` the same n are drawn for all tests of a file, which
look at what one fixture made. They are drawn for each test anew with every change of ``app/``: a run does not grow with the
releases, what one leaves out another one runs, and a test that was mended runs as it failed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path, PurePosixPath

import asyncpg
import pytest

from app.commands.embedded import EmbeddedPostgres
from tests import postgres_majors
from tests.servers import AIRFLOW, Server, our_server
from tests.world import World

# On which metadata revisions a test runs that does not say it: one that is served as a preview is asked for by name.
REVISIONS = tuple(os.environ.get("REVISIONS", "3.2 3.3").split())
# Nothing in the tests outlives a crash of the machine, so nothing waits for the disk.
OPTIONS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}
OPTIONS |= {"max_prepared_transactions": "2"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--two-releases", action="store_true", help="run each test on two releases, others with each change of app/"
    )


def pytest_configure() -> None:
    """Take SIGTERM as Ctrl-C is taken: whatever ends a run, what it started is stopped.

    asyncio cancels a test for Ctrl-C. A KeyboardInterrupt out of the middle of a task would be raised again where fixtures
    end, and they would not.
    """

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # ``make`` passes on what it was sent, and so it comes twice
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's script starts what runs beside it with it ignored
    signal.signal(signal.SIGTERM, interrupt)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out of the cross of tests and releases, and of cases of which some are drawn, what another ``app/`` has."""
    if not config.getoption("two_releases"):
        return
    seed = subprocess.run(["git", "rev-parse", "HEAD:app"], capture_output=True, text=True, check=False).stdout

    cases: dict[str, dict[str, None]] = defaultdict(dict)  # of each test
    for item in items:
        test, case, _ = _drawn(item)
        cases[test][case] = None

    def is_left_out(item: pytest.Item) -> bool:
        test, case, count = _drawn(item)
        return len(cases[test]) > count and case not in random.Random(seed + test).sample([*cases[test]], count)

    left_out = [item for item in items if is_left_out(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not is_left_out(item)]


def _drawn(item: pytest.Item) -> tuple[str, str, int]:
    """Return of which test an item is a case, which (often a revision or a version of Airflow), and how many are run."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    release = params.get("revision") or params.get("version")
    if marker := item.get_closest_marker("drawn"):
        test, _, case = item.nodeid.partition("[")
    elif isinstance(release, str):
        test, case, marker = item.nodeid.replace(release, ""), release, item.get_closest_marker("releases")
    else:
        return item.nodeid, item.nodeid, 1
    is_of_all = marker is not None and marker.kwargs.get("together")
    return test.partition("::")[0] if is_of_all else test, case, marker.args[0] if marker else 2


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what each part of the tests costs; CONTRIBUTING.md says what each finds."""
    seconds: Counter[str] = Counter()
    tests: Counter[str] = Counter()
    for report in (each for reports in terminalreporter.stats.values() for each in reports):
        if isinstance(report, pytest.TestReport):
            part = PurePosixPath(report.nodeid.partition("::")[0]).parent.as_posix()
            seconds[part] += report.duration
            tests[part] += report.when == "call"
    terminalreporter.section("what each part costs")
    for part, cost in seconds.most_common():
        terminalreporter.line(f"{cost:8.1f} s  {tests[part]:6} tests  {part}")


@pytest.fixture(scope="session", autouse=True)
def _postgres_major() -> Iterator[None]:
    """Run every test on another major of PostgreSQL if that is asked for."""
    with pytest.MonkeyPatch.context() as patch:
        if major := os.environ.get("POSTGRES"):
            postgres_majors.use(major, patch)
        yield


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """Run the embedded PostgreSQL, with one template database per metadata revision."""
    folder = reachable(tmp_path_factory.mktemp("postgres"))
    with EmbeddedPostgres(folder, options=OPTIONS) as server:
        for revision in AIRFLOW:
            server.create_metadata_database(f"template_{revision}", revision)
        yield server


@pytest.fixture(scope="session")
def make_database(postgres: EmbeddedPostgres) -> Callable[[str], str]:
    """Return what clones a metadata database of a revision and tells its URL."""
    numbers = count(1)

    def make(revision: str) -> str:
        name = f"metadata_{revision.replace('.', '_')}_{next(numbers)}"
        postgres.create_database(name, template=f"template_{revision}")
        return postgres.url(name)

    return make


@pytest.fixture(scope="session", params=REVISIONS)
def revision(request: pytest.FixtureRequest) -> str:
    """Run the test on each metadata revision."""
    return str(request.param)


@pytest.fixture(scope="session")
def server(revision: str, make_database: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run our server on a database of its own, for all tests of a revision."""
    with our_server(make_database(revision), tmp_path_factory.mktemp(f"server-{revision}")) as running:
        yield running


@pytest.fixture
async def connection(server: Server) -> AsyncIterator[asyncpg.Connection]:
    """Connect to the database of ``server``."""
    connected = await asyncpg.connect(server.database_url)
    yield connected
    await connected.close()


@pytest.fixture
async def world(connection: asyncpg.Connection, revision: str) -> World:
    """Write rows into the database of ``server``, which is emptied first."""
    await empty(connection)
    return World(connection, revision)


def reachable(folder: Path) -> Path:
    """Open a temporary folder and pytest's own above it: PostgreSQL's own user must reach its data in there."""
    for each in (folder, folder.parent, folder.parent.parent):
        each.chmod(each.stat().st_mode | 0o055)  # whatever else holds for it, such as the sticky bit of /tmp
    return folder


async def empty(connection: asyncpg.Connection) -> None:
    """Delete every row but the revision, and start all sequences anew."""
    await connection.execute(
        """
        DO $$
        DECLARE name text;
        BEGIN
            SET LOCAL session_replication_role = replica;  -- no foreign key is checked: deleting is faster than truncating
            FOR name IN SELECT format('%I', tablename) FROM pg_tables
                        WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
                EXECUTE 'DELETE FROM ' || name;
            END LOOP;
            PERFORM setval(format('%I.%I', schemaname, sequencename), 1, false) FROM pg_sequences;
        END $$
        """
    )
