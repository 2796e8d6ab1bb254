"""API date 2025-05-20."""

from app.schemas.task_instances import TIRunContext
from app.versions.changes import Change, Version

VERSION = Version(
    "2025-05-20",
    (
        Change(
            "A task may have several upstream map indexes",
            removed_fields={TIRunContext: {"upstream_map_indexes": dict[str, int | None] | None}},
        ),
    ),
)
