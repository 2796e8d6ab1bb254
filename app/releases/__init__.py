"""The supported metadata revisions: a module and a schema each.

Facts: the schemas that ``airflow db migrate`` creates (``airflow-*.sql`` beside this file) and the behaviour of the Airflow
releases that run on them. A release says how it stores what others store otherwise, and what it does that others do not; all
other code asks for that here, and for no release by name.
"""

from __future__ import annotations

from app.db.session import Database
from app.errors import ConfigurationError
from app.releases.airflow_3_2 import AIRFLOW_3_2
from app.releases.airflow_3_3 import AIRFLOW_3_3
from app.releases.airflow_3_4 import AIRFLOW_3_4
from app.releases.revision import Revision
from app.settings import OWN_SECTION

__all__ = ["AIRFLOW_3_2", "AIRFLOW_3_3", "AIRFLOW_3_4", "REVISIONS", "Revision", "of", "revision_of", "supported"]

REVISIONS = [AIRFLOW_3_2, AIRFLOW_3_3, AIRFLOW_3_4]


def revision_of(alembic_version: str) -> Revision | None:
    """Return the supported revision with this ``alembic_version``, or None."""
    return next((revision for revision in REVISIONS if revision.alembic_version == alembic_version), None)


async def of(database: Database) -> Revision:
    """Return the metadata revision of a database.

    :raises ConfigurationError: when it is no metadata database, or of a revision that is not supported.
    :raises RetryableDatabaseError: when the database cannot be reached.
    """
    return supported(await database.alembic_version(), database)


def supported(alembic_version: str, database: Database) -> Revision:
    """Return the revision with this ``alembic_version``, which a database has.

    :raises ConfigurationError: when it is not supported, or only for who asks for previews of that release.
    """
    revision = revision_of(alembic_version)
    if revision is not None and (not revision.is_preview or revision.name in database.settings.preview_releases):
        return revision
    known = " or ".join(f"{each.name} ({each.alembic_version})" for each in REVISIONS if not each.is_preview)
    at = f"[database] sql_alchemy_conn names {database.where}, a metadata database at revision {alembic_version!r}"
    if revision is None:
        raise ConfigurationError(f"{at}: expected that of Airflow {known}")
    raise ConfigurationError(
        f"{at}, that of Airflow {revision.name}, which is served as a preview only: expected that of Airflow {known},"
        f" or [{OWN_SECTION}] preview_releases with {revision.name} in it"
    )
