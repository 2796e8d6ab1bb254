"""Live tasks with the real Task SDK client, each in a thread; run by the Python of an Airflow environment.

The first line of standard input says whose: ``{"base_url": ..., "interval": seconds, "tasks": {name: {"id", "token"}}}``.
A line on standard output says that all of them run; a further line of input, or its end, lets them succeed. Then one JSON
object tells what was asked and heard, and the error of each task that could not go on.
"""

import json
import sys
import threading
import uuid
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime

from airflow.sdk.api.client import Client

DAG, RUN, PID = "d", "manual__1", 42
NOW = datetime(2026, 1, 1, 0, 5, tzinfo=UTC)
FAILED_HEARTBEATS = 3  # in a row end a task of Task SDK 1.0 to 1.3


class Life:
    """One task and its worker.

    :param interval: seconds from heartbeat to heartbeat.
    """

    def __init__(self, base_url, name, task, interval):
        self.name, self.ti, self.interval = name, uuid.UUID(task["id"]), interval
        self.asked, self.heard, self.error = 0, Counter(), None
        self.client = Client(base_url=base_url, token=task["token"])
        self.client.event_hooks["request"].append(self.ask)
        self.client.event_hooks["response"].insert(0, self.hear)  # the one after it raises

    def ask(self, _):
        self.asked += 1

    def hear(self, response):
        self.heard[response.status_code] += 1

    def live(self, started, over):
        try:
            self.client.task_instances.start(self.ti, PID, NOW)
            started.wait()
            failed = 0
            while not over.wait(self.interval):
                failed = failed + 1 if self.is_heartbeat_failing(failed) else 0
                self.work()
            self.client.task_instances.succeed(self.ti, NOW, [], [], None)
        except Exception as error:
            self.error = repr(error)
            started.abort()

    def is_heartbeat_failing(self, failed):
        try:
            self.client.task_instances.heartbeat(self.ti, PID)
        except Exception:
            if failed + 1 >= FAILED_HEARTBEATS:
                raise
            return True
        return False

    def work(self):
        self.client.xcoms.set(DAG, RUN, self.name, "key", {"n": 1})
        self.client.xcoms.get(DAG, RUN, self.name, "key")
        self.client.task_instances.set_rendered_map_index(self.ti, "label")
        self.client.variables.get("none")


def main(base_url, interval, tasks):
    over, started = threading.Event(), threading.Barrier(len(tasks) + 1)
    lives = [Life(base_url, name, task, interval) for name, task in tasks.items()]
    threads = [threading.Thread(target=life.live, args=(started, over)) for life in lives]
    for thread in threads:
        thread.start()
    with suppress(threading.BrokenBarrierError):  # the report says why
        started.wait()
    print("started", flush=True)
    sys.stdin.readline()
    over.set()
    for thread in threads:
        thread.join()
    heard = sum((life.heard for life in lives), Counter())
    errors = {life.name: life.error for life in lives if life.error}
    print(json.dumps({"asked": sum(life.asked for life in lives), "heard": heard, "errors": errors}))


if __name__ == "__main__":
    main(**json.loads(sys.stdin.readline()))
