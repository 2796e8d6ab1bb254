"""Tasks whose workers are the real Task SDK's client, with its attempts, pauses and time-outs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import PIPE
from uuid import UUID

from tests.servers import airflow_environment, clean_environment, token

SCRIPT = Path(__file__).parent / "live.py"


@dataclass
class Told:
    """What the clients asked and were told, once their tasks ended.

    :param asked: requests that were sent, those that the client sent again included.
    :param heard: answers by status.
    :param errors: by task, why it could not go on.
    """

    asked: int = 0
    heard: dict[int, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


@asynccontextmanager
async def sdk_clients(
    base_url: str, tasks: Mapping[str, UUID], folder: Path, *, airflow: str = "3.3.2", interval: float
) -> AsyncIterator[Told]:
    """Run queued tasks of run ``manual__1`` of Dag ``d`` during the block; they succeed after it.

    :param airflow: whose Task SDK the clients are.
    :param interval: seconds from heartbeat to heartbeat.
    """
    told = Told()
    request = {
        "base_url": f"{base_url}/",
        "interval": interval,
        "tasks": {name: {"id": str(ti), "token": token(ti)} for name, ti in tasks.items()},
    }
    log = folder / "clients.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            str(await asyncio.to_thread(airflow_environment, airflow) / "bin" / "python"),
            str(SCRIPT),
            stdin=PIPE,
            stdout=PIPE,
            stderr=errors,
            env={**clean_environment(), "AIRFLOW_HOME": str(folder)},
        )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        async for line in process.stdout:  # behind what Airflow says of itself
            if line == b"started\n":
                break
        else:
            raise AssertionError(log.read_text()[-3000:])
        yield told
        process.stdin.close()
        *_, report = (await process.stdout.read()).splitlines()
        parsed = json.loads(report)
        told.asked, told.errors = parsed["asked"], parsed["errors"]
        told.heard = {int(status): count for status, count in parsed["heard"].items()}
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
