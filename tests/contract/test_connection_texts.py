"""What ``AIRFLOW_CONN_*`` says, read by Airflow's own server and by ours."""

from __future__ import annotations

import pytest

from tests.contract.sides import shown
from tests.servers import Server, token
from tests.unit.connection_texts import TEXTS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def airflow_options() -> dict[str, str]:
    return {f"AIRFLOW_CONN_C{number}": text for number, text in enumerate(TEXTS)}


async def test_equal_connections(servers: tuple[Server, Server]) -> None:
    theirs, ours = servers
    # Airflow's server lets go of a connection after some of its own errors.
    headers = {"Connection": "close", "Authorization": f"Bearer {token('01920000-0000-7000-8000-000000000000')}"}
    async with theirs.client(headers=headers, timeout=20) as asking_theirs, ours.client(headers=headers) as asking_ours:
        different = {}
        for number, text in enumerate(TEXTS):
            expected = await asking_theirs.get(f"/connections/c{number}")
            answer = await asking_ours.get(f"/connections/c{number}")
            if expected.status_code >= 500:
                if answer.status_code != 404:
                    different[text] = ("an error", shown(answer))
            elif shown(answer) != shown(expected):
                different[text] = (shown(expected), shown(answer))
    assert different == {}
