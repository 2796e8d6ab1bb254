"""What each supported Airflow serializes of the corpus' Dags: asked of the releases themselves, and kept as data.

``serialized/RELEASE.json`` holds, by the name that cases give it, each Dag of the folder ``dags`` as that
release serializes it, a line a Dag. A release without a file serializes all as the one before it. ``python -m
tests.contract.serialized`` asks every release anew and writes what changed (``make serialized``).
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tests.servers import airflow_environment, clean_environment, with_pods

RELEASES = ("3.2.0", "3.2.1", "3.2.2", "3.3.0", "3.3.1", "3.3.2", "3.4.0b2")
FOLDER = Path(__file__).parent
KEPT = FOLDER / "serialized"
# Of the tasks that say nothing themselves; what Airflow's schema does not have by itself is serialized with each Dag.
OTHER_DEFAULTS = {
    "AIRFLOW__CORE__DEFAULT_TASK_RETRIES": "3",
    "AIRFLOW__CORE__DEFAULT_TASK_WEIGHT_RULE": "upstream",
    "AIRFLOW__OPERATORS__DEFAULT_QUEUE": "other",
}

Dags = Mapping[str, dict[str, Any]]


@cache
def kept(release: str) -> Dags:
    """Return what is kept of a release: its Dags by name. Nothing in it may be changed: it is handed out again."""
    newest = max(file for file in KEPT.glob("*.json") if file.stem <= release)
    found: Dags = json.loads(newest.read_text())
    return found


def dag(release: str, name: str) -> dict[str, Any]:
    """Return a copy of a Dag as a release serializes it."""
    copied: dict[str, Any] = json.loads(json.dumps(kept(release)[name]))
    return copied


def asked(release: str) -> Dags:
    """Return what a release serializes now, asked in an environment of its own (8 s; its installation, once, 10 to 30 s)."""
    since = [each for each in ("3.3", "3.4") if release >= each]
    folders = [FOLDER / "dags", *(FOLDER / "dags" / f"since_{each.replace('.', '_')}" for each in since)]
    return {**_asked(release, folders), **_asked(release, [FOLDER / "dags" / "other_defaults"], OTHER_DEFAULTS)}


def _asked(release: str, folders: list[Path], settings: Mapping[str, str] | None = None) -> Dags:
    with tempfile.TemporaryDirectory() as home:
        output = Path(home) / "serialized.json"
        options = {"AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False", **(settings or {})}
        command = [str(airflow_environment(release) / "bin" / "python"), str(FOLDER / "serialize.py"), str(output)]
        ended = subprocess.run(
            [*command, *map(str, folders)], env=clean_environment() | options | with_pods(), capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        found: Dags = json.loads(output.read_text())
    return found


def lines(dags: Dags) -> Iterator[str]:
    """Yield the lines of a file that keeps ``dags``."""
    yield "{"
    for number, (name, data) in enumerate(sorted(dags.items()), start=1):
        comma = "," if number < len(dags) else ""
        yield f"{json.dumps(name)}: {json.dumps(data, sort_keys=True, separators=(',', ':'))}{comma}"
    yield "}"


def write() -> None:
    """Ask every release and keep what it says, where it is not what the one before it says."""
    before: Dags = {}
    for release in RELEASES:
        now, file = asked(release), KEPT / f"{release}.json"
        if now == before:
            file.unlink(missing_ok=True)
        else:
            file.write_text("\n".join(lines(now)) + "\n")
        before = now


if __name__ == "__main__":
    write()
