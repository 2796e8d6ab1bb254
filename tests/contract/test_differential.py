"""The same request, on two clones of one database, of Airflow's own server and of ours: equal answers, equal rows."""

from __future__ import annotations

import pytest

from tests.contract.cases import CASES
from tests.contract.cases.case import Case
from tests.contract.cases.tries import for_revision
from tests.contract.sides import Side, assert_equal

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_equal_answers_and_rows(case: Case, sides: tuple[Side, Side], revision: str) -> None:
    asked = for_revision(case, revision)
    if asked is None:
        pytest.skip(f"not on {revision}")
    await assert_equal(asked, sides, revision)
