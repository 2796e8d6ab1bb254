"""API date 2025-09-23.

The Dag version of task instances, which it brought, is a field of a model that no operation of a worker uses.
"""

from app.versions.changes import Version

VERSION = Version("2025-09-23", ())
