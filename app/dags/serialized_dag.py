"""The few things that we read from a serialized Dag: task groups, inlets and outlets, teardown, tasks to create, params."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from math import prod
from typing import Any

ASSET_TYPE = "asset"


def tasks_in_group(root: Mapping[str, Any], group_id: str) -> list[str] | None:
    """Return the ids of all tasks inside a task group, nested groups included, or None when there is no such group.

    :param root: the serialized root task group.
    """
    group = _find_group(root, group_id)
    return None if group is None else list(_tasks(group))


def assets_of(task: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return (name, uri) of the assets among a serialized task's inlets and outlets."""
    return {
        (item["__var"]["name"], item["__var"]["uri"])
        for side in ("inlets", "outlets")
        for item in _list(_attribute(task, side))
        if isinstance(item, Mapping) and item.get("__type") == ASSET_TYPE
    }


def is_teardown(task: Mapping[str, Any]) -> bool:
    """Say whether a serialized task tears something down."""
    return bool(_attribute(task, "is_teardown"))


def _attribute(task: Mapping[str, Any], name: str) -> Any:
    """Return an attribute of a task; a mapped one keeps most of them under ``partial_kwargs``."""
    return task.get(name, task.get("partial_kwargs", {}).get(name))


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
    "start_date": None,
    "end_date": None,
    "_task_display_name": None,
    "_operator_name": None,
    "downstream_task_ids": (),
}
NOT_MAPPED = -1  # stands for "no mapped group around it"
INT4 = 2**31 - 1  # task_instance.priority_weight is an int4


class UnknownWeightRule(ValueError):
    """A weight rule that is none of Airflow's own; the message names it."""


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """A task instance to create.

    :param values: columns of its row that come from the Dag.
    """

    task_id: str
    map_index: int
    values: Mapping[str, Any]


def planned_tasks(data: Mapping[str, Any], logical_date: datetime | None) -> list[PlannedTask]:
    """Return the task instances of a new run, in the Dag's order.

    A task that is mapped over what is known already is expanded; any other has one instance, which the scheduler expands.

    :param data: a whole serialized Dag.
    :raises UnknownWeightRule: when a task has one of its own.
    """
    tasks, defaults = _tasks_of(data)
    weights = _Weights(tasks, defaults)
    groups = dict(_mapped_lengths(data["dag"]["task_group"], 1, mapped=False))
    planned = []
    for task_id, task in tasks.items():
        if not _runs_at(task, defaults, logical_date):
            continue
        values = {
            **_columns(task, defaults),
            "max_tries": _value(task, "retries", defaults),
            "priority_weight": weights.of(task_id),
            "task_display_name": _value(task, "_task_display_name", defaults) or task_id,
        }
        indexes = _map_indexes(task, groups.get(task_id, NOT_MAPPED)) or (-1,)
        planned += [PlannedTask(task_id, index, values) for index in indexes]
    return planned


def known_map_indexes(data: Mapping[str, Any]) -> dict[str, Sequence[int] | None]:
    """Return, by task id, the map indexes that a run's instances of it have: -1 unless mapped, None when not known yet.

    :param data: a whole serialized Dag.
    """
    groups = dict(_mapped_lengths(data["dag"]["task_group"], 1, mapped=False))
    return {task_id: _map_indexes(task, groups.get(task_id, NOT_MAPPED)) for task_id, task in _tasks_of(data)[0].items()}


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
    tasks, defaults = _tasks_of(data)
    weights = _Weights(tasks, defaults)
    found = {}
    for task_id, task in tasks.items():
        values = _columns(task, defaults)
        with suppress(UnknownWeightRule):
            values["priority_weight"] = weights.of(task_id)
        found[task_id] = TaskToRepeat(_value(task, "retries", defaults), values)
    return found


def _tasks_of(data: Mapping[str, Any]) -> tuple[dict[str, Mapping[str, Any]], dict[str, Any]]:
    """Return the tasks of a serialized Dag by id, and what they have where they say nothing."""
    tasks = {task["__var"]["task_id"]: task["__var"] for task in data["dag"]["tasks"]}
    return tasks, {**TASK_DEFAULTS, **(data.get("client_defaults") or {}).get("tasks", {})}


def _columns(task: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: _value(task, name, defaults) for name in ("queue", "pool", "pool_slots", "executor")},
        "executor_config": pickle.dumps(_plain(_value(task, "executor_config", defaults)), protocol=5),
        "operator": task.get("task_type", "BaseOperator"),
        "custom_operator_name": task.get("_operator_name") or task.get("task_type", "BaseOperator"),
    }


def invalid_param(data: Mapping[str, Any], conf: Mapping[str, Any]) -> str | None:
    """Say which of the Dag's params a run's conf makes invalid, and why; None when all are valid."""
    import jsonschema  # megabytes, and a part of every start, for what few requests ask

    for name, param in data["dag"].get("params") or ():
        value, schema = param.get("default"), _plain(param.get("schema")) or {}
        if name in conf:
            both = isinstance(value, dict) and isinstance(conf[name], dict)
            value = _merged(_plain(value), conf[name]) if both else conf[name]
        elif isinstance(value, dict) and value.get("__type") == "arg_not_set":
            return f"Invalid input for param {name}: No value passed"
        try:
            jsonschema.validate(_plain(value), schema, format_checker=jsonschema.FormatChecker())
        except jsonschema.ValidationError as error:
            return f"Invalid input for param {name}: {error.message}"
    return None


def _merged(default: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(default)
    for name, value in given.items():
        both = isinstance(result.get(name), dict) and isinstance(value, dict)
        result[name] = _merged(result[name], value) if both else value
    return result


def earliest_logical_date(data: Mapping[str, Any]) -> datetime | None:
    """Return the start date among the Dag's default arguments, before which no run may be triggered."""
    arguments = _plain(data["dag"].get("default_args")) or {}
    return _moment(arguments.get("start_date"))


def _value(task: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> Any:
    """Return an attribute of a task: its own, or the Dag file's default, or Airflow's."""
    value = task.get(name, task.get("partial_kwargs", {}).get(name, defaults.get(name)))
    return defaults.get(name) if value is None else value


def _runs_at(task: Mapping[str, Any], defaults: Mapping[str, Any], logical_date: datetime | None) -> bool:
    if logical_date is None:
        return True
    start, end = (_moment(_value(task, name, defaults)) for name in ("start_date", "end_date"))
    return (start is None or start <= logical_date) and (end is None or logical_date <= end)


def _moment(encoded: Any) -> datetime | None:
    if isinstance(encoded, Mapping):
        encoded = encoded.get("__var")
    return None if encoded is None else datetime.fromtimestamp(encoded, UTC)


def _plain(value: Any) -> Any:
    """Return a serialized dict, list or tuple as plain JSON; other types stay encoded."""
    if isinstance(value, Mapping):
        if value.get("__type") == "dict":
            value = value["__var"]
        elif value.get("__type") in ("tuple", "set"):
            return [_plain(item) for item in value["__var"]]
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _map_indexes(task: Mapping[str, Any], group_length: int | None) -> Sequence[int] | None:
    """Return the map indexes of a task's instances: -1 alone for one that is not mapped, None when not known yet.

    :param group_length: how often the mapped groups around it repeat it: :data:`NOT_MAPPED`, or None when not known yet.
    """
    is_mapped = bool(task.get("_is_mapped"))
    if not is_mapped and group_length == NOT_MAPPED:
        return (-1,)
    lengths = [_length(task[task["_expand_input_attr"]])] if is_mapped else []
    if group_length != NOT_MAPPED:
        lengths.append(group_length)
    return None if None in lengths else range(prod(length for length in lengths if length is not None))


def _mapped_lengths(group: Mapping[str, Any], around: int | None, *, mapped: bool) -> Iterator[tuple[str, int | None]]:
    """Yield each task with how often the mapped groups around it repeat it: :data:`NOT_MAPPED`, None when unknown."""
    if group.get("is_mapped"):
        length = _length(group["expand_input"])
        around, mapped = (None if length is None or around is None else around * length), True
    for name, (kind, child) in group["children"].items():
        if kind == "taskgroup":
            yield from _mapped_lengths(child, around, mapped=mapped)
        else:
            yield name, (around if mapped else NOT_MAPPED)


def _length(expand_input: Mapping[str, Any]) -> int | None:
    """Return how many instances literal arguments make, or None when one of them comes from another task."""
    value = _plain(expand_input["value"])
    if expand_input["type"] == "list-of-dicts":
        return len(value) if isinstance(value, list) else None
    if not all(isinstance(item, list) or (isinstance(item, dict) and "__type" not in item) for item in value.values()):
        return None
    return prod(len(item) for item in value.values())


class _Weights:
    """Priority weights, by the rule of each task, over the graph of all."""

    def __init__(self, tasks: Mapping[str, Mapping[str, Any]], defaults: Mapping[str, Any]) -> None:
        self._own = {task_id: _value(task, "priority_weight", defaults) for task_id, task in tasks.items()}
        self._rules = {task_id: _value(task, "weight_rule", defaults) for task_id, task in tasks.items()}
        self._down = {t: list(_value(task, "downstream_task_ids", defaults)) for t, task in tasks.items()}
        self._up: dict[str, list[str]] = {task_id: [] for task_id in tasks}
        for task_id, below in self._down.items():
            for other in below:
                self._up[other].append(task_id)

    def of(self, task_id: str) -> int:
        match str(self._rules[task_id]).rpartition(".")[2].removeprefix("_").removesuffix("PriorityWeightStrategy").lower():
            case "absolute":
                total = self._own[task_id]
            case "downstream":
                total = self._own[task_id] + sum(self._own[t] for t in self._reached(task_id, self._down))
            case "upstream":
                total = self._own[task_id] + sum(self._own[t] for t in self._reached(task_id, self._up))
            case _:
                raise UnknownWeightRule(
                    f"the weight rule {self._rules[task_id]!r} of task {task_id!r} cannot be computed here"
                )
        return max(-INT4 - 1, min(INT4, int(total)))

    @staticmethod
    def _reached(start: str, edges: Mapping[str, list[str]]) -> set[str]:
        found: set[str] = set()
        ahead = list(edges[start])
        while ahead:
            if (task_id := ahead.pop()) not in found:
                found.add(task_id)
                ahead += edges[task_id]
        return found
