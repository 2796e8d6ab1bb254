"""The corpus of the differential test: adding a case is adding a row to the list of its subject.

A case is one request on a database that its setup made. It is asked of Airflow's own server and of ours; status, body and
every row of every table must come out equal.
"""

from __future__ import annotations

from tests.contract.cases import (
    assets,
    connections,
    dag_runs,
    dates,
    hitl,
    loops,
    service,
    state_stores,
    task_instances,
    tries,
    triggering,
    variables,
    xcoms,
)
from tests.contract.cases.case import Case

_SUBJECTS = (
    assets,
    connections,
    dag_runs,
    dates,
    hitl,
    loops,
    service,
    state_stores,
    task_instances,
    tries,
    triggering,
    variables,
    xcoms,
)
CASES: list[Case] = [case for subject in _SUBJECTS for case in subject.CASES]
