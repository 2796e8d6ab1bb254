"""What cannot be undercut: an empty FastAPI route, and the heartbeat's statement sent by asyncpg and by pgbench."""

from __future__ import annotations

from pathlib import Path

from app.embedded import EmbeddedPostgres


async def measure(
    postgres: EmbeddedPostgres, folder: Path, rounds: int, seconds: float
) -> dict[str, dict[str, list[float]]]:
    return {}
