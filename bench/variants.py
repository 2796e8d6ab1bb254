"""What PostgreSQL does for heartbeats and task lives, as it is and as an operator may set it: counts.

Each variant has a copy of the database and a server of its own, round after round. Only the copies are changed.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from app.commands.embedded import EmbeddedPostgres
from bench import data
from bench.driver import Load, heartbeat
from bench.processes import affinity, cpu_seconds, settled
from tests.servers import our_server

EACH = 10_000  # heartbeats of a load: each of the tasks that run sends twenty
OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
COUNTS = (  # bytes of WAL, images of pages in it, updates of task instances, how many of them were HOT, that table's bytes
    "SELECT wal_bytes::bigint, wal_fpi, n_tup_upd, n_tup_hot_upd, pg_total_relation_size('task_instance')"
    " FROM pg_stat_wal, pg_stat_user_tables WHERE relname = 'task_instance'"
)
COLLECT_OFTEN = "autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0"
Figures = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to set PostgreSQL, or our service.

    :param statements: executed on the copy, which is called ``variant``.
    :param settings: of our server.
    """

    statements: Sequence[str] = ()
    settings: dict[str, str] = field(default_factory=dict)


_NO_INDEX = "DROP INDEX ti_heartbeat"
_FULL = "ALTER TABLE task_instance SET (fillfactor = {})"
_SPARING = {"AIRFLOW__EXECUTION_API_SERVICE__HEARTBEAT_WRITE_INTERVAL": "30"}
VARIANTS = {
    "as it is": Variant(),
    "heartbeat_write_interval = 30": Variant(settings=_SPARING),
    "synchronous_commit off": Variant(("ALTER DATABASE variant SET synchronous_commit = off",)),
    "wal_compression": Variant(("ALTER DATABASE variant SET wal_compression = on",)),
    "fillfactor 90": Variant((_FULL.format(90),)),
    "fillfactor 70": Variant((_FULL.format(70),)),
    "no heartbeat index": Variant((_NO_INDEX,)),
    "no heartbeat index, fillfactor 70": Variant((_NO_INDEX, _FULL.format(70))),
    "autovacuum at 1,000 rows": Variant((f"ALTER TABLE task_instance SET ({COLLECT_OFTEN})",)),
}
REBUILT = "VACUUM FULL ANALYZE task_instance"  # each copy's, as a fill factor asks for it
LOADS = {"heartbeat": 8, "busy heartbeat": 128, "life": 8}  # connections


async def measure(
    postgres: EmbeddedPostgres, pid: int, folder: Path, *, template: str, cpus: set[int], rounds: int, seconds: float
) -> dict[str, Figures]:
    """Return each variant's figures.

    :param pid: of PostgreSQL.
    :param template: the database that is copied.
    :param cpus: where servers run.
    :param seconds: of each load of lives; of heartbeats there are :data:`EACH`.
    """
    found: dict[str, Figures] = {name: {} for name in VARIANTS}
    for statement in ("ALTER SYSTEM SET autovacuum_naptime = '1s'", "SELECT pg_reload_conf()"):
        postgres.run("psql", "-qc", statement, "postgres")
    for number in range(rounds):
        for name, variant in list(VARIANTS.items())[:: -1 if number % 2 else 1]:
            sys.stderr.write(f"round {number + 1}: {name}\n")
            postgres.create_database("variant", template=template)
            connection = await asyncpg.connect(postgres.url("variant"))
            for statement in (*variant.statements, REBUILT):
                await connection.execute(statement)
            with affinity(cpus):
                starting = our_server(postgres.url("variant"), folder, **variant.settings)
                server = await asyncio.to_thread(starting.__enter__)
            try:
                await settled(server.process.pid)
                running = await data.tasks(connection, "running", data.RUNNING)
                lives = iter(await data.tasks(connection, "queued", 100_000))
                for load, connections in LOADS.items():
                    await connection.execute("CHECKPOINT")
                    before = await _counts(connection)
                    used = cpu_seconds(server.process.pid), cpu_seconds(pid)
                    asking = Load(server.base_url, connections)
                    if load == "life":
                        outcome = await asking.lives(lives, seconds=seconds)
                    else:
                        beats = ((task, heartbeat(task)) for task in itertools.islice(itertools.cycle(running), EACH))
                        outcome = await asking.each(beats, seconds=600)
                    asking.close()
                    used = cpu_seconds(server.process.pid) - used[0], cpu_seconds(pid) - used[1]
                    assert outcome.statuses.keys() <= {200, 201, 204}, outcome.statuses
                    after = await _counts(connection)
                    _note(found[name], load, outcome.requests, used, [b - a for a, b in zip(before, after, strict=True)])
            finally:
                await asyncio.to_thread(starting.__exit__, None, None, None)
                await connection.close()
            postgres.run("psql", "-qc", "DROP DATABASE variant WITH (FORCE)", "postgres")
    return found


async def _counts(connection: asyncpg.Connection) -> list[int]:
    """Return :data:`COUNTS`. The server's sessions end for it: what they counted is seen then, or after ten idle seconds."""
    while await connection.fetchval(f"SELECT count(pg_terminate_backend(pid, 5000)) {OTHERS}"):
        pass
    await connection.execute("SELECT pg_stat_force_next_flush()")
    return list(await connection.fetchrow(COUNTS))


def _note(figures: Figures, load: str, requests: int, used: tuple[float, float], counts: Sequence[int]) -> None:
    written, images, updates, hot, growth = counts
    values = {
        "server CPU ms": used[0] / requests * 1000,
        "PostgreSQL CPU ms": used[1] / requests * 1000,
        "WAL bytes": written / requests,
        "images of pages": images / requests,
        "updates": updates / requests,
        "HOT %": hot / updates * 100 if updates else 0.0,
        "growth of the table, bytes": growth / requests,
    }
    for name, value in values.items():
        figures.setdefault(f"{load}: {name}", []).append(value)
