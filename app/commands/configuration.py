"""``execution-api config``: each option that the service reads, its value, and where it came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from app import settings
from app.errors import ConfigurationError
from app.server import logs
from app.settings.airflow import AirflowConfiguration, Option, Options

HIDDEN = "***"


def run(environment: Mapping[str, str], *, as_json: bool) -> int:
    """Print what was read, also of a configuration that is wrong.

    :raises ConfigurationError: what is wrong with it, once all that could be read is printed.
    """
    logs.configure("WARNING", "auto")  # to standard error
    conf = AirflowConfiguration(environment)
    found: Options = {}
    error: ConfigurationError | None = None
    try:
        settings.load(environment, options=found)
    except ConfigurationError as raised:
        error = raised
    options = sorted(found.values(), key=lambda option: (option.section, option.key))
    if as_json:
        document = {"file": str(conf.path) if conf.is_there else None, "error": str(error) if error else None}
        print(json.dumps({**document, "options": [_as_json(option) for option in options]}, indent=2))
    else:
        print(f"# {conf.path}" if conf.is_there else f"# {conf.path} is not there: the environment alone is read")
        for option in options:
            print(f"[{option.section}] {option.key} = {_shown(option)}  # {_place(option)}")
    if error:
        raise error
    return 0


def _as_json(option: Option) -> dict[str, Any]:
    named = {"section": option.section, "option": option.key, "value": _shown(option), "source": option.source}
    return {**named, "name": option.name or None, "line": option.line}


def _shown(option: Option) -> str:
    return HIDDEN if option.is_sensitive and option.value else option.value.strip()


def _place(option: Option) -> str:
    if option.line is not None:
        return f"{option.name} in line {option.line}"
    return option.name or option.source
