"""What the documents say of the project itself is there: pages, headings, files, functions and decisions."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram

from app import settings
from app.errors import RetryableDatabaseError
from app.server import metrics
from app.settings.airflow import Options

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "scheduler_plugin").glob("*.md")])
SOURCES = sorted(path for folder in ("app", "tests", "bench", "scripts") for path in (ROOT / folder).rglob("*.py"))
DECISIONS = {int(path.name[:4]): path for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))}

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()

LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"`((?:app|bench|deploy|docs|loadtest|requirements|scripts|tests)/[\w./*-]+)`")
DECISION = re.compile(r"\bdecisions? (\d+)\b", re.I)
LINKED_DECISION = re.compile(r"\[decision (\d+)\]\(([^)]+)\)")
WALK = re.compile(r"^\| \d \| `(app/[\w/]+\.py)` \| `([\w.]+)` \|", re.M)
SCREENFUL = 40  # lines
NAMED_BY_PATTERN = {
    "app/versions/vDATE.py",
    "app/releases/airflow-X.Y.sql",
    "app/releases/airflow_X_Y.py",
    "requirements/airflow-X.Y.Z.txt",
    "requirements/beside-X.Y.Z.txt",
    "tests/contract/openapi/X.Y",
}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _anchors(page: Path) -> set[str]:
    """Return the fragments of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if not link.startswith(("http://", "https://"))]
    lost = []
    for link in links:
        path, _, fragment = link.partition("#")
        to = page.parent / path if path else page
        if not to.exists() or (fragment and fragment not in _anchors(to)):
            lost.append(link)
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_files_that_are_named_are_there(page: Path) -> None:
    named = set(FILE.findall(page.read_text())) - NAMED_BY_PATTERN
    assert sorted(name for name in named if not any(ROOT.glob(name))) == []


def test_decisions_that_are_named_are_there() -> None:
    assert list(DECISIONS) == list(range(1, len(DECISIONS) + 1))
    found = 0
    for path in PAGES + SOURCES:
        text = path.read_text()
        named = {int(number) for number in DECISION.findall(text)}
        assert named <= DECISIONS.keys(), path
        wrong = [
            (number, to) for number, to in LINKED_DECISION.findall(text) if Path(to).name != DECISIONS[int(number)].name
        ]
        assert wrong == [], path
        found += len(named)
    assert found > 30


def test_each_decision_has_its_number() -> None:
    for number, path in DECISIONS.items():
        assert path.read_text().startswith(f"# {number}. "), path
        assert not re.search(r"[^\n]\n\*\*(Decision|Consequences)\b", path.read_text()), f"{path}: one paragraph"


def test_a_request_is_walked_in_five_files_of_a_screenful_each() -> None:
    steps = WALK.findall((ROOT / "docs" / "architecture.md").read_text())
    assert len({file for file, _ in steps}) == len(steps) == 5
    for file, name in steps:
        body = ast.parse((ROOT / file).read_text()).body
        *owners, function = name.split(".")
        for owner in owners:
            (body,) = (node.body for node in body if isinstance(node, ast.ClassDef) and node.name == owner)
        functions = (node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        (found,) = (node for node in functions if node.name == function)
        assert found.end_lineno is not None
        assert found.end_lineno - found.lineno < SCREENFUL, name


def test_every_option_that_is_read_is_told(tmp_path: Path) -> None:
    read: Options = {}
    environment = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://h/d", "AIRFLOW__API_AUTH__JWT_SECRET": "x"}
    settings.load({"AIRFLOW_HOME": str(tmp_path), **environment}, options=read)
    chapter = OPERATIONS.partition("\n### Settings\n")[2].partition("\n### ")[0]
    own = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`[^|]*) \|", chapter, re.M))))
    airflows = {
        name: set(re.findall(r"`(\w+)`", row)) for name, row in re.findall(r"^\| `\[(\w+)\]` \|(.*)\|", chapter, re.M)
    }
    told = {(section, key) for section, keys in airflows.items() for key in keys}
    told |= {(settings.OWN_SECTION, key) for key in own}
    assert sorted(read.keys() - told - {(settings.OWN_SECTION, "pool_timeout")}) == []


def test_every_check_is_told() -> None:
    checks = set(re.findall(r'\bCheck\("([\w-]+)"', (ROOT / "app" / "commands" / "checks.py").read_text()))
    chapter = OPERATIONS.partition("\n## Check\n")[2].partition("\n## ")[0]
    lines = {name for row in re.findall(r"^\| (`[a-z].*?) \|", chapter, re.M) for name in re.findall(r"`([\w-]+)`", row)}
    assert len(checks) > 10
    assert checks == lines


def test_every_series_is_told() -> None:
    families = [each.describe()[0].name for each in vars(metrics).values() if isinstance(each, Counter | Gauge | Histogram)]
    ours = [name.removeprefix("execution_api_") for name in families if name.startswith("execution_api_")]
    told = re.findall(r"`(?:execution_api_|\.\.\._)(\w+)`", OPERATIONS)
    assert sorted(name for name in ours if not {name, f"{name}_total"} & set(told)) == []


def test_every_reason_of_a_503_is_told() -> None:
    told = set(re.findall(r"`(\w+)`", OPERATIONS.partition("\n### 503\n")[2].partition("\n## ")[0]))
    kinds = [RetryableDatabaseError]
    for kind in kinds:  # it grows
        kinds += kind.__subclasses__()
    assert len(kinds) > 10
    assert sorted({kind.reason for kind in kinds} - told) == []


def test_what_each_part_of_the_tests_finds_is_told() -> None:
    parts = {path.parent.name for path in Path(__file__).parent.glob("*/test_*.py")}
    assert set(re.findall(r"^\| `(\w+)/` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M)) == parts
