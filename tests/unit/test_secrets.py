from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from typing import Any

import pytest
from cryptography.fernet import Fernet

from app.db.session import Database
from app.errors import ConfigurationError, RefusedRequest, SecretsBackendTimeout
from app.settings import DatabaseSettings, Settings, TokenSettings
from app.settings.connection import Connection
from app.settings.database_url import async_url
from app.tasks.foreign_calls import ForeignCalls
from app.tasks.secrets import Secrets
from tests.conditions import SOON, until
from tests.garbage import collected_by_hand, garbage
from tests.unit.backend import Strict

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
UNREACHABLE = DatabaseSettings(url=async_url("postgresql://postgres@127.0.0.1:1/none", setting="url"))


def secrets(environment: dict[str, str] | None = None, **settings: Any) -> Secrets:
    """Return what would ask an unreachable database, were it to come to that."""
    return Secrets(
        Settings(database=UNREACHABLE, tokens=TokenSettings(), **settings), Database(UNREACHABLE), environment or {}
    )


async def test_the_environment_comes_before_the_database() -> None:
    found = secrets({"AIRFLOW_VAR_MY_KEY": "from env", "AIRFLOW_CONN_MY_DB": "postgresql://u:p%2F@h:1/s?x=1&y=true"})
    assert await found.variable("my_key", None) == "from env"
    connection = await found.connection("my_db", None)
    assert connection == Connection("my_db", "postgres", "h", "u", "p/", "s", 1, '{"x": 1, "y": true}')


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://host", {"conn_type": "http", "host": "host", "login": None, "port": None, "extra": None, "schema": ""}),
        ("google-cloud-platform://?a=b", {"conn_type": "google_cloud_platform", "host": "", "extra": '{"a": "b"}'}),
        ("http://https://host:8080", {"conn_type": "http", "host": "https://host", "port": 8080}),
        ("spark://%2Fpath%2FTo", {"host": "/path/To"}),
        ("x://h?__extra__=%7B%22a%22%3A%20%5B1%5D%7D", {"extra": '{"a": [1]}'}),
        ("x://u%40d:@h", {"login": "u@d", "password": None}),
        (
            "aws://?endpoint_url=http://localhost:4566",
            {"host": "", "port": None, "extra": '{"endpoint_url": "http://localhost:4566"}'},
        ),
        ("Postgres://u:p@h/d", {"conn_type": "postgres", "host": "h", "schema": "d"}),
    ],
)
def test_connection_uris(uri: str, expected: dict[str, Any]) -> None:
    connection = Connection.from_uri(uri)
    assert {name: getattr(connection, name) for name in expected} == expected


@pytest.mark.parametrize(
    "text", ["http://user:pw@https://host", "http://a://b://c", "x://h:port", "x://h?__extra__=[1]", ""]
)
def test_connection_uris_that_airflow_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        Connection.from_uri(text)


@pytest.mark.parametrize(
    "fields",
    [
        {}, {"conn_type": ""}, {"conn_type": "x", "unknown": 1}, {"conn_type": "x", "host": 5},
        {"conn_type": "x", "port": [1]}, {"conn_type": "x", "uri": "x://h"}, {"conn_type": "x", "extra": [1]},
        {"conn_type": "x", "extra": "[1]"},
        {"conn_type": "x", "port": "a"},
    ],
)  # fmt: skip
def test_connection_json_that_airflow_refuses(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Connection.from_json(json.dumps(fields))


def test_connection_json() -> None:
    connection = Connection.from_json('{"conn_type": "my-type", "port": "5", "extra": {"a": 1}, "login": "l"}')
    assert (connection.conn_type, connection.port, connection.extra, connection.login) == ("my_type", 5, '{"a": 1}', "l")


async def test_a_custom_backend_comes_first_and_may_fail() -> None:
    environment = {"AIRFLOW_VAR_BOTH": "from env"}
    backend = {"secrets_backend": "tests.unit.backend.Backend"}
    found = secrets(environment, **backend, secrets_backend_kwargs={"variables": {"both": "vault", "a/own": "team's"}})
    assert await found.variable("both", None) == "vault"
    assert await found.variable("own", "a") == "team's"
    connection = await found.connection("vaulted", None)
    assert connection is not None
    assert (connection.conn_type, connection.password, connection.extra) == ("my_type", "p@ss", '{"a": 1}')
    broken = secrets(environment, **backend, secrets_backend_kwargs={"broken": True})
    assert await broken.variable("both", None) == "from env"


async def test_a_backend_is_asked_by_keyword_with_the_team_where_it_takes_one() -> None:
    Strict.asked.clear()
    found = secrets(secrets_backend="tests.unit.backend.Strict")
    assert await found.variable("kept", "red") == "kept"
    assert Strict.asked == [("kept", {"team_name": "red"})]


async def test_a_backend_that_denies_access_ends_the_look_up() -> None:
    found = secrets({"AIRFLOW_VAR_FORBIDDEN": "open"}, secrets_backend="tests.unit.backend.Strict")
    with pytest.raises(RefusedRequest) as refused:
        await found.variable("forbidden", None)
    assert (refused.value.status, refused.value.detail["reason"]) == (403, "access_denied")


async def test_a_backend_that_hangs_stops_nothing_else() -> None:
    found = secrets({"AIRFLOW_VAR_OTHER": "open"}, secrets_backend="tests.unit.backend.Strict")
    found._backend_calls = ForeignCalls(threads=2, seconds=0.2)
    Strict.released.clear()
    hanging = [found.variable("slow", None) for _ in range(3)]  # the third does not even get a thread
    assert [type(error) for error in await asyncio.gather(*hanging, return_exceptions=True)] == [SecretsBackendTimeout] * 3
    assert await asyncio.to_thread(len, "the event loop's own threads are free") > 0
    found._backend_calls = ForeignCalls()
    assert await found.variable("other", None) == "open"
    Strict.released.set()
    assert await found.variable("slow", None) == "kept"


@pytest.mark.parametrize("is_late", [False, True], ids=["in time", "when nobody waits any more"])
async def test_a_backend_that_fails_leaves_the_garbage_collector_nothing(is_late: bool) -> None:
    """It looks seldom: who asked would be kept until then."""
    may_fail = threading.Event()

    def fail() -> None:
        may_fail.wait()
        raise RuntimeError("the vault is sealed")

    calls = ForeignCalls(threads=1, seconds=0.05 if is_late else SOON)
    with collected_by_hand():
        if not is_late:
            may_fail.set()
        with pytest.raises(SecretsBackendTimeout if is_late else RuntimeError):
            await calls.call(fail)
        may_fail.set()
        await until(lambda: all(each.name != "foreign call" for each in threading.enumerate()) and not calls._turns.locked())
        assert garbage() == []


def test_a_process_ends_while_its_backend_hangs() -> None:
    source = """
import asyncio, threading
from app.tasks.foreign_calls import ForeignCalls
asyncio.run(ForeignCalls(seconds=0.1).call(threading.Event().wait))
"""
    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=30)
    assert "did not answer within 0.1 s" in ended.stderr


async def test_teams_have_their_own_names_in_the_environment() -> None:
    environment = {"AIRFLOW_VAR__RED___KEY": "red's", "AIRFLOW_VAR_KEY": "everybody's"}
    found = secrets(environment, multi_team=True)
    assert await found.variable("key", "red") == "red's"
    assert await found.variable("key", "blue") == "everybody's"
    with pytest.raises(Exception, match="cannot be reached"):  # spelling out another team's name finds nothing there
        await found.variable("_red___key", "blue")


def test_fernet_keys_rotate() -> None:
    old, both = secrets(fernet_keys=(OLD,)), secrets(fernet_keys=(NEW, OLD))
    stored, is_encrypted = old.encrypt("value")
    assert is_encrypted
    assert both._decrypted(stored, True, "it") == "value"
    renewed, _ = both.encrypt("value")
    assert secrets(fernet_keys=(NEW,))._decrypted(renewed, True, "it") == "value"
    assert old._decrypted(renewed, True, "it") is None
    assert secrets().encrypt("value") == ("value", False)


def test_what_sounds_secret_is_redacted_at_any_depth() -> None:
    given = {
        "password": "p",
        "n": 1,
        "deep": {"list": [{"My-Api.Key": ["a", 1, None], "ok": "shown"}]},
        "x_token_y": {"a": "b"},
    }
    assert secrets().redact(given) == {
        "password": "***",
        "n": 1,
        "deep": {"list": [{"My-Api.Key": ["***", 1, None], "ok": "shown"}]},
        "x_token_y": {"a": "***"},
    }
    assert secrets(sensitive_names=("color",)).redact({"color": "red"}) == {"color": "***"}
    assert secrets(hide_sensitive_names=False).redact({"password": "p"}) == {"password": "p"}


@pytest.mark.parametrize("class_path", ["nowhere.Backend", "tests.unit.backend.Missing", "Backend"])
def test_a_backend_that_cannot_be_loaded_is_named(class_path: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\[secrets\] backend"):
        secrets(secrets_backend=class_path)


def test_a_fernet_key_that_is_none_is_named() -> None:
    with pytest.raises(ConfigurationError, match="fernet_key"):
        secrets(fernet_keys=("short",))
