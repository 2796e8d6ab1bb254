"""Schemathesis with every check over the documents that we serve: no 5xx, no status or body that they do not tell."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.servers import Server, clean_environment, pinned_environment, token
from tests.world import World

pytestmark = [pytest.mark.slow, pytest.mark.releases(1)]

FOLDER = Path(__file__).parent / "schemathesis"
EXAMPLES = 20  # test cases an operation and phase, at most
CASES = 2000  # fewer were hardly a test


@pytest.mark.parametrize("date", ["newest", "2025-04-11"])
async def test_every_check(server: Server, world: World, date: str) -> None:
    ti = await world.one_running("dag")
    await world.serialized("dag", [{"__var": {"task_id": "job"}, "__type": "operator"}])
    await world.xcom("dag", "job", "key", [1, 2])
    await world.asset("asset")
    await world.insert("variable", key="key", val="value", is_encrypted=False)
    here = {"task_instance_id": str(ti), "dag_id": "dag", "run_id": "manual__1", "task_id": "job"}
    here |= dict.fromkeys(("key", "variable_key"), "key")

    command = [str(pinned_environment("schemathesis") / "bin" / "schemathesis")]
    command += ["--config-file", str(FOLDER / "schemathesis.toml"), "run", f"{server.base_url}/openapi.json"]
    command += ["--url", server.base_url]  # it takes the document's own, relative to itself, for the root of the host
    command += ["--max-examples", str(EXAMPLES), "--no-color", "--no-shrink"]
    command += ["--header", f"Authorization: Bearer {token(ti)}"]
    if date != "newest":
        command += ["--header", f"Airflow-API-Version: {date}"]
    environment = {**clean_environment(), "PATH_PARAMETERS": json.dumps(here)}
    run = await asyncio.to_thread(
        subprocess.run, command, cwd=FOLDER, env=environment, capture_output=True, text=True, check=False
    )
    assert not run.returncode, run.stdout[-20_000:] + run.stderr[-2000:]
    cases = re.search(r"(\d+) generated", run.stdout)
    assert cases is not None, run.stdout
    assert int(cases[1]) > CASES
