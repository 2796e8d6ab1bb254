"""The Dag ``sample`` in many versions: mapped tasks and groups, weights, pools, params; and what a newer version changes."""

from __future__ import annotations

from datetime import UTC, datetime
from inspect import signature
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, CronTriggerTimetable, Param, task, task_group
from dateutil.relativedelta import relativedelta

START = datetime(2025, 1, 1, tzinfo=UTC)


@task(priority_weight=9, weight_rule="absolute")
def c() -> list[int]:
    return [1]


@task
def m(v: int) -> int:
    return v


def sample(*, mapped: str = "as before", **options: Any) -> DAG:
    """Return the Dag; ``mapped`` says what became of its mapped tasks."""
    hourly = CronTriggerTimetable("0 3 * * *", timezone="Europe/Paris", interval=relativedelta(hours=1))
    defaults = {"retries": 2, "pool": "p2", "start_date": START}
    params = {"x": Param(5, type="integer", minimum=3), "y": "plain"}
    with DAG("sample", schedule=hourly, start_date=START, default_args=defaults, params=params, **options) as dag:
        a = BashOperator(
            task_id="a",
            bash_command="x",
            retries=1,
            queue="q",
            pool_slots=2,
            priority_weight=7,
            executor_config={"k": 1},
            task_display_name="Aa",
            start_date=datetime(2027, 1, 1, tzinfo=UTC),
        )
        b: Any
        if mapped == "no more":
            b = BashOperator(task_id="b", bash_command="x", retries=3, pool="p3")
        elif mapped == "to fewer":
            b = BashOperator.partial(task_id="b", retries=3, pool="p3").expand(bash_command=["1"])
        else:
            b = BashOperator.partial(task_id="b", retries=3, pool="p3").expand(bash_command=["1", "2", "3"])
        made = c()
        a >> b >> made
        if mapped == "no more":
            m(1)
        elif mapped == "by a literal":
            m.expand(v=[1, 2])
        else:
            m.expand(v=made)

        if mapped == "no more":
            EmptyOperator(task_id="g.e")
        else:

            @task_group
            def g(v: int) -> None:
                EmptyOperator(task_id="e")

            g.expand(v=[1, 2])
        m.override(task_id="md").expand(v={"a": 1, "b": 2})
        if mapped == "over what is mapped":
            m.override(task_id="on").expand(v=m.override(task_id="gone").expand(v=[1, 2]))
    return dag


# Since 3.3 a Dag may say that its cleared runs move to its newest version.
OPTION = "rerun_with_latest_version"
MOVES: dict[str, Any] = {OPTION: True} if OPTION in signature(DAG.__init__).parameters else {}
DAGS = {
    "sample": sample(),
    "sample, moving": sample(**MOVES),
    "sample, moving, without bundle versions": sample(**MOVES, disable_bundle_versioning=True),
    "sample, moving, no more mapped": sample(mapped="no more", **MOVES),
    "sample, moving, mapped to fewer": sample(mapped="to fewer", **MOVES),
    "sample, moving, mapped by a literal": sample(mapped="by a literal", **MOVES),
    "sample, moving, mapped over what is mapped": sample(mapped="over what is mapped", **MOVES),
    "sample, moving, a run of other dates": sample(**MOVES, end_date=START),
}
