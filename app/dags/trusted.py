"""Classes that Dag authors wrote, and that come with an Airflow beside this service.

A serialized Dag names them by their path, and importing a module runs it: nothing is imported but what the operator listed
(``[execution_api_service] trusted_classes``; decision 21).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from app.errors import FOREIGN, UnknownInDag


class UntrustedClass(UnknownInDag):
    """A class that is not among those that may be imported, or that is none; the message names it."""


def is_trusted(path: str, prefixes: Sequence[str]) -> bool:
    """Say whether a class path is one that is listed, or lies below one: ``my.timetables`` covers ``my.timetables.Odd``."""
    return any(path == prefix or path.startswith(f"{prefix}.") for prefix in prefixes)


def trusted_class(path: str, prefixes: Sequence[str]) -> Any:
    """Import a class that a serialized Dag names.

    :param prefixes: what the operator trusts.
    :raises UntrustedClass: when it is none of these, or when there is no such class.
    """
    if not is_trusted(path, prefixes):
        raise UntrustedClass(f"the class {path} is not among [execution_api_service] trusted_classes")
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except FOREIGN as error:
        raise UntrustedClass(f"the class {path} cannot be imported here ({type(error).__name__}: {error})") from error
    if not isinstance(found, type):
        raise UntrustedClass(f"{path} is no class")
    return found
