"""API date 2025-04-28.

The label of a mapped task in reports, which it brought, is taken from clients of every date.
"""

from app.versions.changes import Version

VERSION = Version("2025-04-28", ())
