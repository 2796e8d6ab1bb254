"""Airflow's own server and ours, each on a clone of one database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.conftest import REVISIONS
from tests.contract.sides import Side
from tests.servers import AIRFLOW, Server, airflow_server, our_server, with_pods


@pytest.fixture(scope="session", params=sorted({*REVISIONS, "3.4"}))
def revision(request: pytest.FixtureRequest) -> str:
    """Compare with each Airflow, the preview too."""
    return str(request.param)


@pytest.fixture(scope="module")
def airflow_options() -> dict[str, str]:
    """Return further settings of both servers."""
    return {}


@pytest.fixture(scope="module")
def servers(
    revision: str,
    make_database: Callable[[str], str],
    tmp_path_factory: pytest.TempPathFactory,
    airflow_options: dict[str, str],
) -> Iterator[tuple[Server, Server]]:
    """Run both servers, theirs first."""
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp(f"clones-{revision}")
        theirs = airflow_server(AIRFLOW[revision], make_database(revision), folder, **airflow_options, **with_pods())
        yield (
            stack.enter_context(theirs),
            stack.enter_context(our_server(make_database(revision), folder, **airflow_options)),
        )


@pytest.fixture(scope="module")
async def sides(servers: tuple[Server, Server]) -> AsyncIterator[tuple[Side, Side]]:
    """Open one client and one connection of each: what thousands of tests ask again is then prepared once."""
    async with Side.of(servers) as opened:
        yield opened
