"""Render the chart by Helm itself and judge it; run by the environment of ``requirements/deploy.txt``.

Reads ``{"chart", "versions", "cases": {name: values}}`` from standard input and writes for each case its objects, or what
Helm refuses, and what Kubernetes would.
"""

from __future__ import annotations

import functools
import json
import sys
from typing import Any

import helm_python
import kubernetes_validate
import yaml
from kubernetes_validate import utils

OPERATORS = {"ServiceMonitor", "PrometheusRule"}  # of the Prometheus operator; Kubernetes has no schema of them


def _problems(objects: list[dict[str, Any]], versions: list[str]) -> list[str]:
    found = []
    for each in objects:
        for version in versions if each["kind"] not in OPERATORS else ():
            try:
                kubernetes_validate.validate(each, version, strict=True)
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                found.append(f"{each['kind']} on {version}: {error.message}")
    return found


def main() -> None:
    utils.schema_contents = functools.cache(utils.schema_contents)  # a megabyte each, read for each object
    asked = json.load(sys.stdin)
    answers: dict[str, Any] = {}
    with helm_python.Chart.load(asked["chart"]) as chart:
        for name, values in asked["cases"].items():
            try:
                files = chart.render(values, name="execution-api", namespace="airflow")
            except helm_python.HelmError as error:
                answers[name] = {"refused": str(error)}
                continue
            objects = [each for text in files.values() for each in yaml.safe_load_all(text) if each]
            objects.sort(key=lambda each: str(each["kind"]))
            answers[name] = {
                "objects": objects,
                "text": yaml.safe_dump_all(objects, sort_keys=False, width=200),
                "problems": _problems(objects, asked["versions"]),
            }
    answers["lint"] = helm_python.lint(asked["chart"])
    json.dump(answers, sys.stdout)


main()
