"""Tasks as a worker lives them, for locust: each user runs one task instance after another, from queued to its end.

The mix of calls is that of real tasks (a plain task: run, heartbeat at once, rendered fields, XCom, heartbeats, success; one
of six also reads an XCom, one of six is deferred first). Like the Task SDK, a user asks again after any status of 500 or
more, five times. Environment: ``LOADTEST_TASKS`` names a file with one task instance id and token a line,
``LOADTEST_CLAIMS`` the file that gets what each task was promised, ``LOADTEST_HEARTBEATS`` how many are sent, and
``LOADTEST_PAUSE`` the seconds from one to the next.
"""

from __future__ import annotations

import json
import os
import random
from collections import deque
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, constant, events, task

ATTEMPTS = 5  # the Task SDK's
HEARTBEATS = int(os.environ.get("LOADTEST_HEARTBEATS", "5"))
PAUSE = float(os.environ.get("LOADTEST_PAUSE", "0"))
PROCESS = {"hostname": "worker", "pid": 42}

waiting = deque(line.split() for line in Path(os.environ["LOADTEST_TASKS"]).read_text().splitlines())
living: set[str] = set()
claims: dict[str, str] = {}
reasons: dict[str, int] = {}


class Worker(FastHttpUser):
    """A worker slot."""

    wait_time = constant(0)
    network_timeout = connection_timeout = 5.0  # seconds, the Task SDK's

    @task
    def live(self) -> None:
        if not waiting:
            if not living:
                self.environment.runner.quit()
            self.stop()
            return
        ti, token = waiting.popleft()
        self.authorization = {"Authorization": f"Bearer {token}"}
        living.add(ti)
        self.live_as(ti)
        living.discard(ti)

    def live_as(self, ti: str) -> None:
        start = {"state": "running", **PROCESS, "unixname": "airflow", "start_date": "2026-01-01T00:00:00Z"}
        if not self.ask("PATCH", ti, "run", start):
            return
        claims[ti] = "running"
        self.ask("PUT", ti, "heartbeat", PROCESS)
        self.ask("PUT", ti, "rtif", {"bash_command": "echo {{ ds }}", "env": None})
        if random.random() < 1 / 6:
            self.ask_path("GET", f"/xcoms/load/manual__1/{ti}/return_value", "/xcoms [get]", None, ok=(200, 404))
        for _ in range(HEARTBEATS):
            gevent.sleep(PAUSE)
            self.ask("PUT", ti, "heartbeat", PROCESS)
        gevent.sleep(PAUSE)
        self.ask_path("POST", f"/xcoms/load/manual__1/{ti}/return_value", "/xcoms [set]", {"rows": 1000})
        ended = {"state": "success", "end_date": "2026-01-01T00:05:00Z"}
        if random.random() < 1 / 6:
            ended = {"state": "deferred", "classpath": "my.Trigger", "next_method": "resume", "trigger_kwargs": {"n": 1}}
        if self.ask("PATCH", ti, "state", ended):
            claims[ti] = ended["state"]

    def ask(self, method: str, ti: str, what: str, body: Any) -> bool:
        return self.ask_path(method, f"/task-instances/{ti}/{what}", f"/{what}", body)

    def ask_path(self, method: str, path: str, name: str, body: Any, ok: tuple[int, ...] = (200, 201, 204)) -> bool:
        """Ask until there is an answer below 500; return whether it was one of ``ok``."""
        for _ in range(ATTEMPTS):
            options = {"headers": self.authorization, **({"json": body} if body is not None else {})}
            with self.client.request(method, path, name=name, catch_response=True, **options) as answer:
                if answer.status_code in ok:
                    answer.success()
                    return True
                reason = f"{answer.status_code} {_reason(answer.text)}"
                reasons[reason] = reasons.get(reason, 0) + 1
                answer.failure(reason)
                if 0 < answer.status_code < 500:
                    return False
        return False


def _reason(body: str | None) -> str:
    try:
        detail = json.loads(body or "")["detail"]
    except (ValueError, KeyError, TypeError):
        return ""
    return detail.get("reason", "") if isinstance(detail, dict) else str(detail)[:60]


@events.quitting.add_listener
def write_claims(environment: Any, **_: Any) -> None:
    """Write what was promised, every failed answer by reason, and locust's own figures."""
    total = environment.stats.total
    document = {
        "claims": claims,
        "reasons": reasons,
        "requests": total.num_requests,
        "heartbeats": environment.stats.get("/heartbeat", "PUT").num_requests,
        "failures": total.num_failures,
        "seconds": total.last_request_timestamp - total.start_time if total.num_requests else 0,
        "p50": total.get_response_time_percentile(0.5),
        "p95": total.get_response_time_percentile(0.95),
        "p99": total.get_response_time_percentile(0.99),
    }
    Path(os.environ["LOADTEST_CLAIMS"]).write_text(json.dumps(document))
