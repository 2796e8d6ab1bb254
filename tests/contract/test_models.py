"""What Airflow's models do of their own when a row is written, which a statement of ours has to do itself.

A setter that ignores an empty password, a constructor that names an asset by its URI, a time that every update renews: none
of it shows in the schema. Each hook that a release has on a table that we write is looked at before it is added here.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.servers import airflow_environment, airflow_process_environment

pytestmark = pytest.mark.slow

HOOKS = {
    "asset": "constructor, defaults created_at, defaults extra, defaults group, defaults updated_at, renews updated_at",
    "asset_alias": "defaults group",
    "asset_dag_run_queue": "defaults created_at",
    "asset_event": "defaults extra, defaults timestamp",
    "asset_partition_dag_run": "defaults created_at, defaults updated_at, renews updated_at",
    "callback": "constructor, defaults created_at, defaults id",
    "connection": "constructor, defaults is_encrypted, defaults is_extra_encrypted, sets extra, sets password",
    "dag_run": "constructor, defaults clear_number, defaults created_at, defaults log_template_id, defaults run_after,"
    " defaults state, defaults updated_at, renews updated_at, sets state, validates run_id",
    "dag_run_note": "constructor, defaults created_at, defaults updated_at, renews updated_at",
    "deadline": "constructor, defaults created_at, defaults id, defaults last_updated_at, renews last_updated_at",
    "hitl_detail": "defaults created_at, defaults multiple, defaults params, defaults params_input",
    "hitl_detail_history": "constructor, defaults created_at, defaults multiple, defaults params, defaults params_input",
    "log": "constructor",
    "partitioned_asset_key_log": "defaults created_at",
    "rendered_task_instance_fields": "constructor",
    "task_instance": "constructor, defaults id, defaults pool_slots, defaults try_number, defaults updated_at,"
    " renews updated_at",
    "task_instance_history": "constructor, defaults pool_slots, defaults updated_at, renews updated_at",
    "task_map": "constructor",
    "task_reschedule": "constructor",
    "trigger": "constructor",
    "variable": "constructor, defaults is_encrypted, sets val",
    "xcom": "defaults timestamp",
}
SINCE_3_3 = {
    "asset_state_store": "defaults updated_at",
    "connection_test_request": "constructor, defaults commit_on_success, defaults created_at, defaults id,"
    " defaults is_encrypted, defaults is_extra_encrypted, defaults state, defaults updated_at, renews updated_at,"
    " sets extra, sets password, validates state",
    "task_state_store": "defaults updated_at",
    "xcom": "defaults dag_result, defaults timestamp",
}


@pytest.mark.parametrize("version", ["3.2.1", "3.3.2"])
def test_hooks_of_the_models(version: str, tmp_path: Path) -> None:
    expected = HOOKS if version.startswith("3.2") else {**HOOKS, **SINCE_3_3}
    environment = airflow_process_environment(version, "postgresql://nobody@localhost/none", tmp_path)
    command = [str(airflow_environment(version) / "bin" / "python"), str(Path(__file__).parent / "model_hooks.py")]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    found = json.loads(told.splitlines()[-1])
    assert {table: ", ".join(found.get(table, ())) for table in expected} == expected
