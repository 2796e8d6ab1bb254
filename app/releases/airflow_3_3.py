"""Airflow 3.3.0 to 3.3.2."""

from __future__ import annotations

from app.releases.revision import Revision

AIRFLOW_3_3 = Revision(name="3.3", alembic_version="d2f4e1b3c5a7", newest_api_date="2026-06-30")
