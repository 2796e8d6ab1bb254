"""A release that does not exist, in one place: what a new one has to say, and nothing else of the service knows of.

It stores what the newest release does, under a revision of its own, and has an API date of its own.
"""

from __future__ import annotations

from dataclasses import replace

from app.releases import AIRFLOW_3_4
from app.schemas.dag_runs import DagRun
from app.schemas.task_instances import TIRunContext
from app.versions.changes import Change, Version, context_without, without

NEWEST = "2099-01-01"
INVENTED = replace(AIRFLOW_3_4, name="invented", alembic_version="invented", newest_api_date=NEWEST, is_preview=False)
DATE = Version(
    NEWEST,
    (
        Change(
            "A worker is told whether an error leads to another try",
            added_fields={TIRunContext: ("should_retry",)},
            downgrades={"ti_run": without("should_retry")},
        ),
        Change(
            "Every client of this server is told of notes",
            added_fields={DagRun: ("note",)},
            downgrades={"ti_run": context_without("note")},
            by_date_since="9999-12-31",
        ),
    ),
)
