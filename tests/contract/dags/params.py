"""Params of every form."""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Param


def with_params(**params: Any) -> DAG:
    with DAG("sample", schedule=None, params=params) as dag:
        EmptyOperator(task_id="job", params={"of_the_task": Param("a", type="string")})
    return dag


LOCAL = {"$defs": {"few": {"type": "integer", "maximum": 3}}, "properties": {"n": {"$ref": "#/$defs/few"}}}
DAGS = {
    "params": with_params(
        plain="text",
        number=Param(5, type="integer", minimum=3),
        nothing=None,
        maybe=Param(None, type=["null", "string"]),
        day=Param("2026-01-02", type="string", format="date"),
        moment=Param("2026-01-02T03:04:05+00:00", type="string", format="date-time"),
        choice=Param("a", enum=["a", "b"], description="one of two"),
        several=Param(["a"], type="array", items={"type": "string"}),
        pattern=Param("abc", type="string", pattern="^[a-c]+$"),
    ),
    "params without a value": with_params(needed=Param(type="string", minLength=2)),
    "params that are objects": with_params(
        whole=Param({"a": 1, "b": {"c": 2}}, type="object", required=["a"]), loose={"a": 1, "b": {"c": 2}}
    ),
    "params that are tuples": with_params(pair=(1, "a"), listed=Param([1], type="array", minItems=1)),
    "params of local definitions": with_params(counted=Param({"n": 3}, **LOCAL)),
}
