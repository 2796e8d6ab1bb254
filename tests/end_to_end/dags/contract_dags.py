"""Dags that touch every operation of the execution API; the end-to-end tests run them on a real Airflow."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.python import BranchPythonOperator, ShortCircuitOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.providers.standard.sensors.external_task import ExternalTaskSensor
from airflow.providers.standard.sensors.python import PythonSensor
from airflow.sdk import Asset, Connection, Param, Variable, dag, get_current_context, setup, task, task_group, teardown

START = datetime(2026, 1, 1, tzinfo=UTC)
# Airflow's scheduler fails a task that is queued again before it has read the executor's word on its last process, so
# what comes back (from a trigger, from a reschedule) stays away for longer than a busy scheduler's loop.
PAUSE = 12
settings = {"schedule": None, "start_date": START, "catchup": False}


@dag(**settings)
def chain():
    @task
    def first():
        return {"value": 20, "big": 2**60}

    @task
    def second(given):
        assert given["big"] == 2**60
        return given["value"] + 1

    @task
    def third(given):
        get_current_context()["ti"].xcom_push(key="a/key with spaces and é", value=[given, None, 1.5])
        return given * 2

    third(second(first()))


@dag(**settings)
def variables_and_connections():
    @task
    def use():
        assert Variable.get("from_database") == "stored"
        assert Variable.get("from_environment") == "environment"
        assert Variable.get("absent", default="none") == "none"
        Variable.set("written/by task", "yes")
        assert Variable.get("written/by task") == "yes"
        Variable.set("to_delete", "x")
        Variable.delete("to_delete")
        connection = Connection.get("stored_connection")
        assert (connection.password, connection.extra_dejson) == ("s3cret", {"a": 1})
        assert Connection.get("environment_connection").host == "example.com"
        return connection.host

    use()


@dag(**settings)
def retries_then_succeeds():
    @task(retries=2, retry_delay=timedelta(seconds=0.1))
    def flaky():
        number = get_current_context()["ti"].try_number
        if number < 3:
            raise RuntimeError(f"try {number}")
        return number

    flaky()


@dag(**settings)
def fails_for_good():
    @task(retries=1, retry_delay=timedelta(seconds=0.1))
    def broken():
        raise RuntimeError("always")

    @task
    def after():
        return None

    broken() >> after()


@dag(**settings)
def branches():
    branch = BranchPythonOperator(task_id="branch", python_callable=lambda: "taken")
    taken, not_taken = EmptyOperator(task_id="taken"), EmptyOperator(task_id="not_taken")
    stop = ShortCircuitOperator(task_id="stop", python_callable=lambda: False)
    branch >> [taken, not_taken]
    taken >> stop >> EmptyOperator(task_id="after_stop") >> EmptyOperator(task_id="last")


@dag(**settings)
def rescheduled_sensor():
    def arrived():
        count = int(Variable.get("pokes", default="0")) + 1
        Variable.set("pokes", str(count))
        return count >= 3

    PythonSensor(task_id="wait", python_callable=arrived, mode="reschedule", poke_interval=PAUSE, timeout=300)


@dag(**settings)
def deferred():
    DateTimeSensorAsync(
        task_id="wait", target_time="{{ (macros.datetime.utcnow() + macros.timedelta(seconds=12)).isoformat() }}"
    )


@dag(**settings)
def mapped():
    @task
    def numbers():
        return [1, 2, 3, 4]

    @task(map_index_template="number {{ given }}")
    def double(given):
        get_current_context()["given"] = given
        return given * 2

    @task
    def slices(values):
        assert len(values) == 4
        return {
            "tail": list(values[-2:]),
            "first": values[0],
            "last": values[-1],
            "step": list(values[::2]),
            "sum": sum(values),
        }

    slices(double.expand(given=numbers()))


@dag(**settings)
def long_runner():
    @task
    def sleep():
        time.sleep(25)
        return "awake"

    sleep()


@dag(**settings)
def setup_and_teardown():
    @setup
    def make():
        return "resource"

    @task
    def job():
        raise RuntimeError("the teardown runs all the same")

    @teardown
    def remove():
        return "removed"

    make() >> job() >> remove().as_teardown(setups=None)


@dag(**settings, fail_fast=True)
def fail_fast():
    @task
    def fails():
        time.sleep(3)
        raise RuntimeError("stop the others")

    @task
    def slow():
        time.sleep(60)

    @task
    def never():
        return None

    @teardown
    def clean():
        return "cleaned"

    waiting = never()
    [fails(), slow()] >> waiting
    waiting >> clean()


@dag(**settings)
def observed_group():
    @task_group
    def group():
        @task
        def one():
            return 1

        @task
        def two():
            return 2

        one() >> two()

    group()


@dag(**settings)
def group_observer():
    ExternalTaskSensor(
        task_id="wait",
        external_dag_id="observed_group",
        external_task_group_id="group",
        allowed_states=["success"],
        poke_interval=1,
        timeout=120,
        check_existence=True,
    )


events = Asset(name="events", uri="s3://bucket/events")


@dag(**settings)
def producer():
    @task(outlets=[events])
    def produce(*, outlet_events):
        outlet_events[events].extra = {"rows": 3}
        return "made"

    produce()


@dag(schedule=[events], start_date=START, catchup=False)
def consumer():
    @task(inlets=[events])
    def consume(*, triggering_asset_events):
        return [event.extra for event in triggering_asset_events[events]]

    consume()


@dag(**settings, params={"rows": Param(1, type="integer", minimum=1)})
def triggered():
    @task
    def tell():
        context = get_current_context()
        run = context["dag_run"]
        return {"rows": context["params"]["rows"], "interval": run.data_interval_start == run.data_interval_end}

    @task
    def double(number):
        return number * 2

    tell() >> double.expand(number=[1, 2])


@dag(**settings)
def triggering():
    trigger = TriggerDagRunOperator(
        task_id="trigger",
        trigger_dag_id="triggered",
        trigger_run_id="by_a_task",
        logical_date=START,
        conf={"rows": 5},
        wait_for_completion=True,
        poke_interval=2,
    )

    @task
    def recall(*, ti):
        """Pull what another Dag's run of an earlier date pushed, by its list and by itself."""
        told = {"dag_id": "triggered", "task_ids": "tell", "include_prior_dates": True}
        return [ti.xcom_pull(**told), ti.xcom_pull(**told, map_indexes=-1)]

    trigger >> recall()


for define in (
    triggered,
    triggering,
    chain,
    variables_and_connections,
    retries_then_succeeds,
    fails_for_good,
    branches,
    rescheduled_sensor,
    deferred,
    mapped,
    long_runner,
    setup_and_teardown,
    fail_fast,
    observed_group,
    group_observer,
    producer,
    consumer,
):
    define()
