"""Airflow's options, looked up the way Airflow looks its own configuration up.

Each option is looked up as ``AIRFLOW__SECTION__KEY``, then (for the options that Airflow calls sensitive) as the output of
the command in ``AIRFLOW__SECTION__KEY_CMD`` or the secrets backend's answer to ``AIRFLOW__SECTION__KEY_SECRET``, then in
``airflow.cfg`` with the same three forms, then its default; at each step under its own name, then under the one that it had
before. ``$NAME``, ``${NAME}`` and ``~`` are expanded in variables and in the file; in the file, ``%%`` is a percent sign and
``%(name)s`` the value of another option.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import structlog

from app.errors import ConfigurationError

log = structlog.get_logger(__name__)

# Airflow's own list of sensitive options, as far as we read them (`airflow config list --include-descriptions`).
SENSITIVE = frozenset(
    {
        ("database", "sql_alchemy_conn"),
        ("database", "sql_alchemy_conn_async"),
        ("core", "sql_alchemy_conn"),
        ("core", "fernet_key"),
        ("api_auth", "jwt_secret"),
        ("secrets", "backend_kwargs"),
    }
)
# Where Airflow 3 still looks for options that have moved (`AirflowConfigParser.deprecated_options`), if we read them.
MOVED_FROM = {
    ("database", "sql_alchemy_conn"): ("core", "sql_alchemy_conn"),
    ("core", "num_dag_runs_to_retain_rendered_fields"): ("core", "max_num_rendered_ti_fields_per_task"),
    ("api", "host"): ("webserver", "web_server_host"),
    ("api", "port"): ("webserver", "web_server_port"),
    ("api", "workers"): ("webserver", "workers"),
    ("api", "ssl_cert"): ("webserver", "web_server_ssl_cert"),
    ("api", "ssl_key"): ("webserver", "web_server_ssl_key"),
    ("api", "base_url"): ("webserver", "base_url"),
}
COMMAND_TIMEOUT = 10.0  # seconds; a wrong configuration must end within ten
EXPANSIONS = 20  # variables that name variables; more are a circle
_SETS = re.compile(r"([^#;\s=:][^=:]*?)\s*[=:]")
_Found = tuple[str, str, str, int | None]  # a value, and what Option tells of where it came from
_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Option:
    """An option that was read, and where its value came from.

    :param value: as text.
    :param source: ``environment``, ``command``, ``secret``, ``file`` or ``default``.
    :param name: of the variable that told it, or of the file's option; empty for a default.
    :param line: of the file, if that told it.
    """

    section: str
    key: str
    value: str
    source: str
    name: str = ""
    line: int | None = None

    @property
    def is_sensitive(self) -> bool:
        """Whether its value is for nobody's eyes."""
        return (self.section, self.key) in SENSITIVE or (self.section == "secrets" and self.key != "backend")


Options = dict[tuple[str, str], Option]


class AirflowConfiguration:
    """Airflow's options from the environment and ``airflow.cfg``, by (section, key).

    :param environment: the process environment.
    :param secret: resolves a ``_SECRET`` reference through the configured secrets backend.
    :param options: takes each option that is read.
    :raises ConfigurationError: when a ``_CMD`` fails or ``airflow.cfg`` cannot be parsed.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        secret: Callable[[str], str | None] | None = None,
        options: Options | None = None,
    ) -> None:
        self._environment = environment
        self._secret = secret
        self.options: Options = {} if options is None else options
        self._warned: set[tuple[str, str]] = set()
        self.home = Path(self._expanded(environment.get("AIRFLOW_HOME", "~/airflow"), "AIRFLOW_HOME"))
        self.path = Path(self._expanded(environment.get("AIRFLOW_CONFIG", f"{self.home}/airflow.cfg"), "AIRFLOW_CONFIG"))
        self.is_there = True
        self._file = configparser.ConfigParser()
        self._file.optionxform = str  # type: ignore[assignment, method-assign]  # names are told apart by case
        try:
            self._file.read_string(self.path.read_text(encoding="utf-8"), source=str(self.path))
        except (FileNotFoundError, NotADirectoryError):
            self.is_there = False
        except OSError as error:
            reason = f"cannot be read ({error.strerror})"
            raise ConfigurationError(
                f"{self.path} {reason}: expected an airflow.cfg, or another in AIRFLOW_CONFIG"
            ) from error
        except (configparser.Error, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{self.path} cannot be read as an airflow.cfg: {_place_of(error)}") from None

    def get(self, section: str, key: str, default: str = "") -> str:
        """Return the option's value as text, or ``default`` when it is set nowhere.

        :raises ConfigurationError: when it cannot be read: the message names the option and where it is, never its value.
        """
        names = [(section, key), *filter(None, [MOVED_FROM.get((section, key))])]
        for look in (self._in_environment, self._in_file, self._by_file):
            for name in names:
                if (found := look(*name)) is not None:
                    value, source, where, line = found
                    self.options[section, key] = Option(section, key, value, source, where, line)
                    if name != names[0] and name not in self._warned:
                        self._warned.add(name)
                        log.warning("an option has moved", old="[{}] {}".format(*name), new=f"[{section}] {key}")
                    return value
        self.options[section, key] = Option(section, key, default, "default")
        return default

    def unread_in(self, section: str) -> Iterator[tuple[str, str]]:
        """Yield the options of a section that are set and were never asked for, and where they are."""
        prefix = f"AIRFLOW__{section}__".upper()
        for name in sorted(self._environment):
            if name.startswith(prefix) and (section, name.removeprefix(prefix).lower()) not in self.options:
                yield name.removeprefix(prefix).lower(), name
        for key in self._file[section] if self._file.has_section(section) else ():
            if key not in self._file.defaults() and (section, key) not in self.options:
                yield key, f"line {self._line_of(section, key)} of {self.path}"

    def _in_environment(self, section: str, key: str) -> _Found | None:
        name = f"AIRFLOW__{section}__{key}".upper()
        if (value := self._environment.get(name)) is not None:
            return self._expanded(value, name), "environment", name, None
        return self._indirect(self._environment.get, f"{name}_CMD", f"{name}_SECRET", (section, key))

    def _in_file(self, section: str, key: str) -> _Found | None:
        if (value := self._option(section, key)) is None:
            return None
        return (
            self._expanded(value, f"[{section}] {key} in {self.path}"),
            "file",
            f"[{section}] {key}",
            self._line_of(section, key),
        )

    def _by_file(self, section: str, key: str) -> _Found | None:
        found = self._indirect(lambda name: self._option(section, name), f"{key}_cmd", f"{key}_secret", (section, key))
        if found is None or not found[0]:
            return None
        value, source, name, _ = found
        return value, source, f"[{section}] {name}", self._line_of(section, name)

    def _option(self, section: str, key: str) -> str | None:
        """Return an option of the file with what its percent signs stand for."""
        try:
            return self._file.get(section, key) if self._file.has_option(section, key) else None
        except configparser.InterpolationError:
            line = self._line_of(section, key)
            raise ConfigurationError(
                f"[{section}] {key} in line {line} of {self.path} cannot be read: a percent sign is written %%, and"
                " %(name)s must name an option of its section"
            ) from None

    def _line_of(self, section: str, key: str) -> int:
        """Return the number of the file's line that sets an option."""
        return self._lines.get((section, key)) or self._lines.get((self._file.default_section, key), 0)

    @cached_property
    def _lines(self) -> dict[tuple[str, str], int]:
        """The numbers of the file's lines, by section and option."""
        found: dict[tuple[str, str], int] = {}
        section = ""
        for number, line in enumerate(self.path.read_text(encoding="utf-8").split("\n"), start=1):
            if header := configparser.ConfigParser.SECTCRE.match(line):
                section = header["header"]
            elif option := _SETS.match(line):
                found.setdefault((section, option[1]), number)
        return found

    def _expanded(self, text: str, what: str) -> str:
        """Return a text with its variables and its home folder in place, again and again until nothing changes."""
        for _ in range(EXPANSIONS):
            found = _VARIABLE.sub(lambda name: self._environment.get(name[1].strip("{}"), name[0]), text)
            if "HOME" in self._environment and (found == "~" or found.startswith("~/")):
                found = self._environment["HOME"].rstrip("/") + found[1:]
            found = os.path.expanduser(found)
            if found == text:
                return text
            text = found
        raise ConfigurationError(f"{what} refers to variables that refer to one another")

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

    def pattern(self, section: str, key: str, default: str) -> str:
        text = self.get(section, key, default).strip()
        try:
            re.compile(text)
        except re.error as error:
            raise ConfigurationError(f"[{section}] {key} must be a regular expression, not {text!r} ({error})") from None
        return text

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

    def _indirect(
        self, lookup: Callable[[str], str | None], command_name: str, secret_name: str, option: tuple[str, str]
    ) -> _Found | None:
        """Return what a command prints, its newline at the end included, or what the secrets backend has."""
        if option not in SENSITIVE:
            return None
        if (command := lookup(command_name)) is not None:
            try:
                done = subprocess.run(shlex.split(command), capture_output=True, timeout=COMMAND_TIMEOUT / 2, check=True)
            except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
                reason = getattr(error, "strerror", None) or type(error).__name__
                raise ConfigurationError(
                    f"the command in {command_name} failed ({reason}); it must print the value"
                ) from None
            return done.stdout.decode(errors="ignore"), "command", command_name, None
        if (reference := lookup(secret_name)) and self._secret and (value := self._secret(reference)) is not None:
            return value, "secret", secret_name, None
        return None


def _place_of(error: Exception) -> str:
    """Return where an ``airflow.cfg`` cannot be read, and why, without what stands there."""
    match error:
        case configparser.MissingSectionHeaderError():  # it is a ParsingError too
            return f"line {error.lineno} comes before any [section]"
        case configparser.ParsingError():
            return f"line {error.errors[0][0]} is neither a [section] nor 'key = value'"
        case configparser.DuplicateOptionError() | configparser.DuplicateSectionError():
            what = "an option" if isinstance(error, configparser.DuplicateOptionError) else "a section"
            return f"line {error.lineno} has {what} for the second time"
        case _:
            return "it is no UTF-8 text"
