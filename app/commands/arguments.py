"""What may be said on the command line, and the exit codes."""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from app.settings.model import HIGHEST_PORT

NOT_READY = 1
MISCONFIGURED = 2
NOT_THERE_YET = 3
MISTYPED = 64  # EX_USAGE of sysexits.h; argparse's own 2 is taken by configurations
INTERRUPTED, UNREAD = 130, 141  # as shells have it for what SIGINT or SIGPIPE ended
MEANINGS = {
    MISCONFIGURED: "the configuration cannot serve; one sentence on standard error names the setting",
    MISTYPED: "the command line is wrong",
}


class Parser(argparse.ArgumentParser):
    """argparse's, that says what is wrong in one sentence, and ends with a code that nothing else has."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISTYPED, f"execution-api: {message}; see {self.prog} --help\n")


def port(text: str) -> int:
    """Return the number of a port.

    :raises argparse.ArgumentTypeError: it is none.
    """
    if not (text.isdecimal() and 1 <= int(text) <= HIGHEST_PORT):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: expected 1 to {HIGHEST_PORT}")
    return int(text)


def count(text: str) -> int:
    """Return a number.

    :raises argparse.ArgumentTypeError: it is no whole number of at least 1.
    """
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def root_path(text: str) -> str:
    """Return a path with a slash at its begin and none at its end; of ``/`` nothing is left."""
    return f"/{text.strip('/')}".rstrip("/")


def task_instance_id(text: str) -> str:
    """Return a task instance's id.

    :raises argparse.ArgumentTypeError: it is none.
    """
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a task instance's id: expected a UUID") from None


def command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    help: str,
    description: str,
    examples: Sequence[str],
    codes: dict[int, str],
) -> argparse.ArgumentParser:
    """Add a command.

    :param run: does it, and returns the exit code.
    :param help: its line in the list of commands.
    :param codes: what its exit codes mean, beside those of every command.
    """
    meanings = sorted({**MEANINGS, **codes}.items())
    epilog = ["examples:", *(f"  {example}" for example in examples), ""]
    epilog += ["exit codes:", *(f"  {code:<4}{meaning}" for code, meaning in meanings)]
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog="\n".join(epilog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser
