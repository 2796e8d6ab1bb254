"""Pods for tasks that run on Kubernetes, whole, in part, and of mapped tasks."""

from __future__ import annotations

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from kubernetes.client import models as k8s

POD = k8s.V1Pod(
    metadata=k8s.V1ObjectMeta(labels={"team": "a"}, annotations={"é": "1"}),
    spec=k8s.V1PodSpec(
        containers=[
            k8s.V1Container(
                name="base",
                image="image:1",
                env=[k8s.V1EnvVar(name="N", value="1")],
                resources=k8s.V1ResourceRequirements(requests={"cpu": "500m"}, limits={"memory": "1Gi"}),
                volume_mounts=[k8s.V1VolumeMount(name="v", mount_path="/v", read_only=True)],
            )
        ],
        tolerations=[k8s.V1Toleration(key="k", operator="Exists", toleration_seconds=30)],
        volumes=[k8s.V1Volume(name="v", empty_dir=k8s.V1EmptyDirVolumeSource())],
    ),
)


def pods() -> DAG:
    with DAG("sample", schedule=None) as dag:
        EmptyOperator(task_id="whole", executor_config={"pod_override": POD})
        EmptyOperator(task_id="nothing", executor_config={"pod_override": k8s.V1Pod()})
        EmptyOperator(task_id="none", executor_config={"pod_override": None, "pod_template_file": "/t.yaml"})
        BashOperator.partial(task_id="mapped", executor_config={"pod_override": POD}).expand(bash_command=["1", "2"])
    return dag


def pods_by_default() -> DAG:
    with DAG("sample", schedule=None, default_args={"executor_config": {"pod_override": POD}}) as dag:
        EmptyOperator(task_id="inherited")
        EmptyOperator(task_id="own", executor_config={"k": 1})
    return dag


DAGS = {"pods": pods(), "pods by default": pods_by_default()}
