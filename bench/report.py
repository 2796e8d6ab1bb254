"""The table of a run."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

Figures = Mapping[str, Mapping[str, Sequence[float]]]


def table(found: Figures) -> str:
    """Return medians with their spread, a row a figure, a column a target, and how many times less ours takes."""
    names = list(dict.fromkeys(name for figures in found.values() for name in figures))
    lines = [f"| | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]
    for name in names:
        ours = found.get("ours", {}).get(name, ())
        cells = [_cell(figures.get(name, ()), () if target == "ours" else ours) for target, figures in found.items()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([machine(), "", *lines])


def _cell(values: Sequence[float], ours: Sequence[float]) -> str:
    if not values:
        return ""
    middle = statistics.median(values)
    spread = f" ({_short(min(values))} to {_short(max(values))})" if len(values) > 1 else ""
    ratio = f", {middle / statistics.median(ours):.1f} × ours" if ours and statistics.median(ours) else ""
    return f"{_short(middle)}{spread}{ratio}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}, Python {platform.python_version()}"
