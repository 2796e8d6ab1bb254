"""A real PgBouncer in transaction mode, from Debian's package."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.commands.embedded import EmbeddedPostgres, _as, free_port
from tests.debian import install

START_TIMEOUT = 30.0  # seconds; it takes a fraction of one


@contextmanager
def pgbouncer(server: EmbeddedPostgres, folder: Path) -> Iterator[int]:
    """Run a PgBouncer before a PostgreSQL until the block ends; yield its port."""
    install("pgbouncer", programs=("pgbouncer",))
    folder.mkdir()
    if server._user:
        os.chown(folder, server._user.pw_uid, server._user.pw_gid)
    port = free_port()
    (folder / "users").write_text('"postgres" ""\n')
    (folder / "ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = any\nauth_file = {folder / 'users'}\nadmin_users = postgres\n"
        "pool_mode = transaction\ndefault_pool_size = 5\n"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["pgbouncer", str(folder / "ini")], stdout=log, stderr=log, stdin=subprocess.DEVNULL, **_as(server._user)
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((folder / "log").read_text()[-2000:]) from None
                time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(30)
