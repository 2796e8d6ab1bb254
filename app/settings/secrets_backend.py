"""Airflow's custom secrets backend, imported and built."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from app.errors import FOREIGN, ConfigurationError


def load_backend(class_path: str, kwargs: Mapping[str, Any]) -> Any:
    """Import and build a custom secrets backend.

    :param class_path: such as ``my_company.secrets.VaultBackend``.
    :raises ConfigurationError: when it cannot be imported or built.
    """
    module, _, name = class_path.rpartition(".")
    try:
        backend = getattr(import_module(module), name)(**kwargs)
    except FOREIGN as error:  # which ends the start-up with one sentence
        raise ConfigurationError(
            f"[secrets] backend {class_path!r} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return backend
