"""Airflow's options, looked up the way Airflow looks its own configuration up.

Each option is looked up as ``AIRFLOW__SECTION__KEY``, then (for the options that Airflow calls sensitive) as the output of
the command in ``AIRFLOW__SECTION__KEY_CMD`` or the secrets backend's answer to ``AIRFLOW__SECTION__KEY_SECRET``, then in
``airflow.cfg`` with the same three forms, then its default.
"""

from __future__ import annotations

import configparser
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from app.errors import ConfigurationError

# Airflow's own list of sensitive options, as far as we read them (`airflow config list --include-descriptions`).
SENSITIVE = frozenset(
    {
        ("database", "sql_alchemy_conn"),
        ("database", "sql_alchemy_conn_async"),
        ("core", "fernet_key"),
        ("api_auth", "jwt_secret"),
        ("secrets", "backend_kwargs"),
    }
)
COMMAND_TIMEOUT = 10.0  # seconds; a wrong configuration must end within ten


class AirflowConfiguration:
    """Airflow's options from the environment and ``airflow.cfg``, by (section, key).

    :param environment: the process environment.
    :param secret: resolves a ``_SECRET`` reference through the configured secrets backend.
    :raises ConfigurationError: when a ``_CMD`` fails or ``airflow.cfg`` cannot be parsed.
    """

    def __init__(self, environment: Mapping[str, str], *, secret: Callable[[str], str | None] | None = None) -> None:
        self._environment = environment
        self._secret = secret
        home = Path(environment.get("AIRFLOW_HOME") or Path(environment.get("HOME", "~")).expanduser() / "airflow")
        self.path = Path(environment.get("AIRFLOW_CONFIG") or home / "airflow.cfg")
        self._file = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            self._file.read(self.path)
        except configparser.Error as error:
            raise ConfigurationError(f"{self.path} cannot be read as an airflow.cfg: {error}") from error

    def get(self, section: str, key: str, default: str = "") -> str:
        """Return the option's value as text, or ``default`` when it is set nowhere."""
        name = f"AIRFLOW__{section.upper()}__{key.upper()}"
        sensitive = (section, key) in SENSITIVE
        if (value := self._environment.get(name)) is not None:
            return value
        if sensitive and (value := self._indirect(self._environment.get, f"{name}_CMD", f"{name}_SECRET")):
            return value
        if self._file.has_option(section, key):
            return self._file.get(section, key)
        section_of_file: Mapping[str, str] = self._file[section] if sensitive and self._file.has_section(section) else {}
        return self._indirect(section_of_file.get, f"{key}_cmd", f"{key}_secret") or default

    def strings(self, section: str, key: str, default: str = "") -> tuple[str, ...]:
        return tuple(part.strip() for part in self.get(section, key, default).split(",") if part.strip())

    def boolean(self, section: str, key: str, default: bool) -> bool:
        text = self.get(section, key, str(default)).split("#")[0].strip().lower()
        if text in {"true", "t", "1"}:
            return True
        if text in {"false", "f", "0"}:
            return False
        raise ConfigurationError(f"[{section}] {key} must be True or False, not {text!r}")

    def integer(self, section: str, key: str, default: int, *, minimum: int = 0) -> int:
        return int(self._number(section, key, default, minimum, int, "a whole number"))

    def seconds(self, section: str, key: str, default: float, *, minimum: float = 0.0) -> float:
        return float(self._number(section, key, default, minimum, float, "a number of seconds"))

    def share(self, section: str, key: str, default: float) -> float:
        found = float(self._number(section, key, default, 0.0, float, "a number from 0 to 1"))
        if found > 1:
            raise ConfigurationError(f"[{section}] {key} must be a number from 0 to 1, not {found:g}")
        return found

    def choice(self, section: str, key: str, default: str, choices: tuple[str, ...]) -> str:
        text = self.get(section, key, default).strip()
        for choice in choices:
            if text.lower() == choice.lower():
                return choice
        raise ConfigurationError(f"[{section}] {key} must be one of {', '.join(choices)}, not {text!r}")

    def _number(
        self, section: str, key: str, default: float, minimum: float, parse: Callable[[str], float], what: str
    ) -> float:
        text = self.get(section, key, str(default)).strip()
        try:
            value = parse(text)
        except ValueError:
            raise ConfigurationError(f"[{section}] {key} must be {what}, not {text!r}") from None
        if not minimum <= value < float("inf"):
            raise ConfigurationError(f"[{section}] {key} must be {what} of at least {minimum}, not {text!r}")
        return value

    def _indirect(self, lookup: Callable[[str], str | None], command_name: str, secret_name: str) -> str | None:
        if command := lookup(command_name):
            try:
                done = subprocess.run(
                    shlex.split(command), capture_output=True, text=True, timeout=COMMAND_TIMEOUT / 2, check=True
                )
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                reason = getattr(error, "strerror", None) or type(error).__name__
                raise ConfigurationError(
                    f"the command in {command_name} failed ({reason}); it must print the value"
                ) from error
            return done.stdout.strip() or None
        if (reference := lookup(secret_name)) and self._secret:
            return self._secret(reference)
        return None
