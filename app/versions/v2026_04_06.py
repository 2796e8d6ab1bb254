"""API date 2026-04-06, with Airflow 3.2 and Task SDK 1.2: the oldest date that is served."""

from app.versions.changes import Version

VERSION = Version("2026-04-06", ())
