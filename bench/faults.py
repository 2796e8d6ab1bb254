"""Put Airflow's own servers where ``tests/faults/test_no_task_is_lost.py`` has ours, and count what becomes of the tasks.

Twelve workers as the Task SDK has them run on two servers while each fault happens; the table tells, for each kind of
server, how many of the tasks could not be carried to their end, and how many promises the database breaks afterwards::

    python -m bench.faults                                    # ours, 3.2.1 and 3.3.2: half an hour
    python -m bench.faults --server 3.3.2 --fault postgresql_crashes
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from functools import partial
from pathlib import Path

from app.commands.embedded import EmbeddedPostgres
from bench import cluster
from tests.faults.test_no_task_is_lost import FAULTS, TASKS, Serve, lived
from tests.history import violations
from tests.servers import airflow_server, our_server

SERVERS: dict[str, tuple[str, Serve]] = {
    "ours": ("3.3", our_server),
    "3.2.1": ("3.2", partial(airflow_server, "3.2.1")),
    "3.3.2": ("3.3", partial(airflow_server, "3.3.2")),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--server", action="append", choices=list(SERVERS), help="again for more (default: all)")
    parser.add_argument("--fault", action="append", choices=list(FAULTS), help="again for more (default: all)")
    options = parser.parse_args()
    names, faults = options.server or list(SERVERS), options.fault or list(FAULTS)
    found: dict[tuple[str, str], str] = {}
    for name in names:
        revision, serve = SERVERS[name]
        with cluster.temporary() as (postgres, folder):
            postgres.create_metadata_database("airflow", revision)
            for fault in faults:
                sys.stderr.write(f"{name}: {fault}\n")
                found[fault, name] = asyncio.run(outcome(postgres, folder / fault, fault, serve, revision))
    lines = [f"| of {TASKS} tasks | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    lines += [f"| {fault.replace('_', ' ')} | {' | '.join(found[fault, name] for name in names)} |" for fault in faults]
    sys.stdout.write("\n".join(lines) + "\n")


async def outcome(postgres: EmbeddedPostgres, folder: Path, fault: str, serve: Serve, revision: str) -> str:
    """Return what became of the tasks: how many did not end well, and how often the rows contradict what they were told."""
    history = await lived(postgres, folder, FAULTS[fault], serve=serve, revision=revision)
    broken = await violations(history, postgres.url())
    ended_badly = sorted(f"{end} at {at}" for end, at in history.ends.values() if end != "done")
    heard = {str(status): count for status, count in history.statuses().items() if status is None or status >= 500}
    sys.stderr.write(f"  {ended_badly} {heard} {broken}\n")
    told = f"{len(ended_badly)} lost" if ended_badly else "none lost"
    return f"{told}, {len(broken)} promises broken" if broken else told


if __name__ == "__main__":
    main()
