"""Counts for StatsD, by Airflow's settings; real datagrams, to a socket of the test's."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from app.errors import ConfigurationError
from app.server import extras
from app.server.stats import Stats
from app.settings import load
from tests.receivers import StatsReceiver, listening_for_stats
from tests.servers import airflow_settings

Counting = Callable[..., Stats]
TAGS = {"dag_id": "d", "run_id": "r", "task_type": "A.Operator", "team_name": None}
NEW = "task_instance_created"


@pytest.fixture
def receiver() -> Iterator[StatsReceiver]:
    with listening_for_stats() as listening:
        yield listening


def _settings(receiver: StatsReceiver, client: str = "statsd", **metrics: str) -> Any:
    told = {f"AIRFLOW__METRICS__{name.upper()}": value for name, value in metrics.items()}
    database = airflow_settings("postgresql://nobody@localhost/none")
    return load({**database, "AIRFLOW_HOME": "/nonexistent", **receiver.settings(client), **told})


@pytest.fixture
def counting() -> Iterator[Counting]:
    """Return what makes :class:`Stats` of settings, and close all of them."""
    with ExitStack() as until_the_end:
        yield lambda receiver, *client, **metrics: until_the_end.enter_context(
            closing(extras.counts(_settings(receiver, *client, **metrics)))
        )


def shout(name: str) -> str:
    return name.upper()


def leave(name: str) -> str:
    raise SystemExit(0)


@pytest.mark.parametrize(
    ("metrics", "lines"),
    [
        ({}, [f"airflow.{NEW}_A__Operator:2|c", f"airflow.{NEW}:2|c", "airflow.asset.updates:1|c"]),
        ({"legacy_names_on": "False", "statsd_prefix": "other"}, [f"other.{NEW}:2|c", "other.asset.updates:1|c"]),
        (
            {"statsd_influxdb_enabled": "True"},
            [
                f"airflow.{NEW}_A__Operator,dag_id=d:2|c",
                f"airflow.{NEW},dag_id=d,task_type=A.Operator:2|c",
                "airflow.asset.updates:1|c",
            ],
        ),
        (
            {"statsd_influxdb_enabled": "True", "statsd_disabled_tags": "task,RUN", "metrics_block_list": "asset,_a"},
            [f"airflow.{NEW},dag_id=d:2|c"],
        ),
        ({"metrics_allow_list": "Asset\\., nothing", "metrics_block_list": "asset"}, ["airflow.asset.updates:1|c"]),
        ({"stat_name_handler": "tests.unit.test_stats.shout", "metrics_allow_list": "asset"}, ["airflow.ASSET.UPDATES:1|c"]),
        ({"stat_name_handler": "tests.unit.test_stats.leave"}, []),
        ({"statsd_on": "False"}, []),
    ],
)
def test_lines(receiver: StatsReceiver, counting: Counting, metrics: dict[str, str], lines: list[str]) -> None:
    counts = counting(receiver, **metrics)
    counts.incr(NEW, 2, tags=TAGS)
    counts.incr("asset.updates", tags={"team_name": None})
    counts.incr("no name", tags={"team_name": None})
    told = receiver.lines()
    assert [line for line in told if "NO NAME" not in line] == lines


@pytest.mark.parametrize(
    ("metrics", "tags"),
    [
        ({}, "|#dag_id:d,task_type:A.Operator"),
        ({"statsd_datadog_tags": "k1:v1,k2"}, "|#dag_id:d,task_type:A.Operator,k1:v1,k2"),
        ({"statsd_datadog_metrics_tags": "False"}, ""),
    ],
)
def test_datadog(receiver: StatsReceiver, counting: Counting, metrics: dict[str, str], tags: str) -> None:
    counts = counting(receiver, "datadog", legacy_names_on="False", **metrics)
    counts.incr(NEW, 2, tags=TAGS)
    (line,) = [line for line in receiver.lines() if NEW in line]
    assert line == f"airflow.{NEW}:2|c{tags}" or line.startswith(f"airflow.{NEW}:2|c{tags}|")  # the container's id


@pytest.mark.parametrize("client", ["statsd", "datadog"])
def test_no_name_is_looked_up_for_a_count(
    receiver: StatsReceiver, counting: Counting, monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    """Not even when nobody listens any more: it would be waited for, by everybody."""
    counts = counting(receiver, client, statsd_host="localhost")
    looked_up, look_up = list[str](), socket.getaddrinfo

    def noted(host: str, *arguments: Any, **named: Any) -> Any:
        looked_up.append(host)
        return look_up(host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", noted)
    receiver.opened.close()
    for _ in range(5):
        counts.incr(NEW, tags=TAGS)
    assert set(looked_up) <= {"127.0.0.1"}


@pytest.mark.parametrize(
    ("metrics", "named"),
    [
        ({"statsd_host": "no.such.host.invalid"}, "statsd_host"),
        ({"stat_name_handler": "no.such.handler"}, "stat_name_handler"),
        ({"stat_name_handler": "tests.unit.leaving.handler"}, "stat_name_handler"),
        ({"statsd_custom_client_path": "no.such.Client"}, "statsd_custom_client_path"),
        ({"statsd_custom_client_path": "tests.unit.foreign.Odd"}, "statsd_custom_client_path .* TypeError"),
        ({"metrics_allow_list": "("}, "metrics_allow_list"),
    ],
)
def test_what_cannot_be_sent(receiver: StatsReceiver, metrics: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        extras.counts(_settings(receiver, **metrics))


def test_what_is_not_installed(receiver: StatsReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "statsd", None)
    settings = _settings(receiver)
    (said,) = extras.missing(settings)
    assert "pip install 'execution-api[statsd]'" in said
    assert not extras.counts(settings).are_on
