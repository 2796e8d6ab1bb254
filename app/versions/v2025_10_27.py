"""API date 2025-10-27."""

from __future__ import annotations

from typing import Any

from app.routes.rendering import RawJson
from app.versions.changes import Change, Version


def _conf_is_an_object(context: dict[str, Any]) -> None:
    conf = context["dag_run"]["conf"]
    if conf is None or (isinstance(conf, RawJson) and conf.text == "null"):
        context["dag_run"]["conf"] = {}


VERSION = Version("2025-10-27", (Change("A Dag run may have no conf", downgrades={"ti_run": _conf_is_an_object}),))
