"""Airflow 3.4.0b2: every try is a row of ``task_instance``, and what belongs to a task belongs to a try."""

from __future__ import annotations

from app.db.storage import Storage
from app.releases.airflow_3_4.asset_events import QueuedEvents
from app.releases.airflow_3_4.regions import RegionsOfRuns
from app.releases.airflow_3_4.rendered_fields import RenderedFieldsOfTries
from app.releases.airflow_3_4.schema import RegionSchema
from app.releases.airflow_3_4.tries import ArchivedTries
from app.releases.airflow_3_4.xcoms import XComsOfTries
from app.releases.revision import Revision

_SCHEMA = RegionSchema()
_TRIES = ArchivedTries(_SCHEMA)

AIRFLOW_3_4 = Revision(
    name="3.4",
    alembic_version="9cffe90fa0c0",
    newest_api_date="2026-10-30",
    is_preview=True,
    storage=Storage(
        _SCHEMA,
        _TRIES,
        XComsOfTries(_SCHEMA, _TRIES),
        RenderedFieldsOfTries(_SCHEMA, _TRIES),
        RegionsOfRuns(_SCHEMA),
        asset_events=QueuedEvents(_SCHEMA),
    ),
)
