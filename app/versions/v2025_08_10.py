"""API date 2025-08-10, with Airflow 3.1 and Task SDK 1.1."""

from app.schemas.dag_runs import DagRun
from app.versions.changes import Change, Version, context_without

VERSION = Version(
    "2025-08-10",
    (
        Change(
            "Dag runs tell their state, and the previous one can be asked for",
            added_fields={DagRun: ("state",)},
            added_operations=frozenset({"get_previous_dagrun"}),
            downgrades={"ti_run": context_without("state")},
        ),
    ),
)
