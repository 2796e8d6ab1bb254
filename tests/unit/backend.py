"""A custom secrets backend, as a company would write one."""

from __future__ import annotations

from typing import Any


class Backend:
    def __init__(self, config: dict[str, str] | None = None, variables: dict[str, str] | None = None, broken: bool = False):
        self.config, self.variables, self.broken = config or {}, variables or {}, broken

    def get_config(self, key: str) -> str | None:
        return self.config.get(key)

    def get_variable(self, key: str, team_name: str | None = None) -> str | None:
        if self.broken:
            raise RuntimeError("the vault is sealed")
        return self.variables.get(f"{team_name}/{key}" if team_name else key)

    def get_connection(self, conn_id: str) -> Any:
        if self.broken:
            raise RuntimeError("the vault is sealed")
        if conn_id != "vaulted":
            return None
        return self._connection_class.from_uri("my-type://user:p%40ss@host.example:99/schema?a=1", conn_id=conn_id)

    def _set_connection_class(self, connection_class: type) -> None:
        self._connection_class: Any = connection_class
