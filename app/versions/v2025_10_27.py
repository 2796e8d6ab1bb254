"""API date 2025-10-27."""

from __future__ import annotations

from typing import Any

from app.versions.changes import Change, Version


def _conf_is_an_object(context: dict[str, Any]) -> None:
    if context["dag_run"]["conf"] is None:
        context["dag_run"]["conf"] = {}


VERSION = Version("2025-10-27", (Change("A Dag run may have no conf", downgrades={"ti_run": _conf_is_an_object}),))
