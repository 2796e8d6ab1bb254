"""API date 2025-04-28."""

from app.schemas.task_instances import (
    TIDeferredStatePayload,
    TIRetryStatePayload,
    TISuccessStatePayload,
    TITerminalStatePayload,
)
from app.versions.changes import Change, Version

REPORTS = (TITerminalStatePayload, TISuccessStatePayload, TIDeferredStatePayload, TIRetryStatePayload)

VERSION = Version(
    "2025-04-28",
    (
        Change(
            "Reports may label a mapped task",
            added_fields=dict.fromkeys(REPORTS, ("rendered_map_index",)),
            by_date_since="2026-10-30",  # the server of Airflow 3.4
        ),
    ),
)
