"""Airflow 3.3.0 to 3.3.2."""

from __future__ import annotations

from app.db.rendered_fields import RenderedFieldsOfRuns
from app.db.schema import Schema
from app.db.storage import Storage
from app.db.tries import HistoryTries
from app.db.xcoms import XComsOfRuns
from app.releases.revision import Deadlines, Revision, Runs, Tasks, XComs

_SCHEMA = Schema()
_TRIES = HistoryTries(_SCHEMA)

AIRFLOW_3_3 = Revision(
    name="3.3",
    alembic_version="d2f4e1b3c5a7",
    newest_api_date="2026-06-30",
    storage=Storage(_SCHEMA, _TRIES, XComsOfRuns(_SCHEMA), RenderedFieldsOfRuns(_SCHEMA, _TRIES)),
    tasks=Tasks(cleared_end_first=False, starts_tell_wait=False, bare_ids_skip_all=False, reschedules_by_time=False),
    runs=Runs(
        conf_tells_trace=False,
        moving_verifies=False,
        empty_maps_are_skipped=False,
        conf_is_plain=False,
        intervals_have_length=False,
    ),
    deadlines=Deadlines(callbacks_stay_encoded=False, bad_ones_are_left_out=False),
    xcoms=XComs(of_tries=False),
)
