"""What a Dag's text cannot do: have modules imported, fetch, or stop the event loop."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.contextvars import bound_contextvars, get_contextvars

from app.dags import params, partitions, timetables
from app.dags.base_serialization import decoded
from app.dags.clocks import UnknownZone, zone
from app.dags.mapping import Repeated
from app.dags.partitions import UnknownMapper
from app.dags.serialized_dag import UnknownWeightRule, planned_tasks
from app.dags.timetables import UnknownTimetable
from app.dags.trusted import UntrustedClass, is_trusted, trusted_class
from app.errors import ServerBusy
from app.tasks import threads
from app.tasks.foreign_calls import ForeignCalls
from app.tasks.threads import TookTooLong
from tests.conditions import SOON, until
from tests.contract import serialized
from tests.garbage import collected_by_hand, garbage
from tests.servers import AIRFLOW

NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
FOREIGN = "tests.unit.foreign"
ODD = {"__type": f"{FOREIGN}.Odd", "__var": {}}
CHAIN = {"__type": f"{partitions.MAPPERS}chain.ChainMapper", "__var": {"mappers": [ODD]}}
HERE = (f"{FOREIGN}.Odd",)


def _param(schema: dict[str, Any], default: Any = None) -> list[tuple[str, dict[str, Any]]]:
    return [("p", {"default": default, "schema": {"__type": "dict", "__var": schema}})]


# --- classes


@pytest.mark.parametrize(
    ("path", "prefixes", "trusted"),
    [
        ("my.timetables.Odd", ("my.timetables",), True),
        ("my.timetables.Odd", ("my",), True),
        ("my.timetables.Odd", ("my.timetables.Odd",), True),
        ("my.timetables_of_others.Odd", ("my.timetables",), False),
        ("my.timetables", ("my.timetables.Odd",), False),
        ("unittest.__main__.X", (), False),
    ],
)
def test_prefixes_end_at_a_dot(path: str, prefixes: tuple[str, ...], trusted: bool) -> None:
    assert is_trusted(path, prefixes) is trusted


@pytest.mark.parametrize(
    "ask",
    [
        lambda: timetables.manual_interval(ODD, NOW),
        lambda: timetables.manual_interval({"__type": "x.CronDataIntervalTimetable", "__var": {}}, NOW),
        lambda: timetables.manual_interval(
            {"__type": "airflow.timetables.assets.AssetOrTimeSchedule", "__var": {"timetable": ODD}}, NOW
        ),
        lambda: partitions.downstream(ODD, "k"),
        lambda: partitions.date_of(ODD, "k"),
        lambda: partitions.downstream(
            {"__type": f"{partitions.MAPPERS}chain.ChainMapper", "__var": {"mappers": [ODD]}}, "k"
        ),
    ],
)
def test_nothing_is_imported_by_a_dag_s_word(ask: Any) -> None:
    sys.modules.pop(FOREIGN, None)
    with pytest.raises(UntrustedClass, match=r"the class .* is not among \[execution_api_service\] trusted_classes"):
        ask()
    assert FOREIGN not in sys.modules


def test_a_trusted_class_is_asked() -> None:
    assert timetables.manual_interval(ODD, NOW, trusted=HERE) == (NOW.replace(day=2), NOW)
    assert partitions.downstream(ODD, "k", HERE) == ["K"]


def test_a_trusted_name_that_is_no_class() -> None:
    for name in ("not_a_class", "IMPORTED", "Missing"):
        with pytest.raises(UntrustedClass, match=f"{FOREIGN}.{name}"):
            trusted_class(f"{FOREIGN}.{name}", (FOREIGN,))


def test_a_trusted_class_that_lacks_what_is_asked() -> None:
    with pytest.raises(UnknownTimetable, match=r"decimal\.Decimal cannot be asked here \(AttributeError"):
        timetables.manual_interval({"__type": "decimal.Decimal", "__var": {}}, NOW, trusted=("decimal",))
    with pytest.raises(UnknownMapper, match=r"decimal\.Decimal cannot be asked here"):
        partitions.downstream({"__type": "decimal.Decimal", "__var": {}}, "k", ("decimal",))


def test_a_trusted_class_that_ends_the_process() -> None:
    with pytest.raises(UnknownTimetable, match=r"Leaving cannot be asked here \(SystemExit"):
        timetables.manual_interval({"__type": f"{FOREIGN}.Leaving", "__var": {}}, NOW, trusted=(FOREIGN,))
    with pytest.raises(UntrustedClass, match=r"tests\.unit\.leaving\.Any cannot be imported here \(SystemExit"):
        trusted_class("tests.unit.leaving.Any", ("tests.unit.leaving",))


def test_a_weight_rule_that_only_sounds_like_one_of_airflow_s() -> None:
    data = serialized.dag(AIRFLOW["3.3"], "weights")
    data["dag"]["tasks"][0]["__var"]["weight_rule"] = "my.DownstreamPriorityWeightStrategy"
    with pytest.raises(UnknownWeightRule, match=r"my\.DownstreamPriorityWeightStrategy"):
        planned_tasks(data, None)


async def test_what_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "LIMIT", 0.2)
    endless = {"__type": f"{FOREIGN}.Endless", "__var": {}}
    with pytest.raises(TookTooLong, match="the timetable did not end within"):
        await threads.asked(
            lambda: timetables.manual_interval(endless, NOW, trusted=(FOREIGN,)), (FOREIGN,), what="the timetable"
        )


async def test_errors_come_out_of_the_thread() -> None:
    with pytest.raises(ZeroDivisionError):
        await threads.in_thread(lambda: 1 / 0, what="a division")


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError(), StopIteration(1)], ids=repr)
async def test_no_thread_ends_who_waits_for_it(error: BaseException) -> None:
    def run() -> None:
        raise error

    for waiting in (threads.in_thread(run, what="a Dag"), ForeignCalls().call(run)):
        with pytest.raises(RuntimeError, match=type(error).__name__):
            await waiting


async def test_what_a_thread_logs_is_of_its_request() -> None:
    with bound_contextvars(correlation_id="c"):
        assert (await threads.in_thread(get_contextvars, what="a log"))["correlation_id"] == "c"


@pytest.mark.parametrize("is_late", [False, True], ids=["in time", "when nobody waits any more"])
async def test_an_error_in_a_thread_leaves_the_garbage_collector_nothing(
    monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    """It looks seldom: what the function had been given would be kept until then."""
    may_divide = threading.Event()

    def divide() -> float:
        may_divide.wait()
        return 1 / 0

    monkeypatch.setattr(threads, "LIMIT", 0.05 if is_late else SOON)
    with collected_by_hand():
        if not is_late:
            may_divide.set()
        with pytest.raises(TookTooLong if is_late else ZeroDivisionError):
            await threads.in_thread(divide, what="a division")
        may_divide.set()
        await until(lambda: all(each.name != "a division" for each in threading.enumerate()))
        assert garbage() == []


# --- params


@pytest.mark.parametrize(
    "reference", ["http://127.0.0.1:9/x", "file:///etc/passwd", "other.json", "#/$defs/missing", "urn:x"]
)
async def test_nothing_is_fetched(reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: Any, **__: Any) -> None:
        raise AssertionError("it was fetched")

    monkeypatch.setattr("urllib.request.urlopen", fetch)
    said = await threads.invalid_param(_param({"$ref": reference}), {"p": 1})
    assert said == f"Invalid input for param p: its schema refers to {reference.lstrip('#')!r}, which is not part of it"


async def test_local_definitions_and_json_schema_s_own_are_found() -> None:
    local = {"$ref": "#/$defs/few", "$defs": {"few": {"maximum": 3}}}
    assert await threads.invalid_param(_param(local), {"p": 3}) is None
    assert (
        await threads.invalid_param(_param(local), {"p": 4})
        == "Invalid input for param p: 4 is greater than the maximum of 3"
    )
    own = {"$ref": "https://json-schema.org/draft/2020-12/schema"}
    assert await threads.invalid_param(_param(own), {"p": {"type": "string"}}) is None


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"type": 1}, {"$ref": "#"}, {"pattern": "("}, {"minimum": "x"}])
async def test_a_schema_that_is_none(schema: dict[str, Any]) -> None:
    assert (await threads.invalid_param(_param(schema), {"p": "a"}) or "").startswith("Invalid input for param p: ")


def test_what_is_validated_elsewhere() -> None:
    assert params.may_take_any_time(_param({"pattern": "a"}))
    assert params.may_take_any_time(_param({"properties": {"a": {"anyOf": [{"patternProperties": {"a": {}}}]}}}))
    assert params.may_take_any_time(_param({"$defs": {"x": {"propertyNames": {"pattern": "a"}}}}))
    assert params.may_take_any_time(_param({"items": [{"uniqueItems": True}]}))
    assert not params.may_take_any_time(_param({"type": "string", "enum": ["pattern"], "description": "a pattern"}))


async def test_a_machine_without_time_is_not_the_dag_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "LIMIT", 0.0)
    with pytest.raises(ServerBusy, match="no time to validate"):
        await threads.invalid_param(_param({"type": "integer"}), {"p": 1})


async def test_a_pattern_is_searched_elsewhere() -> None:
    assert await threads.invalid_param(_param({"pattern": "^[a-c]+$"}), {"p": "abc"}) is None
    said = await threads.invalid_param(_param({"pattern": "^[a-c]+$"}), {"p": "d"})
    assert said == "Invalid input for param p: 'd' does not match '^[a-c]+$'"


async def test_a_pathological_pattern_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop turns on while it is searched for; the process ends itself by the processor time that it took."""
    turns, ended = 0, asyncio.Event()

    async def turn() -> None:
        nonlocal turns
        while not ended.is_set():
            turns += 1
            await asyncio.sleep(0)

    turning = asyncio.create_task(turn())
    monkeypatch.setattr(threads, "PROCESS_LIMIT", 60.0)  # of a machine that has much to do meanwhile
    before = time.process_time()
    with pytest.raises(TookTooLong, match="is a pattern at fault"):
        await threads.invalid_param(_param({"pattern": "^(a+)+$"}), {"p": "a" * 60 + "b"})
    ended.set()
    await turning
    assert turns > 100
    assert time.process_time() > before


# --- the rest of the text


@pytest.mark.parametrize("name", ["Europe/Nowhere", "", "../../etc/passwd", "Europe", "/etc/passwd", "\0", 10**9, None])
def test_a_time_zone_that_is_none(name: Any) -> None:
    with pytest.raises(UnknownZone, match=r"the time zone .* is not known here"):
        zone(name)


@pytest.mark.parametrize("cron", ["0 3 31 2 *", "", "x", "0 0 * * * 99", "60 0 * * *", "@never", "0 0 0 0 0"])
def test_a_cron_that_tells_no_interval(cron: str) -> None:
    encoded = {
        "__type": "airflow.timetables.interval.CronDataIntervalTimetable",
        "__var": {"expression": cron, "timezone": "UTC"},
    }
    with pytest.raises(UnknownTimetable, match="tells no interval"):
        timetables.manual_interval(encoded, NOW)


def test_what_is_encoded_is_decoded_at_any_depth() -> None:
    inner = {"__type": "dict", "__var": {"s": {"__type": "set", "__var": [1]}, "t": {"__type": "tuple", "__var": [[1]]}}}
    assert decoded([{"a": inner}]) == [{"a": {"s": {1}, "t": ([1],)}}]
    pod = {"pod_override": {"__type": "k8s.V1Pod", "__var": {"spec": {}}}}
    assert decoded(pod) == pod, "what we have no class for stays as Airflow stores it"


def test_lengths_of_what_tasks_return() -> None:
    def over(reference: Any) -> Repeated:
        return Repeated([{"type": "list-of-dicts", "value": {"__type": "xcomref", "__var": reference}}])

    one, two = ({"task_id": name, "key": "return_value"} for name in ("one", "two"))
    known = {"one": 2, "two": 5}
    assert over(one).length(known) == 2
    assert over({"type": "map", "arg": one, "callables": []}).length(known) == 2
    assert over({"type": "concat", "args": [one, two]}).length(known) == 7
    assert over({"type": "zip", "args": [one, two]}).length(known) == 2
    assert over({"type": "zip", "args": [one, two], "fillvalue": None}).length(known) == 5
    assert (
        over({"type": "zip", "args": [one, two], "fillvalue": {"__type": "arg_not_set", "__var": None}}).length(known) == 2
    )
    assert over({"type": "concat", "args": [one, two]}).length({"one": 2}) is None
    assert over({"type": "of a newer release"}).length(known) is None
