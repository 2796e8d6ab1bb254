"""Whatever ends a run of the tests, what it started is stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import reachable

INTERRUPTED = Path(__file__).with_name("interrupted.py")


@pytest.mark.slow
def test_a_run_that_is_interrupted_leaves_no_process(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTEST_DEBUG_TEMPROOT": str(reachable(tmp_path))}
    in_background = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]  # as a script starts what it does not wait for
    pytest_command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "3.2", INTERRUPTED]
    command = [*in_background, *pytest_command]
    run = subprocess.run(command, env=environment, cwd=INTERRUPTED.parents[1], capture_output=True, text=True, check=False)
    assert run.returncode == pytest.ExitCode.INTERRUPTED, run.stdout
    assert list(tmp_path.rglob("postgresql.conf")), "it had started PostgreSQL"
    assert [*_left(tmp_path)] == []


def _left(folder: Path) -> Iterator[str]:
    """Yield the commands of the processes that were told of a folder."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            command = (process / "cmdline").read_bytes()
            if os.fsencode(folder) in command + (process / "environ").read_bytes():
                yield command.replace(b"\0", b" ").decode(errors="replace")
