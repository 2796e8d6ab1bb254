"""The few things that we read from a serialized Dag: task groups, inlets and outlets, teardown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
