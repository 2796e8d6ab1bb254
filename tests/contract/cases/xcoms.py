"""XComs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.contract.cases.case import (
    BETTER_REFUSAL,
    EACH_ONCE,
    ERROR_SHAPE,
    JSON_HEADER,
    NEW,
    OWN_DATE,
    RUN,
    RUN_DATES,
    Case,
    X,
    get,
)
from tests.contract.cases.setups import setup
from tests.world import EPOCH, World


@setup
async def with_xcoms(world: World) -> Any:
    await world.dag("d")
    ti = None
    for number, run_id in enumerate(("early", RUN)):
        date = EPOCH.replace(day=1 + number)
        await world.run("d", run_id, logical_date=date, run_after=date)
        ti = await world.running("d", "job", run_id, try_number=1)
        await world.xcom("d", "job", "return_value", {"run": run_id, "n": [1, 2.5, None, "é"]}, run_id)
        await world.xcom("d", "job", "a/key with spaces", "slashes", run_id)
        for index in range(6):
            await world.ti("d", "mapped", run_id, map_index=index, state="success")
            await world.xcom("d", "mapped", "return_value", index * 10 + number, run_id, map_index=index)
            if index % 2 == number:  # which of two runs comes first under one map index, Airflow leaves open
                await world.xcom("d", "mapped", "in_turn", index, run_id, map_index=index)
    await world.xcom("d", "job", "null", None)
    await world.xcom("d", "job", "early_only", 1, "early")
    await world.dag("other")
    await world.run("other", "its own")
    await world.running("other", "job", "its own")
    await world.xcom("other", "job", "return_value", "from another Dag", "its own")
    return ti


@setup
async def with_namesakes(world: World) -> Any:
    """Runs of two more Dags have the asking run's id, as scheduled ones of one moment do."""
    ti = await with_xcoms(world)
    for dag_id in ("one more", "and another"):
        await world.dag(dag_id)
        await world.run(dag_id, RUN, logical_date=EPOCH.replace(day=2), run_after=EPOCH.replace(day=2))
    return ti


@setup
async def with_undated(world: World) -> Any:
    """An old run without a logical date, with a task instance and an XCom, beside those of :func:`with_xcoms`."""
    ti = await with_xcoms(world)
    before = EPOCH - timedelta(days=1)
    await world.run("d", "undated", logical_date=None, data_interval_start=None, data_interval_end=None, run_after=before)
    await world.running("d", "job", "undated", state="success")
    await world.xcom("d", "job", "return_value", "old", "undated")
    return ti


CASES: list[Case] = [
    get("xcom", f"{X}/job/return_value", "with_xcoms"),
    get("xcom with slashes", f"{X}/job/a/key%20with%20spaces", "with_xcoms"),
    get("xcom null", f"{X}/job/null", "with_xcoms"),
    get("xcom of a map index", f"{X}/mapped/return_value?map_index=3", "with_xcoms"),
    get("xcom of no map index", f"{X}/mapped/return_value", "with_xcoms"),
    get("xcom by offset", f"{X}/mapped/return_value?offset=1", "with_xcoms"),
    get("xcom by negative offset", f"{X}/mapped/return_value?offset=-2", "with_xcoms"),
    get("xcom beyond the offsets", f"{X}/mapped/return_value?offset=99", "with_xcoms"),
    get("xcom of prior dates", f"{X}/job/early_only?include_prior_dates=true", "with_xcoms"),
    get("xcom of prior dates, newest first", f"{X}/job/return_value?include_prior_dates=true", "with_xcoms"),
    *(
        get(f"xcom of another Dag's prior dates{query} on {options['revisions'][0]}", f"/xcoms/other/manual__1/job/return_value{query}", "with_xcoms", **options)
        for query in ("?include_prior_dates=true", "/slice?include_prior_dates=true", "?include_prior_dates=true&offset=0")
        for options in ({"revisions": ("3.2",)}, {**NEW, "differs": OWN_DATE, "ours": 200})
    ),
    *(
        get(f"xcom slice of {dag_id}'s prior dates, the run's id in use elsewhere, on {options['revisions'][0]}", f"/xcoms/{dag_id}/manual__1/job/{key}/slice?include_prior_dates=true", "with_namesakes", **options)
        for dag_id, key, options in (
            ("d", "early_only", {"revisions": ("3.2",), "differs": EACH_ONCE, "ours": 200}), ("d", "early_only", NEW),
            ("other", "return_value", {"revisions": ("3.2",), "differs": EACH_ONCE, "ours": 200}),
            ("other", "return_value", {**NEW, "differs": OWN_DATE, "ours": 200}),
        )
    ),
    get("xcom of another Dag's run", "/xcoms/other/manual__1/job/return_value", "with_xcoms"),
    get("xcom item of another Dag's run", "/xcoms/other/manual__1/job/return_value/item/0", "with_xcoms"),
    get("xcom of prior dates, one unknown", f"{X}/job/return_value?include_prior_dates=true", "with_undated", differs=RUN_DATES, ours=200),
    get("xcom without prior dates", f"{X}/job/early_only", "with_xcoms"),
    get("xcom of an unknown run", "/xcoms/d/nope/job/return_value", "with_xcoms"),
    get("xcom with a bad map index", f"{X}/job/return_value?map_index=x", "with_xcoms"),
    get("xcom without a token", f"{X}/job/return_value", "with_xcoms", token="none"),
    get("xcom with another's token", f"{X}/job/return_value", "with_xcoms", token="other"),
    get("xcom count", f"{X}/mapped/return_value", "with_xcoms", method="HEAD"),
    get("xcom count of none", f"{X}/mapped/nope", "with_xcoms", method="HEAD"),
    get("xcom count with a map index", f"{X}/mapped/return_value?map_index=1", "with_xcoms", method="HEAD"),
    *(get(f"xcom item {n}", f"{X}/mapped/return_value/item/{n}", "with_xcoms") for n in (0, 5, 6, -1, -6, -7)),
    get("xcom item of no number", f"{X}/mapped/return_value/item/x", "with_xcoms"),
    *(
        get(f"xcom slice {q or 'all'}", f"{X}/mapped/return_value/slice?{q}", "with_xcoms")
        for q in (
            "", "start=2", "stop=2", "start=1&stop=4", "start=-2", "stop=-2", "start=-4&stop=-1", "start=1&stop=-1",
            "start=-4&stop=5", "step=2", "step=-1", "start=1&step=2", "start=4&step=-1", "start=4&stop=1&step=-1",
            "start=-1&step=-2", "step=0", "start=0&stop=0", "start=9",
        )
    ),
    get("xcom slice of prior dates", f"{X}/mapped/in_turn/slice?include_prior_dates=true&start=0&stop=2", "with_xcoms"),
    get("xcom slice with a bad step", f"{X}/mapped/return_value/slice?step=x", "with_xcoms"),
    *(
        Case(f"xcom set {name}", "POST", f"{X}/job/k", value)
        for name, value in (
            ("number", 1), ("float", 1.5), ("text", "té\u2028xt"), ("null", None), ("list", [1, [2]]), ("object", {"a": {"b": 1}}),
            ("big number", 2**70), ("false", False), ("text that looks like JSON", '{"a": 1}'),
        )
    ),
    Case("xcom set again", "POST", f"{X}/job/return_value", "new", setup="with_xcoms"),
    Case("xcom set with slashes", "POST", f"{X}/job/a%2Fb/c%20d", 1),
    Case("xcom set on a map index", "POST", f"{X}/job/k?map_index=2", 1, setup="mapped_one"),
    Case("xcom set as the result of the Dag", "POST", f"{X}/job/k?dag_result=true", 1),
    Case("xcom set with a length", "POST", f"{X}/job/k?mapped_length=3", [1, 2, 3]),
    Case("xcom set with a length of none", "POST", f"{X}/job/k?mapped_length=0", []),
    Case("xcom set with too great a length", "POST", f"{X}/job/k?mapped_length=1025", [1]),
    Case("xcom set with a negative length", "POST", f"{X}/job/k?mapped_length=-1", [1], differs=BETTER_REFUSAL, ours=422),
    Case("xcom set without a body", "POST", f"{X}/job/k"),
    *(
        Case(f"xcom set as {kind}", "POST", f"{X}/job/k", content=b"[1]", headers={"Content-Type": kind}, **options)
        for kind, options in (
            ("application/x+json", {}),
            ("application/json; charset=utf-8", {}),
            ("application/jsonp", {"differs": ERROR_SHAPE, "ours": 422}),
            ("text/json", {"differs": ERROR_SHAPE, "ours": 422}),
            ("text/plain", {"differs": ERROR_SHAPE, "ours": 422}),
        )
    ),
    Case("xcom set malformed JSON", "POST", f"{X}/job/k", content=b"[1", headers=JSON_HEADER),
    Case("xcom set NaN", "POST", f"{X}/job/k", content=b"[NaN]", headers=JSON_HEADER, differs=BETTER_REFUSAL, ours=422),
    Case("xcom set lone surrogate", "POST", f"{X}/job/k", content=b'"\\ud800"', headers=JSON_HEADER, differs=BETTER_REFUSAL, ours=422),
    Case("xcom set NUL in the value", "POST", f"{X}/job/k", "a\0b", differs=BETTER_REFUSAL, ours=422),
    Case("xcom set NUL in the key", "POST", f"{X}/job/a%00b", 1, differs=BETTER_REFUSAL, ours=422),
    Case("xcom set key too long", "POST", f"{X}/job/" + "k" * 513, 1, differs=BETTER_REFUSAL, ours=422),
    Case("xcom set in an unknown run", "POST", "/xcoms/d/nope/job/k", 1),
    Case("xcom set for an unknown task", "POST", f"{X}/nope/k", 1, differs=BETTER_REFUSAL, ours=404),
    Case("xcom set after success", "POST", f"{X}/job/k", 1, setup="success"),
    Case("xcom set without a key", "POST", f"{X}/job/", 1, differs=ERROR_SHAPE, ours=422),
    get("xcom delete", f"{X}/job/return_value", "with_xcoms", method="DELETE"),
    get("xcom delete on a map index", f"{X}/mapped/return_value?map_index=1", "with_xcoms", method="DELETE"),
    get("xcom delete none", f"{X}/job/nope", "with_xcoms", method="DELETE"),
]  # fmt: skip
