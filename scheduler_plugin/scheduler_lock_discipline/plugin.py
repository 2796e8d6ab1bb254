"""The Airflow plugin: it waits for the scheduler to start, and leaves every other process alone."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from scheduler_lock_discipline import listener


class SchedulerLockDisciplinePlugin(AirflowPlugin):
    """Registers the listener that applies the discipline when a scheduler starts."""

    name = "scheduler_lock_discipline"
    listeners = [listener]  # noqa: RUF012 - Airflow's own form
