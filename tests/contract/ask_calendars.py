"""Ask the Airflow that runs this: ``ask_calendars.py QUESTIONS ANSWERS``, both files of JSON.

A question is ``["interval", timetable, run_after]`` or ``["keys", mapper, key]``; its answer is what comes of it, as text,
or the word ``error``.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def answered(kind: str, encoded: dict[str, Any], value: str) -> Any:
    """Return the answer to one question."""
    from airflow._shared.timezones.timezone import coerce_datetime
    from airflow.serialization.decoders import decode_partition_mapper, decode_timetable

    try:
        if kind == "keys":
            found = decode_partition_mapper(encoded).to_downstream(value)
            return [found] if isinstance(found, str) else list(found)
        run_after = coerce_datetime(datetime.fromisoformat(value))
        interval = decode_timetable(encoded).infer_manual_data_interval(run_after=run_after)
        return [moment.astimezone(UTC).isoformat() for moment in (interval.start, interval.end)]
    except Exception:
        return "error"


if __name__ == "__main__":
    questions, answers = map(Path, sys.argv[1:])
    answers.write_text(json.dumps([answered(*question) for question in json.loads(questions.read_text())]))
