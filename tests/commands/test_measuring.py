"""``python -m bench``: what ends it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.processes import tree
from tests.conftest import reachable

COMMAND = [sys.executable, "-m", "bench", "--target", "ours", "--task-instances", "100"]


@pytest.mark.parametrize("runs", [b"/initdb\0", b"\0serve\0"], ids=["the cluster is made", "it measures"])
def test_what_is_terminated_stops_what_it_started(tmp_path: Path, runs: bytes) -> None:
    environment = {**os.environ, "TMPDIR": str(reachable(tmp_path))}
    measuring = subprocess.Popen(COMMAND, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started = [measuring.pid]
    try:
        while not any(runs in _command(pid) for pid in started):
            assert measuring.poll() is None
            time.sleep(0.02)  # nobody tells
            started = tree(measuring.pid)
        for _ in range(2):  # as `timeout` does: to its child, and to its child's group
            measuring.send_signal(signal.SIGTERM)
        assert measuring.wait(60) == -signal.SIGINT
        assert [_command(pid) for pid in started if _command(pid)] == []
        assert [*tmp_path.iterdir()] == []
    finally:
        for pid in filter(_command, {*started, *tree(measuring.pid)}):
            os.kill(pid, signal.SIGKILL)


def _command(pid: int) -> bytes:
    """Return a process' command line, which is empty once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
