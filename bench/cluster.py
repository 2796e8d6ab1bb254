"""A PostgreSQL for who measures, in a folder that goes with it."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from app.commands.embedded import EmbeddedPostgres
from tests.conftest import reachable


@contextmanager
def temporary(**options: str) -> Iterator[tuple[EmbeddedPostgres, Path]]:
    """Run a PostgreSQL until the block ends; yield it, and a folder for what else the block writes.

    SIGTERM ends the block as Ctrl-C does, so that nothing it started is left: servers have sessions of their own. Before the
    server runs it is only noted: what makes the cluster would write on when who waits for it has gone.

    :param options: server settings.
    """
    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "postgres" / "cluster"
        data.mkdir(parents=True)
        with EmbeddedPostgres(reachable(data), options=options) as postgres:
            signal.signal(signal.SIGTERM, _interrupt)
            if came:
                _interrupt()
            yield postgres, Path(folder)


def _interrupt(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `timeout` sends it twice: to its child, and to its child's group
    raise KeyboardInterrupt
