"""Draw breaking points: ``python bench/plot.py docs/performance/curve.json docs/performance/curve.png``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

COLOURS = {"ours": "tab:green", "3.2.1": "tab:orange", "3.3.2": "tab:red"}


def main(source: Path, target: Path) -> None:
    curves = json.loads(source.read_text())
    figure, (latencies, errors) = pyplot.subplots(2, 1, sharex=True, figsize=(9, 8))
    for name, points in curves.items():
        workers = [point["workers"] for point in points]
        colour = COLOURS[name]
        latencies.plot(workers, [point["p99"] for point in points], "o-", color=colour, label=f"{name}, p99")
        latencies.plot(workers, [point["p50"] for point in points], "--", color=colour, label=f"{name}, p50")
        errors.plot(workers, [100 * point["lost"] for point in points], "o-", color=colour, label=f"{name}, lost")
        errors.plot(workers, [100 * point["refused"] for point in points], ":", color=colour, label=f"{name}, 503 at once")
    latencies.set(ylabel="milliseconds, of the served", xscale="log", yscale="log", title="One worker process of the server")
    errors.set(xlabel="workers, each asking as soon as it was answered", ylabel="% of requests")
    for axes in (latencies, errors):
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    figure.tight_layout()
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
