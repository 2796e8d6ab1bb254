"""The embedded PostgreSQL where its programs are closed to other users, as in a private home folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.commands import embedded
from app.commands.embedded import POSTGRES_MAJOR, EmbeddedPostgres
from tests.conftest import reachable
from tests.postgres_majors import use


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_closed_programs_are_linked_into_the_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = reachable(tmp_path_factory.mktemp("closed"))
    use(str(POSTGRES_MAJOR), monkeypatch)
    monkeypatch.setattr(embedded, "_is_open", lambda path: "site-packages" not in Path(path).parts)
    with EmbeddedPostgres(folder) as server:
        assert server.run("psql", "-Atc", "SELECT 1", "postgres").strip() == "1"
        assert (folder / f"programs-{POSTGRES_MAJOR}").is_dir()
