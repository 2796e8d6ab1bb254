"""The few things that we read from a serialized Dag: task groups, inlets and outlets, teardown, tasks to create."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from app.dags import loops, mapping
from app.dags.base_serialization import decoded
from app.dags.loops import Loop
from app.dags.mapping import Lengths
from app.errors import UnknownInDag

ASSET_TYPE = "asset"


def tasks_in_group(root: Mapping[str, Any], group_id: str) -> list[str] | None:
    """Return the ids of all tasks inside a task group, nested groups included, or None when there is no such group.

    :param root: the serialized root task group.
    """
    group = _find_group(root, group_id)
    return None if group is None else list(_tasks(group))


def assets_of(task: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return (name, uri) of the assets among a serialized task's inlets and outlets.

    Those of a mapped task, which are among its partial arguments, Airflow does not read either.
    """
    return {
        (item["__var"]["name"], item["__var"]["uri"])
        for side in ("inlets", "outlets")
        for item in _list(task.get(side))
        if isinstance(item, Mapping) and item.get("__type") == ASSET_TYPE
    }


def outlets_of(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a serialized task's outlets that name an asset or an alias, as its worker reports them."""
    kinds = {ASSET_TYPE: ("Asset", ("name", "uri")), "asset_alias": ("AssetAlias", ("name",))}
    items = [item for item in _list(task.get("outlets")) if isinstance(item, Mapping) and item.get("__type") in kinds]
    named = [(kinds[item["__type"]], item["__var"]) for item in items]
    return [{"type": kind, **{name: fields[name] for name in names}} for (kind, names), fields in named]


def is_teardown(task: Mapping[str, Any]) -> bool:
    """Say whether a serialized task tears something down."""
    return bool(_attribute(task, "is_teardown"))


def _attribute(task: Mapping[str, Any], name: str) -> Any:
    """Return an attribute of a task; a mapped one keeps most of them under ``partial_kwargs``."""
    if name in task or "partial_kwargs" not in task:
        return task.get(name)
    return task["partial_kwargs"].get(name)


def _list(value: Any) -> list[Any]:
    """Return a serialized list, which comes bare or wrapped with its type."""
    if isinstance(value, Mapping):
        value = value.get("__var")
    return value if isinstance(value, list) else []


def _find_group(group: Mapping[str, Any], group_id: str) -> Mapping[str, Any] | None:
    """Return the group with this id; children are named by their full id, a group itself only by its label."""
    for name, (kind, child) in group["children"].items():
        if kind == "taskgroup":
            found: Mapping[str, Any] | None = child if name == group_id else _find_group(child, group_id)
            if found is not None:
                return found
    return None


def _tasks(group: Mapping[str, Any]) -> Iterator[str]:
    for kind, child in group["children"].values():
        if kind == "taskgroup":
            yield from _tasks(child)
        else:
            yield child


# What a task has that says nothing else (Airflow's schema of serialized Dags, version 3).
TASK_DEFAULTS: Mapping[str, Any] = {
    "queue": "default",
    "pool": "default_pool",
    "pool_slots": 1,
    "priority_weight": 1,
    "weight_rule": "downstream",
    "retries": 0,
    "executor": None,
    "executor_config": {"__type": "dict", "__var": {}},
    "downstream_task_ids": (),
}
UNMAPPED = -1  # the map index of a task instance that is not one of several, or stands for them
INT4 = 2**31 - 1  # task_instance.priority_weight is an int4


class UnknownWeightRule(UnknownInDag):
    """A weight rule that is none of Airflow's own; the message names it."""


class PlannedTask(NamedTuple):
    """A task instance to create.

    :param is_mapped: whether the task is repeated.
    :param loop: what repeats it in passes, if anything does.
    :param is_nothing: whether it is repeated no times, as its Dag's file says, and waits for no other task or run.
    :param values: columns of its row that come from the Dag.
    """

    task_id: str
    map_index: int
    is_mapped: bool
    loop: Loop | None
    is_nothing: bool
    values: Mapping[str, Any]


def planned_tasks(
    data: Mapping[str, Any],
    logical_date: datetime | None,
    known: Lengths = mapping.NOT_YET,
    *,
    pass_of: Loop | None = None,
) -> list[PlannedTask]:
    """Return the task instances of a new run, in the Dag's order, or those of a further pass of a loop.

    A task that is mapped over what is known already is expanded; any other has one instance, which the scheduler expands, as
    it does all in a further pass.

    :param data: a whole serialized Dag.
    :param logical_date: only tasks whose dates it lies between are made; None makes all.
    :param known: how much the run's tasks have returned to be mapped over.
    :param pass_of: only what this loop repeats.
    :raises UnknownWeightRule: when a task has one of its own.
    """
    tasks = _tasks_of(data)
    weights = _Weights(tasks)
    repeated, looped = mapping.repeated(data["dag"]), loops.around(data["dag"])
    planned = []
    for task_id, task in tasks.items():
        loop = looped.get(task_id)
        if not _runs_at(task, data["dag"], logical_date) or pass_of not in (None, loop):
            continue
        values = _columns(task)
        values["max_tries"] = task["retries"]
        values["priority_weight"] = weights.of(task_id)
        values["task_display_name"] = _display_name(task)
        mapped = repeated[task_id]
        if not mapped.is_mapped:
            planned.append(PlannedTask(task_id, UNMAPPED, False, loop, False, values))
            continue
        indexes = mapped.map_indexes(known) if pass_of is None else (UNMAPPED,)
        is_nothing = mapped.length() == 0 and not _waits(task_id, tasks)
        planned += [PlannedTask(task_id, index, True, loop, is_nothing, values) for index in indexes]
    return planned


def _waits(task_id: str, tasks: Mapping[str, Mapping[str, Any]]) -> bool:
    """Say whether a task waits for another of its run, or for itself in the run before."""
    is_below = any(task_id in other["downstream_task_ids"] for other in tasks.values())
    return is_below or any(tasks[task_id].get(name) for name in ("depends_on_past", "wait_for_downstream"))


@dataclass(frozen=True, slots=True)
class TaskToRepeat:
    """What a cleared task instance takes over from its Dag.

    :param retries: how often a failure is tried again.
    :param values: columns of its row; without ``priority_weight`` where the rule is a strategy that cannot be computed here.
    """

    retries: int
    values: Mapping[str, Any]


def tasks_to_repeat(data: Mapping[str, Any]) -> dict[str, TaskToRepeat]:
    """Return, by task id, what the cleared task instances of a Dag take over from it.

    :param data: a whole serialized Dag.
    """
    tasks = _tasks_of(data)
    weights = _Weights(tasks)
    found = {}
    for task_id, task in tasks.items():
        values = _columns(task)
        with suppress(UnknownWeightRule):
            values["priority_weight"] = weights.of(task_id)
        found[task_id] = TaskToRepeat(task["retries"], values)
    return found


def _tasks_of(data: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the tasks of a serialized Dag by id; what one does not say is the Dag file's default, or Airflow's."""
    defaults = {**TASK_DEFAULTS, **(data.get("client_defaults") or {}).get("tasks", {})}
    tasks = dict[str, Mapping[str, Any]]()
    for encoded in data["dag"]["tasks"]:
        task = encoded["__var"]
        own = {**task["partial_kwargs"], **task} if "partial_kwargs" in task else task
        if None in own.values():
            own = {name: value for name, value in own.items() if value is not None}
        tasks[task["task_id"]] = defaults | own
    return tasks


def _columns(task: Mapping[str, Any]) -> dict[str, Any]:
    config, operator = task["executor_config"], task.get("task_type", "BaseOperator")
    return {
        "queue": task["queue"],
        "pool": task["pool"],
        "pool_slots": task["pool_slots"],
        "executor": task["executor"],
        "executor_config": NO_CONFIG if config == TASK_DEFAULTS["executor_config"] else _pickled(config),
        "operator": operator,
        "custom_operator_name": task.get("_operator_name") or operator,
    }


def _pickled(config: Mapping[str, Any]) -> bytes:
    return pickle.dumps(decoded(config), protocol=5)


NO_CONFIG = _pickled(TASK_DEFAULTS["executor_config"])  # of most tasks


def earliest_logical_date(data: Mapping[str, Any]) -> datetime | None:
    """Return the start date among the Dag's default arguments, before which no run may be triggered."""
    start = (decoded(data["dag"].get("default_args")) or {}).get("start_date")
    return start if isinstance(start, datetime) else None


def _display_name(task: Mapping[str, Any]) -> str:
    """Return a task's name for people: a mapped one keeps it under the name that ``partial`` takes."""
    name: str = task.get("_task_display_name") or task.get("task_display_name") or task["task_id"]
    return name


def dates_of(task: Mapping[str, Any], dag: Mapping[str, Any]) -> tuple[datetime | None, datetime | None]:
    """Return a task's start and end date; where it names none itself, its Dag's dates are its own."""
    start, end = (_moment(_attribute(task, name) or dag.get(name)) for name in ("start_date", "end_date"))
    return start, end


def _runs_at(task: Mapping[str, Any], dag: Mapping[str, Any], logical_date: datetime | None) -> bool:
    if logical_date is None:
        return True
    start, end = dates_of(task, dag)
    return (start is None or start <= logical_date) and (end is None or logical_date <= end)


def _moment(encoded: Any) -> datetime | None:
    if isinstance(encoded, Mapping):
        encoded = encoded.get("__var")
    return None if encoded is None else datetime.fromtimestamp(encoded, UTC)


class _Weights:
    """Priority weights, by the rule of each task, over the graph of all."""

    def __init__(self, tasks: Mapping[str, Mapping[str, Any]]) -> None:
        self._own = {task_id: task["priority_weight"] for task_id, task in tasks.items()}
        self._rules = {task_id: task["weight_rule"] for task_id, task in tasks.items()}
        self._down: dict[str, Sequence[str]] = {task_id: task["downstream_task_ids"] for task_id, task in tasks.items()}
        self._up: dict[str, list[str]] = {task_id: [] for task_id in tasks}
        for task_id, below in self._down.items():
            for other in below:
                self._up[other].append(task_id)

    def of(self, task_id: str) -> int:
        total = self._own[task_id]
        match self._rules[task_id]:
            case "absolute":
                pass
            case "downstream":
                total += self._total(task_id, self._down)
            case "upstream":
                total += self._total(task_id, self._up)
            case _:
                raise UnknownWeightRule(
                    f"the weight rule {self._rules[task_id]!r} of task {task_id!r} cannot be computed here"
                )
        return max(-INT4 - 1, min(INT4, int(total)))

    def _total(self, task_id: str, edges: Mapping[str, Sequence[str]]) -> Any:
        return sum(map(self._own.__getitem__, self._reached(task_id, edges))) if edges[task_id] else 0

    @staticmethod
    def _reached(start: str, edges: Mapping[str, Sequence[str]]) -> set[str]:
        found: set[str] = set()
        ahead = list(edges[start])
        while ahead:
            if (task_id := ahead.pop()) not in found:
                found.add(task_id)
                ahead += edges[task_id]
        return found
