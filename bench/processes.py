"""CPU and memory of process trees, from Linux's ``/proc``."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
CPU_GROUPS = Path("/sys/fs/cgroup/cpu")
PERIOD = 100_000  # microseconds: the kernel's, after which a quota is given anew
PAGE = os.sysconf("SC_PAGE_SIZE")


def tree(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    found = [pid]
    for process in found:
        try:
            for thread in Path(f"/proc/{process}/task").iterdir():
                found += [int(child) for child in (thread / "children").read_text().split()]
        except OSError:
            continue
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process tree, its ended children included."""
    ticks = 0
    for process in tree(pid):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(value) for value in fields[11:15])  # utime, stime, cutime, cstime
    return ticks / TICK


async def settled(pid: int) -> None:
    """Wait until a server has made what it makes after its start: it is idle then."""
    before = -1.0
    while (now := cpu_seconds(pid)) > before:
        before = now
        await asyncio.sleep(0.5)


def resident_bytes(pid: int) -> int:
    """Return the resident memory of the largest process of a tree: the one worker process."""
    sizes = []
    for process in tree(pid):
        try:
            sizes.append(int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE)
        except OSError:
            continue
    return max(sizes, default=0)


def memory_bytes(pid: int) -> tuple[int, int]:
    """Return what a process has in memory for itself, and what it shares with others."""
    sizes = {"Private": 0, "Shared": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        if (kind := line.partition("_")[0]) in sizes and not line.startswith("Shared_Hugetlb"):
            sizes[kind] += int(line.split()[1]) * 1024
    return sizes["Private"], sizes["Shared"]


@contextmanager
def peak_bytes(pid: int) -> Iterator[Callable[[], int]]:
    """Give what tells the most memory that any process of a tree has had since the block began."""
    for process in tree(pid):
        Path(f"/proc/{process}/clear_refs").write_text("5")
    yield lambda: max(
        int(Path(f"/proc/{process}/status").read_text().split("VmHWM:")[1].split()[0]) * 1024 for process in tree(pid)
    )


@contextmanager
def quota(pid: int, share: float) -> Iterator[None]:
    """Let a process tree have only this share of one CPU, through a control group.

    :raises OSError: control groups of version 1 with ``cpu`` cannot be made here.
    """
    group = CPU_GROUPS / f"bench-{pid}"
    group.mkdir()
    try:
        (group / "cpu.cfs_quota_us").write_text(str(int(share * PERIOD)))
        for process in tree(pid):
            (group / "cgroup.procs").write_text(str(process))
        yield
    finally:
        for process in (group / "cgroup.procs").read_text().split():
            (CPU_GROUPS / "cgroup.procs").write_text(process)
        group.rmdir()


@contextmanager
def affinity(cpus: set[int]) -> Iterator[None]:
    """Start what the block starts on these CPUs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
