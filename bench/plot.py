"""Draw what becomes of tasks: ``python bench/plot.py docs/performance/curve.json docs/performance/curve.png``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

COLOURS = {"ours": "tab:green", "3.2.1": "tab:orange", "3.3.2": "tab:red"}
LINES = {1.0: "o-", 0.5: "s--", 0.25: "^:"}
AT_ONCE, PAUSES = "at once", "pauses"


def main(source: Path, target: Path) -> None:
    curves = json.loads(source.read_text())
    figure, axes = pyplot.subplots(2, 2, figsize=(13, 9))
    (served, finished), (lost, heartbeats) = axes
    for name, records in curves.items():
        for speed, style in LINES.items():
            found = chosen(records, loop="closed", pauses=AT_ONCE, speed=speed)
            draw(served, found, "load", "served", style, COLOURS[name], f"{name}, {speed:g} CPU")
        for pauses, style in ((PAUSES, "o-"), (AT_ONCE, "s--")):
            found = chosen(records, loop="open", pauses=pauses)
            for axis, what in ((finished, "finished"), (lost, "lost"), (heartbeats, "heartbeat_p99")):
                draw(axis, found, "times", what, style, COLOURS[name], f"{name}, {pauses}")
    served.set(
        title="Workers that ask again at once",
        xlabel="workers",
        ylabel="requests served a second",
        xscale="log",
        yscale="log",
    )
    offered = "tasks offered, of those that are finished at saturation"
    finished.set(title="Tasks come, 20 ms to the database", xlabel=offered, ylabel="tasks finished a second", yscale="log")
    lost.set(title="Started tasks that were lost", xlabel=offered, ylabel="tasks")
    heartbeats.set(title="Heartbeats", xlabel=offered, ylabel="p99, milliseconds", yscale="log")
    for axis in axes.flat:
        axis.grid(visible=True, alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(target, dpi=110)


def chosen(records: Iterable[dict[str, Any]], **wanted: object) -> list[dict[str, Any]]:
    """Return the records with these values."""
    return [record for record in records if all(record.get(name) == value for name, value in wanted.items())]


def draw(axis: Any, records: list[dict[str, Any]], x: str, y: str, style: str, colour: str, label: str) -> None:
    """Draw one line, if there is any."""
    if records:
        axis.plot([each[x] for each in records], [each[y] for each in records], style, color=colour, label=label)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
