"""State stores of tasks and assets."""

from __future__ import annotations

from typing import Any

from tests.contract.cases.case import BETTER_REFUSAL, NEW, RUN, STORE, Case, on
from tests.contract.cases.setups import setup
from tests.world import EPOCH, World


@setup
async def state_stores(world: World) -> Any:
    ti = await world.one_running("d")
    run = await world.connection.fetchval("SELECT id FROM dag_run")
    for task_id, key in (("job", "kept"), ("job", "with/slash"), ("elsewhere", "kept")):
        key_of = {"dag_run_id": run, "dag_id": "d", "run_id": RUN, "task_id": task_id, "map_index": -1, "key": key}
        await world.insert("task_state_store", **key_of, value='{"a": [1, 2.5]}', updated_at=EPOCH, expires_at=EPOCH)
    asset = await world.asset("a")
    await world.asset("gone", active=False)
    for key in ("kept", "other"):
        await world.insert("asset_state_store", asset_id=asset, key=key, value='"v"', updated_at=EPOCH)
    return ti


CASES: list[Case] = [
    *(on("state_stores", "GET", f"{STORE}/{key}", **NEW) for key in ("kept", "with/slash", "none")),
    on("nothing", "GET", f"{STORE}/kept", **NEW),
    on("state_stores", "GET", f"{STORE}/kept", token="other", **NEW),
    on("running", "GET", f"{STORE}/k", revisions=("3.2",)),
    *(
        on("state_stores", "PUT", f"{STORE}/{key}", {"value": value}, **NEW)
        for key, value in (("kept", {"b": [1.5, "é", None]}), ("new", 1), ("new/slash", "text"), ("new", False), ("new", None))
    ),
    on("state_stores", "PUT", f"{STORE}/new", {"value": 1, "expires_at": "2026-02-01T00:00:00+01:00"}, **NEW),
    on("state_stores", "PUT", f"{STORE}/new", {"value": 1, "expires_at": "2026-02-01T00:00:00"}, differs=BETTER_REFUSAL, ours=422, **NEW),
    on("state_stores", "PUT", f"{STORE}/new", {"value": 1, "unknown": 1}, **NEW),
    on("state_stores", "PUT", f"{STORE}/{'k' * 513}", {"value": 1}, differs=BETTER_REFUSAL, ours=422, **NEW),
    on("nothing", "PUT", f"{STORE}/new", {"value": 1}, **NEW),
    *(on("state_stores", "DELETE", f"{STORE}{key}", **NEW) for key in ("/kept", "/none", "")),
    *(on("nothing", "DELETE", f"{STORE}{key}", **NEW) for key in ("/kept", "")),
    *(
        on("state_stores", method, f"/store/asset/by-{which}", *body, **NEW)
        for which in ("name/value?name=a&key=kept", "uri/value?uri=s3://bucket/a&key=kept", "name/value?name=gone&key=kept",
                      "uri/value?uri=s3://bucket/gone&key=k", "name/value?name=a&key=none", "name/value?name=a&key=")
        for method, *body in (("GET",), ("PUT", {"value": {"n": 1}}), ("DELETE",))
    ),
    on("state_stores", "PUT", "/store/asset/by-name/value?name=a&key=kept", {"value": None}, **NEW),
    on("state_stores", "PUT", "/store/asset/by-name/value?name=a&key=kept", {"value": 1}, token="other", **NEW),
    on("state_stores", "GET", "/store/asset/by-name/value?name=a&key=kept", token="other", **NEW),
    on("state_stores", "PUT", "/store/asset/by-uri/value?uri=s3://bucket/a&key=new", {"value": 1}, token="other", **NEW),
    on("state_stores", "PUT", "/store/asset/by-name/value?name=gone&key=new", {"value": 1}, token="other", **NEW),
    on("state_stores", "DELETE", "/store/asset/by-name/value?name=a&key=kept", token="other", **NEW),
    *(on("state_stores", "DELETE", f"/store/asset/by-{which}", **NEW) for which in ("name/clear?name=a", "uri/clear?uri=s3://bucket/a", "name/clear?name=gone", "name/clear")),
]  # fmt: skip
