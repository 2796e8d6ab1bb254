"""Routes, a module per resource, named as Airflow names them.

A handler returns what it says: a JSON value, a :class:`app.transitions.Refuse`, or a ``Response``; the answer is rendered
in one place (:mod:`app.versions`), after the API date's changes were applied to it.
"""

from fastapi import APIRouter

from app.routes import (
    connections,
    dag_runs,
    dags,
    health,
    task_instances,
    task_reschedules,
    variables,
    xcoms,
)

ROUTERS: tuple[tuple[str, str, APIRouter], ...] = (
    # prefix, tag, router; the busiest first, since they are matched in this order
    ("/task-instances", "Task Instances", task_instances.router),
    ("/xcoms", "XComs", xcoms.router),
    ("/variables", "Variables", variables.router),
    ("/connections", "Connections", connections.router),
    ("/dag-runs", "Dag Runs", dag_runs.router),
    ("/dags", "Dags", dags.router),
    ("/task-reschedules", "Task Reschedules", task_reschedules.router),
    ("", "Health", health.router),
)
