"""Programs of Debian that some tests run beside the service."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def install(*packages: str, programs: tuple[str, ...]) -> None:
    """Install packages on first use, unless their programs are there; only root can, and others skip the test.

    In CI nothing is skipped for it: what cannot be installed there fails.

    :param programs: by name or by path.
    """
    if all(shutil.which(program) for program in programs):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        lacks = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        lacks(f"needs Debian's packages: apt-get install {' '.join(packages)}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "-q", "update"], check=True, capture_output=True, env=quiet)
    subprocess.run(
        ["apt-get", "-qy", "install", "--no-install-recommends", *packages], check=True, capture_output=True, env=quiet
    )
