"""Live the lives of many tasks with the real Task SDK client; run by the Python of an Airflow environment.

Standard input: ``{"base_url": ..., "tasks": [...]}``, with id, token and coordinates of each. Standard output: a line of
JSON for each task that has ended, with what its client raised, or nothing.
"""

import json
import os
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime

from airflow.sdk.api.client import Client

AT_ONCE = 6
HEARTBEATS = 4


def live(base_url, task):
    client, ti = Client(base_url=base_url, token=task["token"]), uuid.UUID(task["id"])
    client.task_instances.start(ti, os.getpid(), datetime.now(UTC))
    client.task_instances.set_rtif(ti, {"field": "value"})
    for _ in range(HEARTBEATS):
        client.task_instances.heartbeat(ti, os.getpid())
        client.variables.get("stored")
    client.xcoms.set(task["dag_id"], task["run_id"], task["task_id"], "return_value", {"task": task["id"]})
    client.task_instances.succeed(ti, datetime.now(UTC), [], [], None)


def main(base_url, tasks):
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for ended in as_completed([threads.submit(live, base_url, task) for task in tasks]):
            error = ended.exception()
            print(json.dumps({"error": None if error is None else repr(error)}), flush=True)


if __name__ == "__main__":
    main(**json.load(sys.stdin))
