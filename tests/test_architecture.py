"""The rules of the house, read off the source: each one is a past mistake that must not come back."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from app.releases import REVISIONS

APP = Path(__file__).parent.parent / "app"
MODULES = sorted(APP.rglob("*.py"))
EXTRAS = {"server/traces.py": ["otel"], "server/stats.py": ["statsd", "datadog"]}  # what a module needs if it is used
MOST_LINES = 400  # of a module
MOST_ROOMS = 12  # on the top floor
TRANSACTION_CALLS = {"commit", "rollback", "begin", "begin_nested"}


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{name.name}" for name in node.names)


def _calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr, node
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id, node


def _functions_that_call(path: Path, *names: str) -> set[str]:
    """Return the functions (or ``<module>``) of a file in which one of ``names`` is called."""
    found = set()
    tree = _tree(path)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(call): function.name for function in functions for _, call in _calls(function)}
    for name, call in _calls(tree):
        if name in names:
            found.add(inside.get(id(call), "<module>"))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(APP)))
def test_transactions_begin_and_end_in_one_place(path: Path) -> None:
    if path != APP / "db" / "session.py":
        assert not _functions_that_call(path, *TRANSACTION_CALLS)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(APP)))
def test_rows_are_locked_in_one_place(path: Path) -> None:
    """A task instance by primary key, in two strengths; several without waiting; a run, and all of it; a partition."""
    expected = {
        APP / "db" / "task_instances.py": {"__init__"},
        APP / "db" / "siblings.py": {"__init__", "_changing"},
        APP / "db" / "heartbeats.py": {"<module>"},
        APP / "db" / "dag_runs.py": {"<module>"},
        APP / "db" / "partitions.py": {"__init__"},
    }.get(path, set())
    assert _functions_that_call(path, "with_for_update") == expected


def test_many_rows_are_updated_only_after_they_were_locked() -> None:
    """A multi-row UPDATE of task instances names ids that its statement locked; all others name one by its key."""
    about_many = {"siblings.py": {"_changing"}, "heartbeats.py": {"<module>"}}
    about_one = {"schema.py": {"setting"}, "task_instances.py": {"__init__"}}
    on_a_stage = {"samples.py": {"_queued"}}  # where they are nobody else's
    about_others = {
        "callbacks.py",
        "connection_tests.py",
        "dag_runs.py",
        "deadlines.py",
        "hitl.py",
        "partitions.py",
    }  # of other tables, by their keys
    importing = [path for path in (APP / "db").glob("*.py") if "sqlalchemy.update" in _imports(_tree(path))]
    found = {path.name: _functions_that_call(path, "update") for path in importing if path.name not in about_others}
    assert found == about_many | about_one | on_a_stage
    assert all(not _functions_that_call(path, "update") & {"task_instance"} for path in MODULES if path.parent.name != "db")


def test_the_top_floor_is_a_dozen_rooms() -> None:
    on_it = {path.relative_to(APP).parts[0].removesuffix(".py") for path in MODULES} - {"__init__", "__main__"}
    assert len(on_it) <= MOST_ROOMS, on_it


def test_no_module_is_long() -> None:
    assert [path.name for path in MODULES if len(path.read_text().splitlines()) >= MOST_LINES] == []


def test_no_release_is_named_outside_of_its_own_module() -> None:
    """All other code asks what a release has or does; versions of PostgreSQL's protocol look alike."""
    names = {revision.name for revision in REVISIONS}
    elsewhere = [path for path in MODULES if APP / "releases" not in path.parents and path.name != "libpq.py"]
    constants = ((path, node) for path in elsewhere for node in ast.walk(_tree(path)) if isinstance(node, ast.Constant))
    assert [path.name for path, node in constants if node.value in names] == []


def test_transitions_are_pure() -> None:
    allowed = ("__future__", "collections", "dataclasses", "datetime", "typing", "app.schemas")
    assert [name for name in _imports(_tree(APP / "tasks" / "transitions.py")) if not name.startswith(allowed)] == []


@pytest.mark.parametrize("path", sorted((APP / "routes").glob("*.py")), ids=lambda p: p.name)
def test_routes_hold_no_sql(path: Path) -> None:
    assert [name for name in _imports(_tree(path)) if name.startswith("sqlalchemy")] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(APP)))
def test_nothing_imports_airflow_or_base_http_middleware(path: Path) -> None:
    names = list(_imports(_tree(path)))
    assert [name for name in names if name == "airflow" or name.startswith("airflow.")] == []
    assert [name for name in names if "BaseHTTPMiddleware" in name] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(APP)))
def test_no_dependency_yields(path: Path) -> None:
    """A ``yield`` dependency in FastAPI's default scope ends after the response was sent."""
    tree = _tree(path)
    depended = {
        argument.id
        for name, call in _calls(tree)
        if name == "Depends"
        for argument in call.args
        if isinstance(argument, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef) and node.name in depended:
            assert not any(isinstance(inner, ast.Yield) for inner in ast.walk(node))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(APP)))
def test_public_things_say_what_they_are_for(path: Path) -> None:
    tree = _tree(path)
    assert ast.get_docstring(tree) or not path.read_text().strip()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(APP)))
def test_what_the_types_do_not_know_is_said(path: Path) -> None:
    """Why a line is kept from mypy stands behind it."""
    ignoring = [line for line in path.read_text().splitlines() if "# type: ignore" in line]
    assert [line for line in ignoring if not re.search(r"# type: ignore\[[\w, -]+\]  # \w", line)] == []


def test_every_import_is_a_declared_dependency() -> None:
    """What only another package happens to bring may be gone with its next version."""
    project = tomllib.loads((APP.parent / "pyproject.toml").read_text())["project"]
    distributions = packages_distributions()
    for path in MODULES:
        extras = EXTRAS.get(path.relative_to(APP).as_posix(), [])
        requirements = sum((project["optional-dependencies"][extra] for extra in extras), project["dependencies"])
        declared = {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in requirements}
        imported = {name.partition(".")[0] for name in _imports(_tree(path))}
        foreign = imported - sys.stdlib_module_names - {"app", ""}
        brought_by = {name: {each.lower().replace("_", "-") for each in distributions[name]} for name in foreign}
        assert {name for name, by in brought_by.items() if not by & declared} == set(), path


def test_what_a_start_does_not_import() -> None:
    """What only some workers ever need costs none of them memory, and no start time, before."""
    rare = (
        "sqlalchemy.orm",
        "sqlalchemy.ext.asyncio",
        "pydantic.v1",
        "croniter",
        "dateutil",
        "airflow",
        "opentelemetry.sdk",
        "statsd",
    )
    source = f"import sys, app.commands.cli, app.main; print(*[name for name in {rare} if name in sys.modules])"
    started = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True, cwd=APP.parent)
    assert started.stdout.split() == []
