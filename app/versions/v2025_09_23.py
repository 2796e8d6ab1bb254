"""API date 2025-09-23."""

from app.schemas.documented import TaskInstance
from app.versions.changes import Change, Version

VERSION = Version(
    "2025-09-23",
    (
        Change(
            "Executors tell workers the Dag version",
            added_fields={TaskInstance: ("dag_version_id",)},
            by_date_since="2026-10-30",  # the server of Airflow 3.4
        ),
    ),
)
