"""A Dockerfile's instructions, as a test follows them where no engine is."""

from __future__ import annotations

import json
import re
from pathlib import Path


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return each instruction and what it is told, lines that go on joined."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    text = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines())]


def of_the_image(path: Path) -> dict[str, list[str]]:
    """Return entry point, command and health check of the image, the last that is said of each."""
    found: dict[str, list[str]] = {}
    for word, rest in instructions(path):
        if word in ("ENTRYPOINT", "CMD"):
            found[word] = json.loads(rest)
        elif word == "HEALTHCHECK":
            found[word] = json.loads(rest.partition("CMD ")[2])
    return found


def variables(path: Path) -> dict[str, str]:
    """Return what ``ENV`` says in the last stage."""
    found: dict[str, str] = {}
    for word, rest in instructions(path):
        if word == "FROM":
            found = {}
        elif word == "ENV":
            found |= dict(each.partition("=")[::2] for each in rest.split())
    return found
