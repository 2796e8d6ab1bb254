"""What tasks can say of themselves: executors, names, weights, callbacks, set-up and teardown, groups, mapping, assets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pendulum
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.python import PythonOperator
from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.sdk import (
    DAG,
    Asset,
    AssetAlias,
    Label,
    TaskGroup,
    setup,
    task,
    task_group,
    teardown,
)

CONFIG: dict[str, Any] = {
    "pair": (1, ("a", [2])),
    "kinds": {"b", "a"},
    "nested": {"n": {"m": None}, "list": [{"x": (1,)}]},
    "delay": timedelta(minutes=5),
    "empty": {},
}


def called(context: Any) -> None:
    """Stand for a callback."""


def configured() -> DAG:
    with DAG("sample", schedule=None) as dag:
        EmptyOperator(task_id="kinds", executor_config=CONFIG, executor="LocalExecutor")
        EmptyOperator(task_id="moment", executor_config={"at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)})
        BashOperator.partial(task_id="mapped", executor_config=CONFIG, executor="LocalExecutor").expand(bash_command=["1"])
        BashOperator.partial(task_id="plain").expand(bash_command=["1"])
    return dag


def named() -> DAG:
    with DAG("sample", dag_display_name="A sample", schedule=None) as dag:
        EmptyOperator(task_id="own", task_display_name="Its own")
        BashOperator.partial(task_id="mapped", task_display_name="Mapped").expand(bash_command=["1", "2"])
        BashOperator.partial(task_id="labelled", map_index_template="{{ task.bash_command }}").expand(bash_command=["1"])
        with TaskGroup("g", group_display_name="A group", tooltip="told"):
            EmptyOperator(task_id="inside")
    return dag


def partial() -> DAG:
    """Return a Dag whose mapped tasks get everything that ``partial`` takes, and one that gets it by default."""
    everything: dict[str, Any] = {
        "retries": 4,
        "retry_delay": timedelta(seconds=7),
        "max_retry_delay": timedelta(hours=1),
        "retry_exponential_backoff": True,
        "execution_timeout": timedelta(minutes=9),
        "queue": "q",
        "pool": "p",
        "pool_slots": 3,
        "priority_weight": 5,
        "weight_rule": "upstream",
        "trigger_rule": "all_done",
        "depends_on_past": True,
        "wait_for_downstream": True,
        "max_active_tis_per_dag": 2,
        "max_active_tis_per_dagrun": 1,
        "owner": "ann",
        "email": "ann@example.org",
        "run_as_user": "ann",
        "resources": {"cpus": 2},
        "doc_md": "*told*",
        "do_xcom_push": False,
        "on_failure_callback": called,
        "inlets": [Asset("a", uri="s3://bucket/a")],
        "outlets": [Asset("b", uri="s3://bucket/b"), AssetAlias("alias")],
    }
    with DAG("sample", schedule=None, default_args={"retries": 2, "queue": "d", "pool_slots": 2}) as dag:
        first = BashOperator.partial(task_id="everything", **everything).expand(bash_command=["1", "2"])
        second = BashOperator.partial(task_id="defaults").expand(bash_command=["1", "2"])
        first >> second >> BashOperator(task_id="unmapped", bash_command="x", **everything)
    return dag


def weighed() -> DAG:
    with DAG("sample", schedule=None) as dag:
        start = EmptyOperator(task_id="start", priority_weight=2)
        sides = [
            EmptyOperator(task_id=rule, priority_weight=3, weight_rule=rule)
            for rule in ("absolute", "upstream", "downstream")
        ]
        mapped = BashOperator.partial(task_id="mapped", priority_weight=4, weight_rule="absolute").expand(bash_command=["1"])
        start >> Label("then") >> sides >> mapped >> EmptyOperator(task_id="end", priority_weight=1000)
        EmptyOperator(task_id="half", priority_weight=10, retries=1)
    return dag


def around() -> DAG:
    with DAG("sample", schedule=None, fail_fast=True) as dag:
        with TaskGroup("g") as group:

            @setup
            def begin() -> None: ...

            @teardown(on_failure_fail_dagrun=True)
            def finish() -> None: ...

            began = begin()
            with began >> finish():
                EmptyOperator(task_id="work")
        group >> EmptyOperator(task_id="after").as_teardown()
        BashOperator.partial(task_id="mapped").expand(bash_command=["1"])
    return dag


def grouped() -> DAG:
    with DAG("sample", schedule=None) as dag, TaskGroup("outer") as outer:
        EmptyOperator(task_id="one")
        with TaskGroup("inner"):
            EmptyOperator(task_id="two")
            with TaskGroup("innermost", prefix_group_id=False):
                EmptyOperator(task_id="three")
    with dag:
        outer >> EmptyOperator(task_id="last")
    return dag


@task
def listed() -> list[int]:
    return [1, 2, 3]


@task
def took(v: Any, w: Any = None) -> Any:
    return v


def mapped() -> DAG:
    with DAG("sample", schedule=None) as dag:
        made = listed()
        took.override(task_id="literal").expand(v=[1, 2])
        took.override(task_id="literals").expand(v=[1, 2], w=["a", "b", "c"])
        took.override(task_id="mapping").expand(v={"a": 1, "b": 2})
        took.override(task_id="nested").expand(v=[[1], {"a": (1, 2)}])
        took.override(task_id="by_xcom").expand(v=made)
        took.override(task_id="mixed").expand(v=made, w=[1, 2])
        took.override(task_id="empty").expand(v=[])
        took.override(task_id="kwargs").expand_kwargs([{"v": 1}, {"v": 2, "w": 3}])
        took.override(task_id="kwargs_by_xcom").expand_kwargs(made.map(lambda v: {"v": v}))
        took.override(task_id="zipped").expand(v=made.zip(listed.override(task_id="other")()))
        took.override(task_id="concatenated").expand(v=made.concat(listed.override(task_id="more")()))
        took.override(task_id="partly").partial(w=1).expand(v=[1, 2, 3])

        @task_group
        def outer(n: Any) -> None:
            took.override(task_id="once")(n)

            @task_group
            def inner(k: Any) -> None:
                EmptyOperator(task_id="deep")

            inner(n)

        outer.expand(n=[1, 2, 3])

        @task_group
        def unknown(n: Any) -> None:
            EmptyOperator(task_id="e")

        unknown.expand(n=made)
    return dag


def with_assets() -> DAG:
    first, second = Asset("first", uri="s3://bucket/first", extra={"k": [1]}), Asset("second", group="mine")
    refs = [Asset.ref(name="by name"), Asset.ref(uri="s3://bucket/by_uri"), AssetAlias("alias", group="mine")]
    with DAG("sample", schedule=(first & second) | AssetAlias("alias") | Asset.ref(name="by name")) as dag:
        EmptyOperator(task_id="job", inlets=[first, *refs], outlets=[second, *refs])
        BashOperator.partial(task_id="mapped", inlets=[first], outlets=[second]).expand(bash_command=["1"])
    return dag


def of_many_fields() -> DAG:
    options: dict[str, Any] = {
        "description": "told",
        "tags": ["b", "a"],
        "doc_md": "*told*",
        "catchup": True,
        "max_active_tasks": 3,
        "max_active_runs": 2,
        "max_consecutive_failed_dag_runs": 4,
        "dagrun_timeout": timedelta(hours=2),
        "is_paused_upon_creation": True,
        "render_template_as_native_obj": True,
        "owner_links": {"ann": "https://example.org"},
        "access_control": {"role": {"DAGs": {"can_read"}}},
        "on_failure_callback": called,
        "on_success_callback": called,
        "disable_bundle_versioning": True,
        "default_args": {"owner": "ann", "retries": 1, "on_failure_callback": called, "params": {"p": 1}},
    }
    with DAG("sample", schedule="0 3 * * *", start_date=pendulum.datetime(2020, 1, 1, tz="Europe/Paris"), **options) as dag:
        PythonOperator(
            task_id="python",
            python_callable=called,
            op_args=[1],
            op_kwargs={"k": "v"},
            on_success_callback=called,
            on_retry_callback=called,
            on_execute_callback=called,
            on_skipped_callback=called,
            doc="a",
            doc_json="{}",
            doc_rst="b",
            doc_yaml="c: 1",
            multiple_outputs=True,
        )
        DateTimeSensorAsync(task_id="sensor", target_time="2026-01-01T00:00:00+00:00", start_from_trigger=True)
    return dag


DAGS = {
    "executor configurations": configured(),
    "names": named(),
    "partial": partial(),
    "weights": weighed(),
    "set-up and teardown": around(),
    "nested groups": grouped(),
    "mapped": mapped(),
    "assets": with_assets(),
    "many fields": of_many_fields(),
}
