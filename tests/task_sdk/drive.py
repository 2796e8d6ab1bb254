"""Drive every operation with the real Task SDK client; run by the Python of an Airflow environment.

Standard input: ``{"base_url": ..., "tasks": {name: {"id": ..., "token": ...}}}``; standard output: one JSON object of
what each operation answered.
"""

import json
import sys
import uuid
from datetime import UTC, datetime, timedelta

from airflow.sdk.api.client import Client, ServerResponseError
from airflow.sdk.execution_time.comms import DeferTask, ErrorResponse, RescheduleTask, SkipDownstreamTasks

NOW = datetime(2026, 1, 1, 0, 5, tzinfo=UTC)
DAG, RUN, PID = "sdk", "manual__1", 4321


def main(base_url, tasks):
    results = {}

    def client_for(name):
        task = tasks[name]
        return Client(base_url=base_url, token=task["token"]), uuid.UUID(task["id"])

    def record(name, call):
        try:
            answer = call()
        except ServerResponseError as error:
            results[name] = {"status": error.response.status_code, "body": error.response.json()}
            return
        if isinstance(answer, ErrorResponse):
            results[name] = {"error": answer.error.value}
        elif hasattr(answer, "model_dump"):
            results[name] = answer.model_dump(mode="json")
        else:
            results[name] = answer

    def started(name):
        client, ti = client_for(name)
        client.task_instances.start(ti, PID, NOW)
        return client, ti

    client, ti = client_for("succeeds")
    operations = client.task_instances
    record("start", lambda: operations.start(ti, PID, NOW))
    record("start again", lambda: operations.start(ti, PID, NOW))
    record("heartbeat", lambda: operations.heartbeat(ti, PID))
    record("heartbeat of another", lambda: operations.heartbeat(ti, PID + 1))
    record("set_rtif", lambda: operations.set_rtif(ti, {"field": "value"}))
    record("set_rendered_map_index", lambda: operations.set_rendered_map_index(ti, "label"))
    record("skip", lambda: operations.skip_downstream_tasks(ti, SkipDownstreamTasks(tasks=["down", ("mapped", 0)])))
    record("previous dagrun", lambda: operations.get_previous_successful_dagrun(ti))
    record("reschedule start", lambda: operations.get_reschedule_start_date(ti))
    record("count", lambda: operations.get_count(DAG, states=["running"], run_ids=[RUN]))
    record("count in group", lambda: operations.get_count(DAG, task_group_id="g"))
    record("previous", lambda: operations.get_previous(DAG, "succeeds"))
    record("states", lambda: operations.get_task_states(DAG, task_ids=["succeeds"]))
    record("breadcrumbs", lambda: operations.get_task_breakcrumbs(DAG, RUN))
    record("validate", lambda: operations.validate_inlets_and_outlets(ti))

    xcoms = client.xcoms
    record("xcom set", lambda: xcoms.set(DAG, RUN, "succeeds", "key/with slash", {"a": [1, None]}))
    record("xcom set mapped", lambda: xcoms.set(DAG, RUN, "succeeds", "return_value", [1, 2], mapped_length=2))
    record("xcom get", lambda: xcoms.get(DAG, RUN, "succeeds", "key/with slash"))
    record("xcom get none", lambda: xcoms.get(DAG, RUN, "succeeds", "nope"))
    record("xcom head", lambda: xcoms.head(DAG, RUN, "succeeds", "return_value"))
    record("xcom item", lambda: xcoms.get_sequence_item(DAG, RUN, "succeeds", "return_value", 0))
    record("xcom item none", lambda: xcoms.get_sequence_item(DAG, RUN, "succeeds", "return_value", 7))
    record("xcom slice", lambda: xcoms.get_sequence_slice(DAG, RUN, "succeeds", "return_value", None, None, None))
    record("xcom delete", lambda: xcoms.delete(DAG, RUN, "succeeds", "key/with slash"))

    record("variable set", lambda: client.variables.set("v/1", "value", "described"))
    record("variable get", lambda: client.variables.get("v/1"))
    record("variable delete", lambda: client.variables.delete("v/1"))
    record("variable get none", lambda: client.variables.get("v/1"))
    record("connection get", lambda: client.connections.get("conn"))
    record("connection get none", lambda: client.connections.get("nope"))

    record("dag run detail", lambda: client.dag_runs.get_detail(DAG, RUN))
    record("dag run state", lambda: client.dag_runs.get_state(DAG, RUN))
    record("dag run count", lambda: client.dag_runs.get_count(DAG, states=["running"]))
    record("dag run previous", lambda: client.dag_runs.get_previous(DAG, datetime(2027, 1, 1, tzinfo=UTC)))
    record("dag", lambda: client.dags.get(DAG))

    record("succeed", lambda: operations.succeed(ti, NOW, [], [], None))
    record("succeed again", lambda: operations.succeed(ti, NOW, [], [], None))
    record("xcom after success", lambda: xcoms.set(DAG, RUN, "succeeds", "link", "url"))

    client, ti = started("fails")
    record("finish", lambda: client.task_instances.finish(ti, "failed", NOW, "label"))
    client, ti = started("retries")
    record("retry", lambda: client.task_instances.retry(ti, NOW, None))
    client, ti = started("defers")
    message = DeferTask(
        classpath="my.Trigger",
        trigger_kwargs={"n": 1},
        trigger_timeout=timedelta(seconds=9),
        next_method="resume",
        next_kwargs={"x": 1},
        rendered_map_index=None,
    )
    record("defer", lambda: client.task_instances.defer(ti, message))
    client, ti = started("reschedules")
    later = RescheduleTask(reschedule_date=NOW + timedelta(minutes=1), end_date=NOW)
    record("reschedule", lambda: client.task_instances.reschedule(ti, later))
    if hasattr(client.task_instances, "await_input"):
        from airflow.sdk.execution_time.comms import AwaitInputTask

        client, ti = started("waits")
        parked = AwaitInputTask(timeout=None, next_method="resume", next_kwargs={}, rendered_map_index=None)
        record("await input", lambda: client.task_instances.await_input(ti, parked))
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main(**json.load(sys.stdin))
