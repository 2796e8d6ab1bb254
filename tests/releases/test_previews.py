"""A release of which not all is done is served to who asks for it by name, and to nobody else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from app import releases, settings
from app.commands import checks
from app.errors import ConfigurationError
from app.releases import AIRFLOW_3_2, AIRFLOW_3_3
from app.settings import DatabaseSettings
from app.settings.database_url import async_url
from tests.servers import airflow_settings

PREVIEW = replace(AIRFLOW_3_3, is_preview=True)
SAID = (
    r"at revision 'd2f4e1b3c5a7', that of Airflow 3\.3, which is served as a preview only: expected that of Airflow 3\.2"
    r" \(1d6611b6ab7c\), or \[execution_api_service\] preview_releases with 3\.3 in it$"
)


@pytest.fixture
def database(make_database: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> DatabaseSettings:
    monkeypatch.setattr(releases, "REVISIONS", [AIRFLOW_3_2, PREVIEW])
    return DatabaseSettings(url=async_url(make_database("3.3"), setting="url"))


@pytest.mark.parametrize("asked", [(), ("3.2", "3.4")])
async def test_nobody_is_served_unasked(database: DatabaseSettings, asked: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match=SAID):
        await checks.require_database(replace(database, preview_releases=asked))


async def test_who_asks_is_served(database: DatabaseSettings) -> None:
    assert await checks.require_database(replace(database, preview_releases=("3.4", "3.3"))) is PREVIEW


def test_how_it_is_asked() -> None:
    option = {"AIRFLOW__EXECUTION_API_SERVICE__PREVIEW_RELEASES": "3.4, 3.5", "AIRFLOW_HOME": "/nowhere"}
    read = settings.load({**airflow_settings("postgresql://u@h/d"), **option})
    assert read.database.preview_releases == ("3.4", "3.5")
