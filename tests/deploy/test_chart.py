"""The Helm chart: rendered by Helm over a matrix of values, judged by Kubernetes' own schemas, and what its pod would do."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import debian
from tests.certificates import Authority
from tests.deploy.documents import document
from tests.deploy.pods import arguments, environment, run
from tests.servers import FERNET_KEY, ROOT, SECRET, pinned_environment

pytestmark = pytest.mark.slow

CHART = ROOT / "deploy" / "chart"
GOLDEN = Path(__file__).parent / "golden"
VERSIONS = [f"1.{minor}" for minor in range(30, 37)]
DIGEST = "sha256:" + "0123456789abcdef" * 4
EVERYTHING = {
    "image": {"digest": DIGEST, "pullSecrets": [{"name": "registry"}]},
    "airflow": {"fullname": "prod-airflow", "release": "prod", "pgbouncer": True},
    "workers": 2,
    "poolSize": 5,
    "tls": {"secret": "execution-api-tls"},
    "env": [{"name": "AIRFLOW__EXECUTION_API_SERVICE__TASK_SCOPE", "value": "own"}],
    "envFrom": [{"secretRef": {"name": "more"}}],
    "autoscaling": {"enabled": True, "requestsWaiting": 5},
    "networkPolicy": {"from": [{"namespaceSelector": {"matchLabels": {"team": "data"}}}]},
    "service": {"annotations": {"a": "b"}},
    "serviceAccount": {"annotations": {"role": "arn"}},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "preStop": {"sleep": {"seconds": 5}},
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "data"},
    "nodeSelector": {"kubernetes.io/arch": "arm64"},
    "tolerations": [{"key": "spot", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
}
MATRIX: dict[str, dict[str, Any]] = {
    "default": {},
    "everything": EVERYTHING,
    **{name: {name: values} for name, values in EVERYTHING.items()},
    "load balancer": {
        "service": {"type": "LoadBalancer"},
        "networkPolicy": {"enabled": False},
        "serviceMonitor": {"enabled": True},
    },
    "no airflow.cfg": {"airflow": {"configMap": "-"}, "serviceAccount": {"name": "there"}},
    "another release": {"airflow": {"release": "prod"}},
    "other secrets": {"airflow": {"secrets": {"metadata": {"name": "database", "key": "url"}}}},
    "none": {"replicas": 0},
}
# What the official chart calls what it makes, read off templates/_helpers.yaml of its 1.18.0: airflow.cfg and the connection
# by airflow.fullname, which is the release's name without useStandardNaming; the two keys by the release's name in any case.
OFFICIAL = {
    "default": ("airflow", {"airflow-config", "airflow-metadata", "airflow-fernet-key", "airflow-jwt-secret"}),
    "another release": ("prod", {"prod-config", "prod-metadata", "prod-fernet-key", "prod-jwt-secret"}),
    "everything": ("prod", {"prod-airflow-config", "prod-airflow-metadata", "prod-fernet-key", "prod-jwt-secret"}),
}
REFUSED: dict[str, dict[str, Any]] = {
    "a misspelt value": {"replica": 3},
    "a digest that is none": {"image": {"digest": "latest"}},
    "a port that is none": {"port": 70000},
}


REFUSED_BY_KUBERNETES: dict[str, Any] = {"affinity": {"nodeAfinity": {}}}


@pytest.fixture(scope="module")
def rendered() -> dict[str, Any]:
    """Return what Helm makes of each case, and what it says of the chart."""
    cases = {**MATRIX, **REFUSED, "refused by Kubernetes": REFUSED_BY_KUBERNETES}
    asked = {"chart": str(CHART), "versions": VERSIONS, "cases": cases}
    program = [pinned_environment("deploy") / "bin" / "python", Path(__file__).with_name("render.py")]
    done = subprocess.run(program, input=json.dumps(asked), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def _kinds(case: dict[str, Any]) -> set[str]:
    return {each["kind"] for each in case["objects"]}


def _one(case: dict[str, Any], kind: str) -> Any:
    (found,) = (each for each in case["objects"] if each["kind"] == kind)
    return found


@pytest.mark.parametrize("case", MATRIX)
def test_every_kubernetes_takes_it(rendered: dict[str, Any], case: str) -> None:
    assert rendered[case].get("refused") is None
    assert rendered[case]["problems"] == []
    assert {"Deployment", "Service", "PodDisruptionBudget"} <= _kinds(rendered[case])


def test_what_kubernetes_would_refuse_is_found(rendered: dict[str, Any]) -> None:
    problems = rendered["refused by Kubernetes"]["problems"]
    assert [problem.partition(":")[0] for problem in problems] == [f"Deployment on {version}" for version in VERSIONS]
    assert all("nodeAfinity" in problem for problem in problems)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_with_values_is_told(rendered: dict[str, Any], case: str) -> None:
    assert "schema" in rendered[case]["refused"]


def test_helm_finds_nothing_to_say(rendered: dict[str, Any]) -> None:
    found = [each for each in rendered["lint"]["messages"] if each["severity"] not in ("INFO", 1)]
    assert found == []
    assert not rendered["lint"]["errors"]


@pytest.mark.parametrize("case", ["default", "everything"])
def test_it_is_rendered_as_it_was(rendered: dict[str, Any], case: str) -> None:
    golden = GOLDEN / f"{case}.yaml"
    if os.environ.get("RECORD"):
        golden.write_text(rendered[case]["text"])
    assert rendered[case]["text"] == golden.read_text()


def test_what_is_off_is_not_there(rendered: dict[str, Any]) -> None:
    of_operators = {"HorizontalPodAutoscaler", "ServiceMonitor", "PrometheusRule"}
    assert _kinds(rendered["default"]).isdisjoint(of_operators)
    assert of_operators <= _kinds(rendered["everything"])
    assert "NetworkPolicy" not in _kinds(rendered["load balancer"])
    assert "replicas" not in _one(rendered["autoscaling"], "Deployment")["spec"]


def test_selectors_find_the_pods(rendered: dict[str, Any]) -> None:
    for case in MATRIX:
        pod = _one(rendered[case], "Deployment")["spec"]["template"]
        labels = pod["metadata"]["labels"].items()
        assert _one(rendered[case], "Service")["spec"]["selector"].items() <= labels
        assert _one(rendered[case], "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels
        ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert {port["targetPort"] for port in _one(rendered[case], "Service")["spec"]["ports"]} <= ports
        if "ServiceMonitor" in _kinds(rendered[case]):
            monitored = _one(rendered[case], "ServiceMonitor")["spec"]
            assert (
                monitored["selector"]["matchLabels"].items() <= _one(rendered[case], "Service")["metadata"]["labels"].items()
            )
            assert {each["targetPort"] for each in monitored["endpoints"]} <= ports


@pytest.mark.parametrize("case", OFFICIAL)
def test_it_knows_the_official_chart(rendered: dict[str, Any], case: str) -> None:
    release, made = OFFICIAL[case]
    told = (ROOT / "docs" / "operations.md").read_text()
    assert [name for name in made if f"`{name}`" not in told] == []
    pod = _one(rendered[case], "Deployment")["spec"]["template"]
    configured = {each["configMap"]["name"] for each in pod["spec"]["volumes"] if "configMap" in each}
    for container in (*pod["spec"]["initContainers"], *pod["spec"]["containers"]):
        references = {each["valueFrom"]["secretKeyRef"]["name"] for each in container["env"] if "valueFrom" in each}
        assert references | configured == made
    # Its NetworkPolicies let in who has these two; its workers, and those of the Kubernetes executor, have them.
    both = {"tier": "airflow", "release": release}
    assert both.items() <= pod["metadata"]["labels"].items()
    (airflow, *_) = _one(rendered[case], "NetworkPolicy")["spec"]["ingress"][0]["from"]
    assert airflow == {"podSelector": {"matchLabels": both}}


def test_the_official_chart_is_told_where_the_service_is(rendered: dict[str, Any]) -> None:
    url = document(CHART / "airflow-values.yaml")["config"]["core"]["execution_api_server_url"]
    service = _one(rendered["default"], "Service")
    assert url == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}/execution/"


def test_the_alerts_are_those_of_prometheus(rendered: dict[str, Any], tmp_path: Path) -> None:
    debian.install("prometheus", programs=("promtool",))
    spec = _one(rendered["everything"], "PrometheusRule")["spec"]
    assert spec == document(ROOT / "deploy" / "prometheus" / "rules.yaml")
    rules = tmp_path / "rules.yaml"
    rules.write_text(json.dumps(spec))
    done = subprocess.run(["promtool", "check", "rules", rules], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", ["default", "everything"])
def test_what_the_pod_is_given_can_serve(
    rendered: dict[str, Any], case: str, make_database: Callable[[str], str], tmp_path: Path
) -> None:
    pod = _one(rendered[case], "Deployment")["spec"]["template"]["spec"]
    release, fullname = ("prod", "prod-airflow") if case == "everything" else ("airflow", "airflow")
    secrets = {
        f"{fullname}-metadata": {"connection": make_database("3.3")},
        f"{release}-fernet-key": {"fernet-key": FERNET_KEY},
        f"{release}-jwt-secret": {"jwt-secret": SECRET},
        "more": {"AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING"},
        "execution-api-tls": _certificate(tmp_path),
    }
    of_the_official_chart = (
        "[api]\nbase_url = https://airflow.example.com/prod\n[core]\nexecutor = CeleryExecutor\n"
        "[elasticsearch]\nlog_id_template = {dag_id}_{task_id}_{execution_date}_{try_number}\n"
        f"[metrics]\nstatsd_on = True\nstatsd_port = 9125\nstatsd_prefix = airflow\nstatsd_host = {fullname}-statsd\n"
    )
    configmaps = {f"{fullname}-config": {"airflow.cfg": of_the_official_chart}}
    check, serve = pod["initContainers"][0], pod["containers"][0]
    assert arguments(serve) == ["serve"]
    given = environment(serve, pod, secrets=secrets, configmaps=configmaps, folder=tmp_path / "pod")
    assert given == environment(check, pod, secrets=secrets, configmaps=configmaps, folder=tmp_path / "pod")
    checked = run([*arguments(check), "--json"], given)
    told = {each["name"]: each for each in json.loads(checked.stdout)["checks"]}
    assert [name for name, each in told.items() if not each["passed"]] == []
    assert checked.returncode == 0
    assert "airflow.cfg was read" in told["configuration"]["message"]
    assert ("certificate" in told) == (case == "everything")
    wanted = {"default": "2 workers x 10 connections", "everything": "20 workers x 5 connections"}
    assert told["pool"]["message"].startswith(wanted[case])


def _certificate(folder: Path) -> dict[str, str]:
    issued = Authority(folder).issue("execution-api")
    return {"tls.crt": issued.certificate.read_text(), "tls.key": issued.key.read_text()}
