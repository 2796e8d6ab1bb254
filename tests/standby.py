"""A streaming standby of a running PostgreSQL, which can be promoted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.commands.embedded import EmbeddedPostgres, _as


@contextmanager
def standby_of(primary: EmbeddedPostgres, folder: Path) -> Iterator[EmbeddedPostgres]:
    """Run a hot standby of ``primary`` until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = EmbeddedPostgres(folder, options=primary.options)
    if primary._user:
        os.chown(folder, primary._user.pw_uid, primary._user.pw_gid)
    backup = [primary._programs / "pg_basebackup", "-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres"]
    subprocess.run([*backup, "-D", copy.data, "-R", "-c", "fast"], check=True, cwd="/", **_as(primary._user))
    copy.data.chmod(0o700)
    with copy:
        yield copy


def promote(standby: EmbeddedPostgres) -> None:
    """Make the standby a primary; return when it takes writes."""
    standby.run("psql", "-qAtX", "-c", "SELECT pg_promote(true, 60)", "postgres")
