"""Applies the discipline when a scheduler starts, to the Airflow versions that it was tested with."""

from __future__ import annotations

import logging
import sys

from airflow import __version__ as airflow_version
from airflow.configuration import conf
from airflow.listeners import hookimpl

log = logging.getLogger("airflow.scheduler_lock_discipline")  # under Airflow's own level and handlers

# Where `_verify_integrity_if_dag_changed` reads alike in the releases' sources; run with 3.2.1, 3.3.2 and 3.4.0b2.
TESTED_VERSIONS = frozenset({"3.2.0", "3.2.1", "3.2.2", "3.3.0", "3.3.1", "3.3.2", "3.4.0b2"})
SECTION = "execution_api_service"
BATCH_SIZE = 500  # rows locked by one statement: a few milliseconds' work, for which a request may have to wait


@hookimpl
def on_starting(component: object) -> None:
    """Hear that an Airflow component starts.

    :param component: its job, which does not know its own type yet: what the process has imported tells a scheduler.
    """
    if "airflow.jobs.scheduler_job_runner" not in sys.modules:
        return
    if not conf.getboolean(SECTION, "scheduler_lock_discipline", fallback=True):
        log.info("scheduler lock discipline is switched off by [%s] scheduler_lock_discipline", SECTION)
    elif airflow_version not in TESTED_VERSIONS:
        tested = ", ".join(sorted(TESTED_VERSIONS))
        log.warning("scheduler lock discipline is not applied: Airflow %s is not among %s", airflow_version, tested)
    else:
        from scheduler_lock_discipline import discipline

        batch_size = conf.getint(SECTION, "scheduler_batch_size", fallback=BATCH_SIZE)
        discipline.apply(batch_size=batch_size)
        log.info("scheduler lock discipline is applied to Airflow %s, in batches of %d", airflow_version, batch_size)
