"""API date 2025-11-05."""

from app.schemas.dag_runs import DagRun
from app.versions.changes import Change, Version, context_without

VERSION = Version(
    "2025-11-05",
    (
        Change(
            "Dag runs tell who triggered them",
            added_fields={DagRun: ("triggering_user_name",)},
            downgrades={"ti_run": context_without("triggering_user_name")},
        ),
    ),
)
