"""Databases as Airflow itself makes them, once a run for each version."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from app.commands.embedded import EmbeddedPostgres
from tests.end_to_end.installation import Airflow


@pytest.fixture(scope="session")
def make_migrated(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], str]:
    """Return what clones a database that a version's ``airflow db migrate`` has made, under a name, and tells its URL."""

    @cache
    def migrated(version: str) -> str:
        name = f"migrated_{version}"
        postgres.create_database(name)
        Airflow(version, postgres.url(name), tmp_path_factory.mktemp(name)).run("db", "migrate")
        return name

    def make(version: str, name: str) -> str:
        postgres.create_database(name, template=migrated(version))
        return postgres.url(name)

    return make
