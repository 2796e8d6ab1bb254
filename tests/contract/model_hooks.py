"""Print what Airflow's models do of their own when a row is written, by table; run by Airflow's own Python."""

import json
from importlib import import_module
from pkgutil import iter_modules

import airflow.models
from airflow.models.base import Base
from sqlalchemy.orm import configure_mappers

if __name__ == "__main__":
    for module in iter_modules(airflow.models.__path__):
        import_module(f"airflow.models.{module.name}")
    configure_mappers()
    found = {}
    for mapper in Base.registry.mappers:
        hooks = found.setdefault(mapper.local_table.name, set())
        columns = mapper.local_table.columns
        if mapper.class_manager.original_init.__module__.startswith("airflow"):
            hooks.add("constructor")
        hooks.update(f"validates {name}" for name in mapper.validators)
        hooks.update(f"sets {synonym.key}" for synonym in mapper.synonyms if synonym.descriptor is not None)
        hooks.update(f"renews {column.name}" for column in columns if column.onupdate is not None)
        hooks.update(f"defaults {column.name}" for column in columns if column.default is not None)
    print(json.dumps({table: sorted(hooks) for table, hooks in found.items()}))
