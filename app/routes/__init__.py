"""Routes, a module per resource, named as Airflow names them.

A handler returns what it says: a JSON value, a :class:`app.tasks.transitions.Refuse`, or a ``Response``; the answer is
rendered in one place (:mod:`app.versions`), after the API date's changes were applied to it.
"""

from app.routes import (
    asset_events,
    asset_state_store,
    assets,
    callbacks,
    connection_tests,
    connections,
    dag_runs,
    dags,
    health,
    hitl,
    task_instances,
    task_reschedules,
    task_state_store,
    variables,
    xcoms,
)
from app.routes.operations import Operations

MOUNT_POINT = "/execution"

ROUTERS: tuple[tuple[str, str, Operations], ...] = (
    # prefix, tag, router; the busiest first, since they are matched in this order
    ("/task-instances", "Task Instances", task_instances.router),
    ("/xcoms", "XComs", xcoms.router),
    ("/variables", "Variables", variables.router),
    ("/connections", "Connections", connections.router),
    ("/dag-runs", "Dag Runs", dag_runs.router),
    ("/dags", "Dags", dags.router),
    ("/task-reschedules", "Task Reschedules", task_reschedules.router),
    ("/assets", "Assets", assets.router),
    ("/asset-events", "Asset Events", asset_events.router),
    ("/hitlDetails", "Human in the Loop", hitl.router),
    ("/store/ti", "Task State Store", task_state_store.router),
    ("/store/asset", "Asset State Store", asset_state_store.router),
    ("/connection-tests", "Connection Tests", connection_tests.router),
    ("/callbacks", "Callbacks", callbacks.router),
    ("", "Health", health.router),
)
