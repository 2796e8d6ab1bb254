"""Tasks in another language, which begin with what their stubs are called with."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.contract import serialized
from tests.contract.cases.case import ENTER, TI, Case
from tests.contract.cases.dag_setups import since, version_id, write_version
from tests.contract.cases.setups import SETUPS
from tests.servers import AIRFLOW
from tests.world import World

DAG = "served, with stubs"
STUBS: dict[str, Any] = {"extract": {}, "load": {}, "alone": {}, "each": {"map_index": 1, "is_mapped": True}}
LITERAL: dict[str, Any] = {"name": "day", "kind": "literal", "value": 1}
# What no release serializes, or not yet.
ODD: dict[str, Any] = {
    "no list": {"_arg_bindings": {"day": 1}},
    "none": {"_arg_bindings": []},
    "another kind": {"_arg_bindings": [LITERAL | {"kind": "variable"}]},
    "no kind": {"_arg_bindings": [{"name": "day", "value": 1}]},
    "an XCom of no task": {"_arg_bindings": [LITERAL, {"name": "rows", "kind": "xcom"}]},
    "more than is known": {"_arg_bindings": [LITERAL | {"unit": "s", "from_default": "yes"}]},
    "a schema that is none": {"_arg_bindings": [LITERAL | {"value_schema": "string"}]},
    "nothing but names": {"_arg_bindings": [{"name": "day", "kind": "literal"}]},
    "no stub": {"is_stub": False},
}


async def _begins(world: World, task_id: str, number: int = 10, changed: dict[str, Any] | None = None, **place: Any) -> Any:
    """Write a task instance of a stub that is queued.

    :param number: of the Dag's version, which no other Dag of that id has: Airflow keeps a Dag by its version's id.
    :param changed: parts of the serialized task.
    """
    tasks = serialized.dag(AIRFLOW[world.revision], DAG)["dag"]["tasks"]
    (task,) = (each["__var"] for each in tasks if each["__var"]["task_id"] == task_id)
    task |= changed or {}
    await world.dag("d")
    await write_version(world, DAG, number, changed={"tasks": tasks})
    version, operator = version_id("d", number), {"operator": task["task_type"], "custom_operator_name": "@task.stub"}
    await world.run("d", created_dag_version_id=version)
    return await world.ti("d", task_id, dag_version_id=version, **operator, **place)


SETUPS |= {f"the stub {task_id} begins": partial(_begins, task_id=task_id, **place) for task_id, place in STUBS.items()}
SETUPS |= {
    f"a stub with {what} begins": partial(_begins, task_id="extract", number=number, changed=odd)
    for number, (what, odd) in enumerate(ODD.items(), start=11)
}

CASES = [
    Case(
        f"{setup_}, {date}",
        "PATCH",
        f"{TI}/run",
        ENTER,
        setup=setup_,
        headers={"Airflow-API-Version": date},
        revisions=since(DAG),
    )
    for setup_ in (*(f"the stub {task_id} begins" for task_id in STUBS), *(f"a stub with {what} begins" for what in ODD))
    for date in ("2026-10-30", "2026-06-30")
]
