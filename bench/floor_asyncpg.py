"""The least that a driver can do with a heartbeat: eight connections, each with a prepared statement, as fast as they go."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime

import asyncpg
import uvloop

STATEMENT = (
    "UPDATE task_instance SET last_heartbeat_at = $2, updated_at = $2"
    " WHERE id = $1 AND state = 'running' AND hostname = 'worker' AND pid = 42"
)


async def main(url: str, seconds: float) -> None:
    """Print the CPU time of a heartbeat in milliseconds, and heartbeats per second."""
    connections = [await asyncpg.connect(url) for _ in range(8)]
    ids = [row["id"] for row in await connections[0].fetch("SELECT id FROM task_instance WHERE state = 'running' LIMIT 8")]
    count, until, cpu = 0, time.perf_counter() + seconds, time.process_time()

    async def slot(connection: asyncpg.Connection, ti_id: object) -> None:
        nonlocal count
        statement = await connection.prepare(STATEMENT)
        while time.perf_counter() < until:
            await statement.fetch(ti_id, datetime.now(UTC))
            count += 1

    await asyncio.gather(*map(slot, connections, ids))
    sys.stdout.write(f"{(time.process_time() - cpu) / count * 1000} {count / seconds}\n")


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], float(sys.argv[2])))
