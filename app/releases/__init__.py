"""The supported metadata revisions: a module and a schema each.

Facts: the schemas that ``airflow db migrate`` creates (``airflow-*.sql`` beside this file) and the behaviour of the Airflow
releases that run on them. All other code is written for the newest revision and asks here what to leave out.
"""

from __future__ import annotations

from app.releases.airflow_3_2 import AIRFLOW_3_2
from app.releases.airflow_3_3 import AIRFLOW_3_3
from app.releases.revision import Revision

__all__ = ["AIRFLOW_3_2", "AIRFLOW_3_3", "REVISIONS", "Revision", "revision_of"]

REVISIONS = (AIRFLOW_3_2, AIRFLOW_3_3)


def revision_of(alembic_version: str) -> Revision | None:
    """Return the supported revision with this ``alembic_version``, or None."""
    return next((revision for revision in REVISIONS if revision.alembic_version == alembic_version), None)
