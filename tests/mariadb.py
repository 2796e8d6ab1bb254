"""A real MariaDB server, from Debian's package, for what MySQL's error codes become."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.commands.embedded import free_port
from tests.debian import install

PACKAGES = ("mariadb-server-core", "mariadb-client-core")  # the programs alone: they start no service
START_TIMEOUT = 60.0  # seconds; creating the system tables takes 2 to 5


@contextmanager
def mariadb(folder: Path) -> Iterator[str]:
    """Run a server in ``folder`` until the block ends; yield its URL for an asynchronous SQLAlchemy engine."""
    install(*PACKAGES, programs=("mariadbd", "my_print_defaults"))
    data, port = folder / "data", free_port()
    user = ["--user=root"] if os.geteuid() == 0 else []
    create = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", *user]
    subprocess.run(create, check=True, capture_output=True)
    options = ["--bind-address=127.0.0.1", f"--port={port}", f"--socket={folder / 'socket'}", "--max-connections=10"]
    with (folder / "mariadb.log").open("wb") as log:
        command = ["mariadbd", "--no-defaults", f"--datadir={data}", *options, *user]
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while "ready for connections" not in (folder / "mariadb.log").read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "mariadb.log").read_text()[-2000:])
            time.sleep(0.05)
        yield f"mysql+aiomysql://root@127.0.0.1:{port}/test"
    finally:
        process.terminate()
        process.wait(30)
