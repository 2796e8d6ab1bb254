"""The API dates, and the declarative changes between them.

Each date is an application of its own, built once from the newest one's routes: models without the fields that did not
exist yet, routes that existed, and answers passed through the changes since. A request pays one look-up by its
``Airflow-API-Version`` header.
"""

from app.versions.changes import Change, Version
from app.versions.v2025_04_11 import VERSION as V2025_04_11
from app.versions.v2025_04_28 import VERSION as V2025_04_28
from app.versions.v2025_05_20 import VERSION as V2025_05_20
from app.versions.v2025_08_10 import VERSION as V2025_08_10
from app.versions.v2025_09_23 import VERSION as V2025_09_23
from app.versions.v2025_10_27 import VERSION as V2025_10_27
from app.versions.v2025_11_05 import VERSION as V2025_11_05
from app.versions.v2026_04_06 import VERSION as V2026_04_06
from app.versions.v2026_06_30 import VERSION as V2026_06_30
from app.versions.v2026_10_30 import VERSION as V2026_10_30

# Newest first. An application for a date undoes the changes of every newer one.
VERSIONS: tuple[Version, ...] = (
    V2026_10_30,
    V2026_06_30,
    V2026_04_06,
    V2025_11_05,
    V2025_10_27,
    V2025_09_23,
    V2025_08_10,
    V2025_05_20,
    V2025_04_28,
    V2025_04_11,
)

__all__ = ["VERSIONS", "Change", "Version"]
