"""``execution-api size``: what it reckons with is what was measured, and a load is as it says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import asyncpg
import pytest

from app.commands import size
from app.commands.size import Load
from bench import data
from bench.driver import Load as Driver
from bench.processes import cpu_seconds
from tests.servers import ROOT, our_server

PERFORMANCE = (ROOT / "docs" / "performance.md").read_text().partition("\n### What `size` reckons with\n")[2]
COMMAND = [sys.executable, "-m", "app", "size"]
MEASURED = {
    "heartbeat server CPU ms": size.HEARTBEAT_CPU * 1e3,
    "heartbeat PostgreSQL CPU ms": size.HEARTBEAT_POSTGRES_CPU * 1e3,
    "life server CPU ms": size.LIFE_CPU * 1e3,
    "life PostgreSQL CPU ms": size.LIFE_POSTGRES_CPU * 1e3,
    "heartbeat WAL kB": size.HEARTBEAT_WAL / 1e3,
    "life WAL kB": size.LIFE_WAL / 1e3,
}


@pytest.mark.parametrize("figure", MEASURED)
def test_the_costs_are_those_that_were_measured(figure: str) -> None:
    row = re.search(rf"^\| {figure} \| ([\d.]+) ", PERFORMANCE, re.M)
    assert row
    assert float(row[1]) == pytest.approx(MEASURED[figure], rel=0.005)


def test_the_memory_is_what_a_worker_has() -> None:
    (*_, serve) = re.findall(r"^\| resident MiB \|.* (\d+) \|$", PERFORMANCE, re.M)
    assert float(serve) * 2**20 == size.RESIDENT


def test_more_tasks_need_as_much_more() -> None:
    one, ten = size.of(Load(100_000)), size.of(Load(1_000_000))
    assert ten.cores == pytest.approx(10 * one.cores)
    assert ten.wal == pytest.approx(10 * one.wal)
    assert ten.workers == pytest.approx(10 * one.workers, rel=0.1)
    assert ten.connections == 10 * ten.workers


def test_a_worker_may_always_be_replaced() -> None:
    assert size.of(Load(1)).workers == 2


def test_the_command_says_it() -> None:
    command = [*COMMAND, "--running-tasks", "20000"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = size.of(Load(20_000))
    assert f"workers      {found.workers}, with a core each" in said
    assert "6,333 a second, 4,000 of them heartbeats" in said
    as_json = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout
    assert json.loads(as_json) == asdict(found)


def test_the_documents_say_the_same() -> None:
    load = Load(20_000)
    assert "\n".join(size.told(load, size.of(load))) in (ROOT / "docs" / "sizing.md").read_text()
    scale = (ROOT / "docs" / "scale.md").read_text()
    alone = f"{size.HEARTBEAT_CPU * 1e3:.3f} ms of this service, {size.HEARTBEAT_POSTGRES_CPU * 1e3:.3f} ms of PostgreSQL"
    assert f"| a heartbeat: {alone} |" in scale
    assert f"| WAL of a heartbeat: {size.HEARTBEAT_WAL / 1e3:.2f} kB |" in scale

    def row(name: str) -> list[float]:
        cells = re.search(rf"^\| {name} \|(.*)\|$", scale, re.M)
        assert cells
        return [float(cell.strip("≈ ").replace(",", "")) for cell in cells[1].split("|")]

    sizes = [size.of(Load(tasks)) for tasks in (10_000, 100_000, 1_000_000)]
    assert row("heartbeats a second") == [2_000, 20_000, 200_000]
    written = [rate * size.HEARTBEAT_WAL / 1e6 for rate in row("heartbeats a second")]
    assert row("WAL for heartbeats, MB a second") == pytest.approx(written, rel=0.02)
    assert row("with the rest of the tasks' lives") == pytest.approx([each.cores for each in sizes], rel=0.06)
    assert row("workers, 60 % busy") == [each.workers for each in sizes]
    assert row("connections to PostgreSQL") == [each.connections for each in sizes]


@pytest.mark.slow
async def test_a_load_costs_what_is_said(make_database: Callable[[str], str], tmp_path: Path) -> None:
    """Tasks of 15 s have three heartbeats in ten requests, as the driver's have: 900 of them, a twentieth of 18,000."""
    load = Load(900, heartbeat_seconds=5, task_seconds=15, requests=7)
    url = make_database("3.3")
    connection = await asyncpg.connect(url)
    await data.fill(connection, "3.3", task_instances=12_000)
    tasks = iter(await data.tasks(connection, "queued", 12_000))
    with our_server(url, tmp_path) as server:
        driver = Driver(server.base_url, 32)
        await driver.lives(tasks, seconds=1)  # statements are prepared, plans made
        begun = cpu_seconds(server.process.pid)
        outcome = await driver.lives(tasks, seconds=3, rate=load.heartbeat_rate + load.request_rate)
        used = cpu_seconds(server.process.pid) - begun
        driver.close()
    await connection.close()
    assert {status for status in outcome.statuses if status >= 400} == set()
    said = size.of(load).cores / (load.heartbeat_rate + load.request_rate)
    # A machine that others use takes two or three times the seconds for the same work.
    assert 1 / 5 < used / outcome.requests / said < 5
