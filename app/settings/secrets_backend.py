"""Airflow's custom secrets backend, imported and built."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from app.errors import FOREIGN, ConfigurationError

NAMING = (ImportError, AttributeError, TypeError)  # errors that name what is missing or too much


def load_backend(class_path: str, kwargs: Mapping[str, Any]) -> Any:
    """Import and build a custom secrets backend.

    :param class_path: such as ``my_company.secrets.VaultBackend``.
    :raises ConfigurationError: when it cannot be imported or built. It shows what Python said of a name or an argument, and
        nothing else that the backend did: that may be a token.
    """
    module, _, name = class_path.rpartition(".")
    try:
        backend = getattr(import_module(module), name)(**kwargs)
    except FOREIGN as error:  # which ends the start-up with one sentence
        said = f": {error}" if isinstance(error, NAMING) else ""
        raise ConfigurationError(
            f"[secrets] backend {class_path!r} cannot be loaded: {type(error).__name__}{said}"
        ) from None
    return backend
