"""YAML, read by the environment of ``requirements/deploy.txt``: the service itself needs none."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.servers import pinned_environment

READ = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"


def document(path: Path) -> Any:
    """Return what a file of YAML says."""
    program = [pinned_environment("deploy") / "bin" / "python", "-c", READ]
    return json.loads(subprocess.run(program, input=path.read_bytes(), stdout=subprocess.PIPE, check=True).stdout)
