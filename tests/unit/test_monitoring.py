"""The dashboard and the alerts ask for what is counted, and the alerts fire when they should."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Metric
from prometheus_client.registry import Collector

from app.server import metrics
from tests import debian

ROOT = Path(__file__).parent.parent.parent
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "execution-api.json"
OPERATIONS = ROOT / "docs" / "operations.md"
NAME = re.compile(r"\b(?:http|execution_api|process)_\w+\b")
ALERT = re.compile(r"- alert: (\w+)")
DECLARED = [each for each in vars(metrics).values() if isinstance(each, Counter | Gauge | Histogram)]


def told() -> set[str]:
    """Return the names of every series."""
    names = {name for name in REGISTRY._names_to_collectors if name.startswith("process_")}
    for each in DECLARED:
        (family,) = each.describe()
        suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}[family.type]
        names |= {family.name + suffix for suffix in suffixes}
    return names


def asked() -> dict[str, set[str]]:
    """Return what each file asks for."""
    expressions = [
        target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel.get("targets", ())
    ]
    assert len(expressions) > 10
    return {"dashboard": set(NAME.findall(" ".join(expressions))), "rules": set(NAME.findall(RULES.read_text()))}


def test_what_is_asked_for_is_told() -> None:
    for file, names in asked().items():
        assert names
        assert names <= told(), file


async def test_metrics_are_written_beside_the_event_loop() -> None:
    collecting, go_on = threading.Event(), threading.Event()

    class Long(Collector):
        def describe(self) -> list[Metric]:
            return []

        def collect(self) -> Iterator[Metric]:
            collecting.set()
            assert go_on.wait(10)
            yield Metric("long_in_the_making", "Made while the event loop went on", "gauge")

    REGISTRY.register(long := Long())
    try:
        scrape = asyncio.create_task(metrics.exposition())
        assert await asyncio.to_thread(collecting.wait, 10)
        go_on.set()
        assert b"long_in_the_making" in await scrape
    finally:
        REGISTRY.unregister(long)


def test_what_is_declared_is_counted_somewhere() -> None:
    source = "".join(path.read_text() for path in (ROOT / "app").rglob("*.py"))
    names = {name for name, value in vars(metrics).items() if any(value is each for each in DECLARED)}
    assert [name for name in sorted(names) if not re.search(rf"\bmetrics\.{name}\b|\b{name}\.labels\b", source)] == []


def test_operations_says_what_to_do_when_each_alert_fires() -> None:
    chapter = re.search(r"^## When an alert fires\n(.*?)^## ", OPERATIONS.read_text(), re.M | re.S)
    assert chapter
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", chapter[1], re.M | re.S))
    alerts = ALERT.findall(RULES.read_text())
    assert list(sections) == [*alerts, "503"]
    assert [alert for alert in alerts if len(sections[alert].split()) < 30] == []


def test_operations_answers_in_the_order_in_which_one_asks() -> None:
    answers = ["Install", "Configure", "Check", "Rehearse", "Watch", "When an alert fires"]
    answers += ["Upgrade", "Move a share of the tasks", "Go back"]
    assert re.findall(r"^## (.*)$", OPERATIONS.read_text(), re.M) == answers


@pytest.mark.slow
def test_alerts_fire_when_they_should() -> None:
    debian.install("prometheus", programs=("promtool",))
    for command in (["check", "rules", RULES], ["test", "rules", RULES.with_name("rules_test.yaml")]):
        done = subprocess.run(["promtool", *map(str, command)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
