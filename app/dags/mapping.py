"""How often mapped tasks, and the tasks of mapped groups, are repeated in a run: pure.

Arguments that are written in the Dag's file make a length that is known at once. Others come from what tasks return: these
are known when the tasks have ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

from app.dags.base_serialization import TYPE, VALUE

Lengths = Mapping[str, int]  # how many values each unmapped task has returned to be mapped over, as far as that is known
NOT_YET: Lengths = {}  # of a run that is not made yet


class Repeated:
    """A task that its own mapping or mapped groups around it repeat, or that nothing repeats.

    :param inputs: the serialized arguments of each mapping, its own and those of the groups around it.
    """

    def __init__(self, inputs: Sequence[Mapping[str, Any]]) -> None:
        self._inputs = inputs

    @property
    def is_mapped(self) -> bool:
        """Whether anything repeats it."""
        return bool(self._inputs)

    def length(self, known: Lengths = NOT_YET) -> int | None:
        """Return how often it is repeated, or None when that is not known yet.

        :param known: without it, what the Dag's file alone tells.
        """
        return _product(_length(each, known) for each in self._inputs)

    def map_indexes(self, known: Lengths = NOT_YET) -> Sequence[int]:
        """Return the map indexes of its instances in a new run: -1 alone as long as no number above zero is known."""
        length = self.length(known) if self.is_mapped else None
        return range(length) if length else (-1,)

    def has_no(self, map_index: int, known: Lengths) -> bool:
        """Say whether an instance that a run has cannot be one of it; as the scheduler judges those of an older version."""
        if not self.is_mapped:
            return False  # whatever it was before, it is left to run
        if (literal := self.length()) is not None:
            return not 0 <= map_index < literal
        return map_index >= (self.length(known) or 0)


NEVER = Repeated(())  # what most tasks are


def repeated(dag: Mapping[str, Any]) -> dict[str, Repeated]:
    """Return every task of a serialized Dag by its id, with what repeats it."""
    around = dict(_inputs_around(dag["task_group"], ()))
    found = {}
    for encoded in dag["tasks"]:
        task = encoded[VALUE]
        inputs = around.get(task["task_id"], ())
        if task.get("_is_mapped"):
            inputs = (*inputs, task[task["_expand_input_attr"]])
        found[task["task_id"]] = Repeated(inputs) if inputs else NEVER
    return found


def depends_on_results(dag: Mapping[str, Any]) -> bool:
    """Say whether how often a task is repeated depends on what another one returns."""
    return any(task.is_mapped and task.length() is None for task in repeated(dag).values())


def known_lengths(dag: Mapping[str, Any], returned: Lengths) -> Lengths:
    """Return of what a run's tasks have returned how much is known for ever: each instance of a mapped task returns a part.

    :param dag: the serialized Dag that the run has now.
    """
    mapped = {task[VALUE]["task_id"] for task in dag["tasks"] if task[VALUE].get("_is_mapped")}
    return {task_id: length for task_id, length in returned.items() if task_id not in mapped}


def _inputs_around(
    group: Mapping[str, Any], around: tuple[Mapping[str, Any], ...]
) -> Iterator[tuple[str, tuple[Mapping[str, Any], ...]]]:
    """Yield each task with the arguments of the mapped groups around it."""
    if group.get("is_mapped"):
        around = (*around, group["expand_input"])
    for name, (kind, child) in group["children"].items():
        if kind == "taskgroup":
            yield from _inputs_around(child, around)
        else:
            yield name, around


def _length(expand_input: Mapping[str, Any], known: Lengths) -> int | None:
    """Return how many instances the arguments of one mapping make."""
    value = expand_input["value"]
    if expand_input["type"] == "list-of-dicts":
        return _size(value, known)
    arguments = value[VALUE]
    return _product(_size(each, known) for each in arguments.values()) if arguments else 0


def _size(argument: Any, known: Lengths) -> int | None:
    """Return how many values an argument has: one that is written out, or one that tasks return."""
    if not isinstance(argument, Mapping):
        return len(argument)
    if argument[TYPE] == "xcomref":
        return _returned(argument[VALUE], known)
    return len(argument[VALUE]) if argument[TYPE] in ("dict", "tuple", "set") else None


def _returned(reference: Mapping[str, Any], known: Lengths) -> int | None:
    """Return how many values a reference to what tasks return stands for."""
    match reference.get("type", ""):
        case "map":
            return _returned(reference["arg"], known)
        case "concat":
            parts = [_returned(each, known) for each in reference["args"]]
            return None if None in parts else sum(part for part in parts if part is not None)
        case "zip":
            parts = [_returned(each, known) for each in reference["args"]]
            fill = reference.get("fillvalue")
            filled = "fillvalue" in reference and not (isinstance(fill, Mapping) and fill.get(TYPE) == "arg_not_set")
            return None if None in parts else (max if filled else min)(part for part in parts if part is not None)
        case "":
            return known.get(reference["task_id"])
    return None


def _product(lengths: Iterator[int | None]) -> int | None:
    found = list(lengths)
    return None if None in found else prod(length for length in found if length is not None)
