"""Loops of a serialized Dag: task groups that a run repeats until their gate says that it is enough; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

GATE = "LoopGateOperator"  # the class of the tasks that decide whether a loop goes on
RESERVED_KEYS = "_airflow_loop_"  # how the keys of the XComs begin that only the server sets


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop.

    :param node_id: the id of its task group.
    :param gate_task_id: which of its tasks decides, at the end of each pass, whether there is another one.
    :param terminal_task_id: which of its tasks is the last one before the gate.
    :param max_iterations: how many passes there are at most.
    :param has_until: whether the gate asks a condition; else it makes all passes.
    """

    node_id: str
    gate_task_id: str
    terminal_task_id: str
    max_iterations: int
    has_until: bool

    def refuse(self, stop: bool | None, *, number: int) -> str | None:
        """Say why the gate of a pass cannot have decided so, or None.

        :param stop: its decision; None: it told none.
        :param number: of the pass, from 0.
        """
        is_last = number + 1 >= self.max_iterations
        if stop is None:
            return "Successful loop gate requires a decision"
        if not stop and is_last:
            return "Loop cannot continue beyond its iteration limit"
        if not self.has_until and stop != is_last:
            return "Fixed-count loop decision does not match its iteration limit"
        return None


def around(dag: Mapping[str, Any]) -> dict[str, Loop]:
    """Return, by task id, the loop that repeats a task of a serialized Dag; no loop is in another."""
    return dict(_loops(dag["task_group"], None))


def _loops(group: Mapping[str, Any], loop: Loop | None) -> Iterator[tuple[str, Loop]]:
    for name, (kind, child) in group["children"].items():
        if kind == "taskgroup":  # its own id is its label alone
            yield from _loops(child, Loop(name, **child["loop"]) if "loop" in child else loop)
        elif loop is not None:
            yield name, loop
