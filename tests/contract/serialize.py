"""Serialize the Dags of the corpus with the Airflow that runs this: ``serialize.py FILE FOLDER...`` writes them as JSON.

A Dag file has ``DAGS``, by the name that cases give them. Where the files lie is written as ``/dags``, which is all that
two machines could write differently.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any


def serialized(file: Path) -> dict[str, Any]:
    """Return what this Airflow serializes of each Dag of a file, by its name."""
    from airflow.serialization.serialized_objects import DagSerialization

    found = {}
    for name, dag in runpy.run_path(str(file), run_name=file.stem)["DAGS"].items():
        data = json.loads(json.dumps(DagSerialization.to_dict(dag)).replace(str(file), f"/dags/{file.name}"))
        data["dag"] |= {"_processor_dags_folder": "/dags", "relative_fileloc": file.name}
        found[name] = data
    return found


if __name__ == "__main__":
    output, *folders = map(Path, sys.argv[1:])
    dags: dict[str, Any] = {}
    for each in sorted(file for folder in folders for file in folder.glob("*.py")):
        more = serialized(each)
        assert not dags.keys() & more.keys(), f"{each.name} gives a Dag the name of another's"
        dags |= more
    output.write_text(json.dumps(dags))
