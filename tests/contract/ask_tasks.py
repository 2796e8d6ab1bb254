"""Ask the Airflow that runs this what it makes of serialized Dags: ``ask_tasks.py DAGS ANSWERS``, both files of JSON.

For each Dag its tasks, and of each task what a task instance takes over, as text. ``ask_tasks.py --examples FILE`` writes
Airflow's own example Dags instead, as this release serializes them.
"""

from __future__ import annotations

import json
import pickle
import runpy
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

try:
    from airflow.serialization.serialized_objects import DagSerialization
except ImportError:  # before 3.2
    from airflow.serialization.serialized_objects import SerializedDAG as DagSerialization


def told(data: dict[str, Any]) -> Any:
    """Return what each task of a Dag is when this Airflow has read it."""
    try:
        dag = DagSerialization.from_dict(data)
        return {task.task_id: _of(task) for task in dag.task_dict.values()}
    except Exception as error:
        return f"error: {type(error).__name__}"


def _of(task: Any) -> dict[str, str]:
    try:
        length = str(task.get_parse_time_mapped_ti_count())
    except Exception as error:
        assert type(error).__name__ in ("NotMapped", "NotFullyPopulated"), error
        length = "None"
    names = ("retries", "queue", "pool", "pool_slots", "executor", "task_display_name", "is_teardown")
    return {
        **{name: str(getattr(task, name)) for name in names},
        "operator": task.task_type,
        "custom_operator_name": getattr(task, "operator_name", task.task_type),
        "dates": str([None if (at := getattr(task, name)) is None else _utc(at) for name in ("start_date", "end_date")]),
        "weight": str(max(-(2**31), min(2**31 - 1, task.weight_rule.get_weight(SimpleNamespace(task=task))))),
        "executor_config": str(_shown(_stored(task.executor_config))),
        "length": length,
        "assets": str(
            sorted({(a.name, a.uri) for a in [*task.inlets, *task.outlets] if type(a).__name__.endswith("Asset")})
        ),
    }


def _utc(moment: datetime) -> str:
    return datetime.fromtimestamp(moment.timestamp(), UTC).isoformat()


def _stored(executor_config: Any) -> Any:
    """Return what the column holds of it: a pod is serialized there."""
    from airflow.utils.sqlalchemy import ExecutorConfigType
    from sqlalchemy.dialects.postgresql import psycopg2

    process = ExecutorConfigType().bind_processor(psycopg2.dialect())
    return pickle.loads(process(executor_config))


def _shown(value: Any) -> Any:
    """Return a value with moments as text, and sets in order."""
    if isinstance(value, dict):
        return {_shown(name): _shown(item) for name, item in sorted(value.items())}
    if isinstance(value, str):
        return str.__str__(value)  # a member of Airflow's enumerations of texts is read as its text
    if isinstance(value, datetime):
        return _utc(value)
    if isinstance(value, set):
        return ["a set", *sorted(map(str, value))]
    return type(value)(map(_shown, value)) if isinstance(value, list | tuple) else value


def examples() -> dict[str, Any]:
    """Return Airflow's own example Dags, serialized, as far as they can be imported here."""
    import airflow
    from airflow.providers.standard import example_dags
    from airflow.sdk import DAG
    from airflow.sdk.definitions._internal.contextmanager import DagContext

    found: dict[str, Any] = {}
    for folder in (Path(airflow.__path__[0]) / "example_dags", *map(Path, example_dags.__path__)):
        for file in sorted(folder.glob("*.py")):
            DagContext.current_autoregister_module_name = file.stem
            DagContext.autoregistered_dags.clear()
            try:
                values = runpy.run_path(str(file), run_name=file.stem).values()
                dags = [
                    *(value for value in values if isinstance(value, DAG)),
                    *(d for d, _ in DagContext.autoregistered_dags),
                ]
                found |= {dag.dag_id: json.loads(json.dumps(DagSerialization.to_dict(dag))) for dag in dags}
            except Exception as error:  # it needs a provider, or a plugin, that is not here
                print(file.name, error, file=sys.stderr)
    return found


if __name__ == "__main__":
    first, output = sys.argv[1:]
    if first == "--examples":
        Path(output).write_text(json.dumps(examples()))
    else:
        Path(output).write_text(json.dumps({name: told(data) for name, data in json.loads(Path(first).read_text()).items()}))
