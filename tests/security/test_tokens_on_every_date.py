"""Every operation of every API date and metadata revision, with every kind of token.

The documents of each date say which operations there are and what they require of the token; the answers must agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from app.versions import VERSIONS
from tests.servers import Server, token
from tests.world import World, ti_id

METHODS = {"get", "put", "post", "patch", "delete", "head"}
OTHERS = ti_id("somebody else")
REFUSED = (401, 403)


def operations(document: dict[str, Any], ti: object) -> Iterator[tuple[str, str, frozenset[str] | None]]:
    """Yield method, path and what is required of the token (None if no token is) of each operation of a date."""
    for path, item in document["paths"].items():
        for name in ("task_instance_id", "connection_test_id", "callback_id"):
            path = path.replace(f"{{{name}}}", str(ti))
        while "{" in path:
            path = path.replace(path[path.index("{") : path.index("}") + 1], "x")
        for method in METHODS & item.keys():
            required = [frozenset(scopes) for each in item[method].get("security", ()) for scopes in each.values()]
            yield method, path, required[0] if required else None


def tokens(ti: object, required: frozenset[str], revision: str) -> Iterator[tuple[str, dict[str, str], bool, int]]:
    """Yield each kind of token, whether it opens an operation, and the status if it does not."""
    workload = "token:workload" in required and revision != "3.2"
    execution = not required & {"token:workload", "token:callback"} or "token:execution" in required
    callback = "token:callback" in required
    own = bool(required & {"ti:self", "ct:self", "cb:self"})
    yield "none", {}, False, 401
    yield "no bearer", {"Authorization": f"Basic {token(ti)}"}, False, 401
    for kind, value, opens in (
        ("garbage", "nonsense", False),
        ("forged", token(ti, secret="x" * 64), False),
        ("expired", token(ti, age=3600), False),
        ("another audience", token(ti, aud="another"), False),
        ("a scope of no kind", token(ti, scope="nonsense"), False),
        ("execution", token(ti), execution),
        ("workload", token(ti, scope="workload"), workload),
        ("a callback's", token(ti, scope="callback"), callback),
        ("another callback's", token(OTHERS, scope="callback"), callback and not own),
        ("another's", token(OTHERS), execution and not own),
        ("another's workload", token(OTHERS, scope="workload"), workload and not own),
    ):
        yield kind, {"Authorization": f"Bearer {value}"}, opens, 403


@pytest.mark.parametrize("date", [version.date for version in VERSIONS])
async def test_every_token_at_every_door(server: Server, world: World, revision: str, date: str) -> None:
    ti = await world.one_running("d")
    asked = 0
    async with server.client(headers={"Airflow-API-Version": date}) as client:
        document = (await client.get("/openapi.json")).json()
        if document["info"]["version"] != date:
            pytest.skip(f"not served on {revision}")
        for method, path, required in operations(document, ti):
            if required is None:
                assert path.startswith("/health"), f"{method} {path} asks for no token"
                continue
            for kind, headers, opens, refused in tokens(ti, required, revision):
                answer = await client.request(method, path, headers=headers)
                shown = f"{method} {path} with {kind}: {answer.status_code} {answer.text[:200]}"
                assert answer.status_code not in REFUSED if opens else answer.status_code == refused, shown
                asked += 1
    assert asked > 300
