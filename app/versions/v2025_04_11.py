"""API date 2025-04-11, with Airflow 3.0 and Task SDK 1.0: the oldest."""

from app.versions.changes import Version

VERSION = Version("2025-04-11", ())
