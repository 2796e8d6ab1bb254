"""What is kept of the releases' serializations is what they serialize, and nothing in it is unknown to us."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tests.contract.serialized import RELEASES, asked, kept
from tests.servers import AIRFLOW, airflow_environment, clean_environment

# Of each minor the newest release and the one that the tests run a server of; of the others one a day, in turn.
ALWAYS = {"3.2.2", "3.3.2", *AIRFLOW.values()}
OTHERS = [release for release in RELEASES if release not in ALWAYS]
TODAY = OTHERS[date.today().toordinal() % len(OTHERS)]

# Every key of a serialized Dag, by where it stands: those that we read, and those that have no say in what we do.
READ = {
    "": {"dag", "client_defaults"},
    "dag": {
        "dag_id",
        "deadline",
        "default_args",
        "disable_bundle_versioning",
        "end_date",
        "params",
        "rerun_with_latest_version",
        "start_date",
        "task_group",
        "tasks",
        "timetable",
    },
    "task": {
        "_arg_bindings",
        "_expand_input_attr",
        "_is_mapped",
        "_operator_name",
        "_task_display_name",
        "depends_on_past",
        "downstream_task_ids",
        "end_date",
        "executor",
        "executor_config",
        "expand_input",
        "inlets",
        "is_stub",
        "is_teardown",
        "op_kwargs_expand_input",
        "outlets",
        "partial_kwargs",
        "pool",
        "pool_slots",
        "priority_weight",
        "queue",
        "retries",
        "start_date",
        "task_display_name",
        "task_id",
        "task_type",
        "wait_for_downstream",
        "weight_rule",
    },
    "group": {"children", "expand_input", "is_mapped", "loop"},
    "param": {"default", "schema"},
}
IGNORED = {
    "": {"__version"},
    # what the scheduler, the Dag processor, the user interface and the workers read
    "dag": {
        "_concurrency",
        "_processor_dags_folder",
        "access_control",
        "allowed_run_types",
        "bundle_name",
        "catchup",
        "dag_dependencies",
        "dag_display_name",
        "dagrun_timeout",
        "description",
        "doc_md",
        "edge_info",
        "fail_fast",
        "fileloc",
        "has_on_failure_callback",
        "has_on_success_callback",
        "is_paused_upon_creation",
        "max_active_runs",
        "max_active_tasks",
        "max_consecutive_failed_dag_runs",
        "owner_links",
        "relative_fileloc",
        "render_template_as_native_obj",
        "tags",
        "timezone",
    },
    "task": {
        "_can_skip_downstream",
        "_disallow_kwargs_override",
        "_is_empty",
        "_is_sensor",
        "_logger_name",
        "_needs_expansion",
        "_operator_extra_links",
        "_task_module",
        "allow_nested_operators",
        "do_xcom_push",
        "doc",
        "doc_json",
        "doc_md",
        "doc_rst",
        "doc_yaml",
        "email",
        "email_on_failure",
        "email_on_retry",
        "execution_timeout",
        "has_on_execute_callback",
        "has_on_failure_callback",
        "has_on_retry_callback",
        "has_on_skipped_callback",
        "has_on_success_callback",
        "has_retry_policy",
        "ignore_first_depends_on_past",
        "is_setup",
        "map_index_template",
        "max_active_tis_per_dag",
        "max_active_tis_per_dagrun",
        "max_retry_delay",
        "multiple_outputs",
        "on_failure_fail_dagrun",
        "owner",
        "params",
        "python_callable_name",
        "render_template_as_native_obj",
        "reschedule",
        "resources",
        "returns_dag_result",
        "retry_delay",
        "retry_exponential_backoff",
        "run_as_user",
        "start_from_trigger",
        "start_trigger_args",
        "template_ext",
        "template_fields",
        "template_fields_renderers",
        "trigger_rule",
        "ui_color",
        "ui_fgcolor",
        "wait_for_past_depends_before_skipping",
    },
    "group": {
        "_group_id",
        "doc_md",
        "downstream_group_ids",
        "downstream_task_ids",
        "group_display_name",
        "prefix_group_id",
        "tooltip",
        "ui_color",
        "ui_fgcolor",
        "upstream_group_ids",
        "upstream_task_ids",
    },
    "param": {"__class", "description", "source"},
}
# The fields of timetables, mappers, windows and deadlines, and the types of values, wherever they stand.
NESTED = {
    *("__type", "__var", "__classname__", "__data__", "__version__"),
    *("asset_condition", "delta", "event_dates", "expression", "expressions", "interval", "restrict_to_events", "timetable"),
    *("timezone", "key_format", "default_partition_mapper", "partition_mapper_config"),
    *("batch_asset_events", "gate_task_id", "has_until", "max_iterations", "terminal_task_id"),
    *("allowed_keys", "delimiter", "direction", "downstream_key", "downstream_mapper", "input_format", "mappers"),
    *("max_downstream_keys", "n", "output_format", "queue", "segments", "upstream_mapper", "wait_policy", "window"),
    *("callback", "datetime", "max_runs", "min_runs", "reference", "reference_type", "key", "path", "kwargs", "executor"),
    *("name", "uri", "group", "extra", "objects"),
    *("months", "days", "hours", "weekday", "__class_path"),
    # only the scheduler's, and, of assets' teams, rows of their own
    *("access_control", "allow_global", "consumer_teams", "producer_teams"),
    *("run_immediately", "run_offset", "description", "_summary"),
    "batch_asset_events",
    "queue",
}
OWN = {"a", "k", "when", "timestamp", "tz"}  # what our Dags call things that no release knows
TYPES = {"dict", "tuple", "set", "datetime", "timedelta", "arg_not_set", "xcomref", "operator", "relativedelta", "k8s.V1Pod"}
TYPES |= {"START_TRIGGER_ARGS", "asset", "asset_alias", "asset_all", "asset_any", "asset_ref"}


@pytest.mark.slow
@pytest.mark.parametrize("release", sorted({*ALWAYS, TODAY}))
def test_what_a_release_serializes_is_what_is_kept(release: str) -> None:
    """``make serialized`` asks all of them and keeps what they say."""
    assert asked(release) == kept(release)


@pytest.mark.slow
@pytest.mark.parametrize("release", sorted(ALWAYS))
def test_every_key_of_a_release_s_schema_is_known(release: str) -> None:
    """A key that a new release brings is noticed before a Dag has it."""
    (file,) = airflow_environment(release).glob("lib/*/site-packages/airflow/serialization/schema.json")
    definitions = json.loads(file.read_text())["definitions"]
    for place, name in (("dag", "dag"), ("task", "operator"), ("group", "task_group")):
        assert set(definitions[name]["properties"]) - READ[place] - IGNORED[place] == set(), place


@pytest.mark.slow
@pytest.mark.parametrize("release", sorted(ALWAYS))
def test_the_corpus_has_every_timetable_mapper_and_window(release: str) -> None:
    """A class that a new release brings is noticed before a Dag has it."""
    python, script = airflow_environment(release) / "bin" / "python", Path(__file__).with_name("ask_classes.py")
    told = subprocess.run([python, script], env=clean_environment(), check=True, capture_output=True, text=True).stdout
    classes = set(json.loads(told.splitlines()[-1]))
    assert len(classes) > 15
    assert classes - {each for data in kept(release).values() for each in _classes(data["dag"]["timetable"])} == set()


@pytest.mark.parametrize("release", RELEASES)
def test_every_key_is_known(release: str) -> None:
    for name, data in kept(release).items():
        for place, key in _keys(data):
            assert key in READ[place] | IGNORED[place], f"{place}: {key} of {name!r}"
        dag = data["dag"]
        assert (_nested(dag["timetable"]) | _nested(dag["deadline"])) - NESTED - OWN == set(), name


@pytest.mark.parametrize("release", RELEASES)
def test_every_type_is_known(release: str) -> None:
    for name, data in kept(release).items():
        found = {each for part in ("tasks", "params", "default_args") for each in _types(data["dag"].get(part))}
        assert found - TYPES == set(), name


def test_nothing_is_read_that_no_release_serializes() -> None:
    """A Dag of the corpus has each key that we read, or no case can show how we read it."""
    found = {
        place: {key for data in kept(RELEASES[-1]).values() for at, key in _keys(data) if at == place} for place in READ
    }
    assert {place: READ[place] - found[place] for place in READ if READ[place] - found[place]} == {}


def _keys(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each key of a serialized Dag with where it stands; a template field is the operator's own."""
    dag = data["dag"]
    yield from (("", key) for key in data)
    yield from (("dag", key) for key in dag)
    yield from (("task", key) for key in data.get("client_defaults", {}).get("tasks", {}))
    for encoded in dag["tasks"]:
        task = encoded["__var"]
        own = {*task.get("template_fields", ()), "python_callable_name", "bash_command"}
        yield from (("task", key) for key in {*task, *task.get("partial_kwargs", ())} - own)
        yield from _param_keys(task.get("params"))
    yield from _param_keys(dag["params"])
    yield from _group_keys(dag["task_group"])


def _param_keys(params: Any) -> Iterator[tuple[str, str]]:
    yield from (("param", key) for _, param in params or () for key in param)


def _group_keys(group: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from (("group", key) for key in group)
    for kind, child in group["children"].values():
        if kind == "taskgroup":
            yield from _group_keys(child)


def _classes(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and isinstance(value.get("__type"), str):
        yield value["__type"]
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _classes(part)


def _nested(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*(_nested(item) for item in value.values()))
    return set().union(*(_nested(item) for item in value)) if isinstance(value, list) else set()


def _types(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["__type"]} if "__type" in value else set()
        return own.union(*(_types(item) for item in value.values()))
    return set().union(*(_types(item) for item in value)) if isinstance(value, list) else set()
