"""A custom secrets backend, as a company would write one."""

from __future__ import annotations

import threading
from typing import Any, ClassVar


class AirflowSecretsBackendAccessDenied(PermissionError):
    """As a backend that was written for Airflow raises it."""


class Denied(AirflowSecretsBackendAccessDenied):
    pass


class Backend:
    def __init__(
        self,
        config: dict[str, str] | None = None,
        variables: dict[str, str] | None = None,
        broken: bool = False,
        refused: str = "",
    ):
        if refused:
            raise ValueError(f"the vault does not take the token {refused}")
        self.config, self.variables, self.broken = config or {}, variables or {}, broken

    def get_config(self, key: str) -> str | None:
        if self.broken:
            raise RuntimeError("the vault is sealed, s3cret")
        return self.config.get(key)

    def get_variable(self, key: str, team_name: str | None = None) -> str | None:
        if self.broken:
            raise RuntimeError("the vault is sealed")
        return self.variables.get(f"{team_name}/{key}" if team_name else key)

    def get_connection(self, *, conn_id: str) -> Any:
        if self.broken:
            raise RuntimeError("the vault is sealed")
        if conn_id != "vaulted":
            return None
        return self._connection_class.from_uri("my-type://user:p%40ss@host.example:99/schema?a=1", conn_id=conn_id)

    def _set_connection_class(self, connection_class: type) -> None:
        self._connection_class: Any = connection_class


class Strict(Backend):
    """Takes what it is asked by keyword only, denies what it knows to be forbidden, and hangs while it is held."""

    released = threading.Event()
    asked: ClassVar[list[tuple[str, Any]]] = []

    def get_variable(self, *, key: str, **context: Any) -> str | None:
        self.asked.append((key, context))
        if key == "forbidden":
            raise Denied
        if key == "slow" and not self.released.wait(60):
            raise TimeoutError
        return "kept" if key in ("kept", "slow") else None
