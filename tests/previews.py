"""For tests that run on previews too: in the slow tier, so that those that are run for every save stay as many."""

from __future__ import annotations

import pytest

from app import releases
from tests.conftest import REVISIONS

PREVIEWS = [each.name for each in releases.REVISIONS if each.is_preview and each.name not in REVISIONS]


@pytest.fixture(scope="session", params=[*REVISIONS, *(pytest.param(name, marks=pytest.mark.slow) for name in PREVIEWS)])
def revision(request: pytest.FixtureRequest) -> str:
    """Run the test on each metadata revision."""
    return str(request.param)
