"""Ask the Airflow that runs this for its own timetables, partition mappers and windows: a list of class paths, as JSON."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Iterator

BASES = {"Timetable", "PartitionMapper", "Window"}


def classes() -> Iterator[str]:
    """Yield the path of each class that a Dag can have."""
    for package in map(importlib.import_module, ("airflow.timetables", "airflow.partition_mappers")):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(found.name)
            for name, each in inspect.getmembers(module, inspect.isclass):
                inherited = {base.__name__ for base in each.__mro__[1:]}
                if each.__module__ == module.__name__ and inherited & BASES and not name.startswith("_"):
                    yield f"{module.__name__}.{name}"


if __name__ == "__main__":
    print(json.dumps(sorted(classes())))
