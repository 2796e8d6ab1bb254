"""What a container of a manifest would be given, for the same command as a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers import clean_environment

AIRFLOW_HOME = "/opt/airflow"  # of the image
Values = Mapping[str, Mapping[str, str]]


def arguments(container: Mapping[str, Any]) -> list[str]:
    """Return what the image's command is told."""
    return [str(each) for each in container["args"]]


def environment(
    container: Mapping[str, Any], pod: Mapping[str, Any], *, secrets: Values, configmaps: Values, folder: Path
) -> dict[str, str]:
    """Return the environment of a container, with its files in a folder; what it refers to must be there."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= secrets[source["secretRef"]["name"]]
    for variable in container["env"]:
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        found[variable["name"]] = secrets[reference["name"]][reference["key"]] if reference else variable["value"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        files = configmaps[volume["configMap"]["name"]] if "configMap" in volume else {}
        files = secrets[volume["secret"]["secretName"]] if "secret" in volume else files
        inside = folder / mount["mountPath"].lstrip("/")
        for name, text in files.items():
            path = inside if mount.get("subPath") == name else inside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        found = {
            name: value.replace(mount["mountPath"], str(inside)) if value.startswith(mount["mountPath"]) else value
            for name, value in found.items()
        }
    return {**clean_environment(), **found, "AIRFLOW_HOME": str(folder / AIRFLOW_HOME.lstrip("/"))}


def run(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command of ours as the image does."""
    program = [sys.executable, "-m", "execution_api", *command]
    return subprocess.run(program, env=dict(environment), capture_output=True, text=True, check=False)
