"""PostgreSQL as Debian builds it, with TLS, which the embedded one lacks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.commands.embedded import EmbeddedPostgres
from tests.certificates import Authority
from tests.postgres_majors import use

# By user, what it has to show over TLS; without TLS nobody is let in but who administers this server.
RULES = """
host    all postgres 127.0.0.1/32 trust
hostssl all by_password all scram-sha-256
hostssl all by_certificate all cert
"""


@contextmanager
def postgres_with_tls(folder: Path, authority: Authority) -> Iterator[EmbeddedPostgres]:
    """Run a PostgreSQL whose certificate is for ``localhost``, with users ``by_password`` and ``by_certificate``."""
    server = EmbeddedPostgres(folder, options={"fsync": "off"})
    with pytest.MonkeyPatch.context() as patch:
        use("15", patch)
        server.start()
        try:
            issued = authority.issue("localhost")
            for source, target in ((issued.certificate, "server.crt"), (issued.key, "server.key")):
                (server.data / target).write_bytes(source.read_bytes())
                (server.data / target).chmod(0o600)
                if server._user:
                    os.chown(server.data / target, server._user.pw_uid, server._user.pw_gid)
            (server.data / "root.crt").write_bytes(authority.certificate.read_bytes())
            (server.data / "pg_hba.conf").write_text(RULES)
            for statement in (
                "ALTER SYSTEM SET ssl_ca_file = 'root.crt'",
                "ALTER SYSTEM SET ssl = on",
                "CREATE USER by_password PASSWORD 's3cret p%w'",
                "CREATE USER by_certificate",
                "GRANT pg_read_all_data TO by_password, by_certificate",
                "SELECT pg_reload_conf()",
            ):
                server.run("psql", "-qAtX", "-c", statement, "postgres")
            yield server
        finally:
            server.stop()
