"""A release is made by one command, in a copy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.servers import ROOT
from tests.wheels import copy_sources

pytestmark = pytest.mark.slow

RELEASED = ("app", "deploy", "execution_api", "scripts", "CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml")
SECTION = re.compile(r"^## (.*)$", re.M)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return copy_sources(RELEASED, tmp_path)


def _release(folder: Path, version: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [folder / "scripts" / "release", version]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_release_has_its_version_and_date_everywhere(copy: Path) -> None:
    made = _release(copy, "12.3.4")
    assert made.returncode == 0, made.stderr
    changelog = (copy / "CHANGELOG.md").read_text()
    assert SECTION.findall(changelog)[:2] == ["Unreleased", f"12.3.4 - {datetime.now(UTC):%Y-%m-%d}"]
    assert "12.3.4" in (copy / "app" / "__init__.py").read_text()
    assert (copy / "deploy" / "chart" / "Chart.yaml").read_text().count("ersion: 12.3.4\n") == 2
    source, wheel = sorted(path.name for path in (copy / "dist").iterdir() if path.suffix in {".gz", ".whl"})[::-1]
    assert (source, wheel) == ("execution_api-12.3.4.tar.gz", "execution_api-12.3.4-py3-none-any.whl")
    with zipfile.ZipFile(copy / "dist" / wheel) as files:
        metadata = message_from_bytes(files.read("execution_api-12.3.4.dist-info/METADATA"))
    assert (metadata["Version"], metadata["License-Expression"]) == ("12.3.4", "Apache-2.0")
    assert metadata["Description-Content-Type"] == "text/markdown"

    again = _release(copy, "12.3.5")
    assert (again.returncode, again.stderr) == (1, "nothing is unreleased: CHANGELOG.md has no entry\n")


@pytest.mark.parametrize("version", ["1.2", "v1.2.3", "1.2.3 "])
def test_what_is_no_version_is_refused(copy: Path, version: str) -> None:
    assert _release(copy, version).returncode == 64
    assert (copy / "CHANGELOG.md").read_text() == (ROOT / "CHANGELOG.md").read_text()


def test_the_changelog_is_dated() -> None:
    sections = SECTION.findall((ROOT / "CHANGELOG.md").read_text())
    assert sections[0] == "Unreleased"
    versions = [re.fullmatch(r"(\d+)\.(\d+)\.(\d+) - \d{4}-\d\d-\d\d", each) for each in sections[1:]]
    numbers = [tuple(map(int, each.groups())) for each in versions if each]
    assert len(numbers) == len(versions)
    assert numbers == sorted(numbers, reverse=True)
