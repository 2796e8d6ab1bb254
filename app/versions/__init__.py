"""The API dates, and the declarative changes between them.

Each date is an application of its own, built once from the newest one's routes: models without the fields that did not
exist yet, routes that existed, and answers passed through the changes since. A request pays one look-up by its
``Airflow-API-Version`` header.
"""

from app.versions.changes import Change, Version
from app.versions.v2026_04_06 import VERSION as V2026_04_06
from app.versions.v2026_06_30 import VERSION as V2026_06_30

# Newest first. An application for a date undoes the changes of every newer one.
VERSIONS: tuple[Version, ...] = (V2026_06_30, V2026_04_06)
OLDEST_RELEASED = "2025-04-11"  # the first date of the contract; before it there was no API

__all__ = ["OLDEST_RELEASED", "VERSIONS", "Change", "Version"]
