"""What a task takes over from its Dag's text, attribute by attribute, as each Airflow reads it.

The text is the corpus', and that of Airflow's own example Dags: as the release itself serializes them, and as 3.0 did, whose
Dags are in the database until they are parsed again after an upgrade.
"""

from __future__ import annotations

import json
import pickle
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.dags import mapping, serialized_dag
from app.dags.serialized_dag import UnknownWeightRule
from tests.contract.serialized import kept
from tests.servers import AIRFLOW, airflow_environment, clean_environment, with_pods

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("ask_tasks.py")
OLDEST = "3.0.6"
AT_LEAST = 70  # example Dags of a release


def _ask(release: str, home: Path, *arguments: str) -> Any:
    output = home / "output.json"
    command = [str(airflow_environment(release) / "bin" / "python"), str(SCRIPT), *arguments, str(output)]
    environment = {**clean_environment(), **with_pods(), "AIRFLOW_HOME": str(home)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(output.read_text())


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = _ask(OLDEST, tmp_path_factory.mktemp("oldest"), "--examples")
    return found


@pytest.mark.parametrize("revision", AIRFLOW)
def test_as_airflow_reads_it(revision: str, oldest: dict[str, Any], tmp_path: Path) -> None:
    release = AIRFLOW[revision]
    examples = _ask(release, tmp_path, "--examples")
    assert len(examples) >= AT_LEAST
    assert len(oldest) >= AT_LEAST
    dags = {f"{OLDEST}: {name}": data for name, data in oldest.items()} | examples | dict(kept(release))
    (tmp_path / "dags.json").write_text(json.dumps(dags))
    theirs = _ask(release, tmp_path, str(tmp_path / "dags.json"))
    differing = [
        (name, task_id, attribute, told, ours.get(task_id, {}).get(attribute))
        for name, tasks in theirs.items()
        if isinstance(tasks, dict) and (ours := _ours(dags[name]))
        for task_id, attributes in tasks.items()
        for attribute, told in attributes.items()
        if ours.get(task_id, {}).get(attribute) != told
    ]
    assert differing == []
    unread = {name: tasks for name, tasks in theirs.items() if not isinstance(tasks, dict)}
    assert unread.keys() & kept(release).keys() == set(), unread
    assert len(unread) < 5, unread


def _ours(data: dict[str, Any]) -> dict[str, dict[str, str]]:
    tasks = {task["__var"]["task_id"]: task["__var"] for task in data["dag"]["tasks"]}
    repeated = mapping.repeated(data["dag"])
    try:
        planned = {task.task_id: task.values for task in serialized_dag.planned_tasks(data, None)}
    except UnknownWeightRule:
        return {}
    names = ("queue", "pool", "pool_slots", "executor", "task_display_name")
    return {
        task_id: {
            **{name: str(planned[task_id][name]) for name in names},
            "retries": str(planned[task_id]["max_tries"]),
            "is_teardown": str(serialized_dag.is_teardown(task)),
            "operator": planned[task_id]["operator"],
            "custom_operator_name": planned[task_id]["custom_operator_name"],
            "dates": str([None if at is None else at.isoformat() for at in serialized_dag.dates_of(task, data["dag"])]),
            "weight": str(planned[task_id]["priority_weight"]),
            "executor_config": str(_shown(pickle.loads(planned[task_id]["executor_config"]))),
            "length": str(repeated[task_id].length() if repeated[task_id].is_mapped else None),
            "assets": str(sorted(serialized_dag.assets_of(task))),
        }
        for task_id, task in tasks.items()
    }


def _shown(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shown(item) for name, item in sorted(value.items())}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, set):
        return ["a set", *sorted(map(str, value))]
    return type(value)(map(_shown, value)) if isinstance(value, list | tuple) else value
