from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import CapturingLogger, capture_logs

from app import settings
from app.errors import ConfigurationError
from app.settings.airflow import AirflowConfiguration, Options
from tests.unit.configurations import CONFIGURATIONS, REFUSED, Configuration

URL = "postgresql+psycopg2://airflow:s3cret@db.example.com:5433/airflow?sslmode=require"
COMPLETE = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": URL, "AIRFLOW__API_AUTH__JWT_SECRET": "x" * 64}
HELD = {  # by a secrets backend
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_SECRET": "conn",
    "AIRFLOW__API_AUTH__JWT_SECRET": "x" * 64,
    "AIRFLOW__SECRETS__BACKEND": "tests.unit.backend.Backend",
}


def load(tmp_path: Path, **environment: str) -> settings.Settings:
    return settings.load({"AIRFLOW_HOME": str(tmp_path), **environment})


def test_airflow_settings_from_the_environment(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        **COMPLETE,
        AIRFLOW__API_AUTH__JWT_ISSUER="us, them",
        AIRFLOW__API_AUTH__JWT_LEEWAY="3",
        AIRFLOW__API_AUTH__JWT_ALGORITHM="HS256",
        AIRFLOW__EXECUTION_API__JWT_EXPIRATION_TIME="60",
        AIRFLOW__CORE__FERNET_KEY="one,two",
        AIRFLOW__CORE__MAX_MAP_LENGTH="7",
        AIRFLOW__CORE__MULTI_TEAM="True",
        AIRFLOW__API__WORKERS="3",
        AIRFLOW__CORE__NUM_DAG_RUNS_TO_RETAIN_RENDERED_FIELDS="5",
    )
    url = loaded.database.url
    assert (url.drivername, url.host, url.port, url.password) == ("postgresql+asyncpg", "db.example.com", 5433, "s3cret")
    assert dict(url.query) == {"sslmode": "require"}
    tokens = loaded.tokens
    assert (tokens.issuers, tokens.leeway, tokens.algorithms, tokens.valid_for) == (("us", "them"), 3.0, ("HS256",), 60)
    assert loaded.fernet_keys == ("one", "two")
    assert (loaded.max_map_length, loaded.multi_team, loaded.rendered_fields_runs, loaded.server.workers) == (7, True, 5, 3)


def test_a_setting_that_has_no_effect_any_more_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = CapturingLogger()
    monkeypatch.setattr(settings, "log", told)
    load(tmp_path, **COMPLETE)
    assert told.calls == []
    load(tmp_path, **COMPLETE, AIRFLOW__EXECUTION_API_SERVICE__POOL_TIMEOUT="2")
    assert [call.kwargs["setting"] for call in told.calls] == ["[execution_api_service] pool_timeout"]


def test_airflow_cfg_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    (tmp_path / "airflow.cfg").write_text(
        f"[database]\nsql_alchemy_conn = {URL}\n[api_auth]\njwt_secret = from file %%with percent\n"
        "[core]\nmax_map_length = 9\n"
    )
    loaded = load(tmp_path, AIRFLOW__CORE__MAX_MAP_LENGTH="8")
    assert (loaded.tokens.secret, loaded.max_map_length) == ("from file %with percent", 8)


@pytest.mark.parametrize("row", CONFIGURATIONS, ids=lambda row: row.name)
def test_options_are_read_as_airflow_reads_them(row: Configuration, tmp_path: Path) -> None:
    (tmp_path / "airflow.cfg").write_text(row.file)
    environment = {"AIRFLOW_HOME": str(tmp_path), "HOME": "/home/me", **row.environment}
    default = {"host": "0.0.0.0"}.get(row.option[1], "")
    if row.value is REFUSED:
        with pytest.raises(ConfigurationError):
            AirflowConfiguration(environment).get(*row.option)
    else:
        assert AirflowConfiguration(environment).get(*row.option, default) == row.value


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("[a]\nb = 1\n[api_auth]\n\njwt_secret = s3cret%x\n", "line 5"),
        ("[api_auth]\njwt_secret = s3cret %(s3cret)s\n", "line 2"),
        ("[api_auth]\njwt_secret = s3cret\njwt_secret = s3cret\n", "line 3"),
        ("[api_auth]\ns3cret\n", "line 2"),
        ("s3cret = s3cret\n", "line 1"),
    ],
)
def test_a_file_that_airflow_refuses_is_refused_by_line_and_never_by_text(tmp_path: Path, file: str, place: str) -> None:
    (tmp_path / "airflow.cfg").write_text(file)
    with pytest.raises(ConfigurationError, match=place) as raised:
        load(tmp_path, AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=URL)
    told = [raised.value, raised.value.__cause__]
    assert all("s3cret" not in str(error) for error in told)


def test_variables_that_name_one_another_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="JWT_SECRET refers to variables"):
        load(tmp_path, **{**COMPLETE, "AIRFLOW__API_AUTH__JWT_SECRET": "$A", "A": "x$A"})


def test_an_option_that_has_moved_is_taken_with_a_warning(tmp_path: Path) -> None:
    with capture_logs() as logs:
        load(tmp_path, AIRFLOW__CORE__SQL_ALCHEMY_CONN=URL, AIRFLOW__API_AUTH__JWT_SECRET="x" * 64)
    moved = {"old": "[core] sql_alchemy_conn", "new": "[database] sql_alchemy_conn"}
    assert logs == [{"event": "an option has moved", "log_level": "warning", **moved}]


def test_commands_and_secrets_stand_for_sensitive_options(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("by command\n")
    loaded = load(
        tmp_path,
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_SECRET="conn",
        AIRFLOW__API_AUTH__JWT_SECRET_CMD=f"cat {tmp_path / 'secret'}",
        AIRFLOW__SECRETS__BACKEND="tests.unit.backend.Backend",
        AIRFLOW__SECRETS__BACKEND_KWARGS='{"config": {"conn": "postgresql://h/db"}}',
    )
    assert (loaded.tokens.secret, loaded.database.url.database) == ("by command\n", "db")


def test_commands_in_airflow_cfg(tmp_path: Path) -> None:
    (tmp_path / "airflow.cfg").write_text(f"[database]\nsql_alchemy_conn_cmd = echo {URL}\n[api_auth]\njwt_secret = x\n")
    assert load(tmp_path).database.url.host == "db.example.com"


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({}, "sql_alchemy_conn"),
        ({"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": URL}, "jwt_secret"),
        ({**COMPLETE, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:///x.db"}, "sqlite"),
        ({**COMPLETE, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "no url"}, "sql_alchemy_conn"),
        ({**COMPLETE, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://h/d?sslmode=maybe"}, "sslmode"),
        ({**COMPLETE, "AIRFLOW__API_AUTH__JWT_PRIVATE_KEY_PATH": "/nowhere/key.pem"}, "jwt_private_key_path"),
        ({**COMPLETE, "AIRFLOW__API_AUTH__JWT_LEEWAY": "soon"}, "jwt_leeway"),
        ({**COMPLETE, "AIRFLOW__CORE__MULTI_TEAM": "perhaps"}, "multi_team"),
        ({**COMPLETE, "AIRFLOW__API__WORKERS": "0"}, "workers"),
        ({**COMPLETE, "AIRFLOW__LOGGING__LOGGING_LEVEL": "LOUD"}, "DEBUG, INFO"),
        ({**COMPLETE, "AIRFLOW__EXECUTION_API_SERVICE__LOG_FORMAT": "xml"}, "auto, json, text"),
        ({**COMPLETE, "AIRFLOW__EXECUTION_API_SERVICE__ACCESS_LOG_SHARE": "2"}, "from 0 to 1"),
        ({**COMPLETE, "AIRFLOW__EXECUTION_API_SERVICE__DRAIN_SECONDS": "-1"}, "drain_seconds"),
        ({**COMPLETE, "AIRFLOW__API__SSL_CERT": "/cert.pem"}, "ssl_key"),
        ({**COMPLETE, "AIRFLOW__SECRETS__BACKEND_KWARGS": "[1]"}, "backend_kwargs"),
        ({**HELD, "AIRFLOW__SECRETS__BACKEND": "tests.unit.leaving.Backend"}, r"\[secrets\] backend .*SystemExit"),
        ({**HELD, "AIRFLOW__SECRETS__BACKEND_KWARGS": '{"refused": "s3cret"}'}, "cannot be loaded: ValueError$"),
        ({**HELD, "AIRFLOW__SECRETS__BACKEND_KWARGS": '{"borken": true}'}, "cannot be loaded: TypeError: .*'borken'"),
        ({**HELD, "AIRFLOW__SECRETS__BACKEND_KWARGS": '{"broken": true}'}, "failed at 'conn', .*RuntimeError"),
        (
            {**COMPLETE, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONNECT_ARGS": "tests.unit.leaving.arguments"},
            "connect_args .*SystemExit",
        ),
        ({**COMPLETE, "AIRFLOW__EXECUTION_API_SERVICE__HEARTBEAT_WRITE_INTERVAL": "31"}, "a tenth at most .* is 300 s"),
        ({**COMPLETE, "AIRFLOW__API_AUTH__JWT_SECRET_CMD": "false", "AIRFLOW__API_AUTH__JWT_SECRET": ""}, "jwt_secret"),
    ],
)
def test_what_is_wrong_is_named_in_one_sentence(tmp_path: Path, environment: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as raised:
        load(tmp_path, **environment)
    assert "\n" not in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_a_failing_command_is_named(tmp_path: Path) -> None:
    environment = {k: v for k, v in COMPLETE.items() if "JWT" not in k} | {"AIRFLOW__API_AUTH__JWT_SECRET_CMD": "false"}
    with pytest.raises(ConfigurationError, match="JWT_SECRET_CMD"):
        load(tmp_path, **environment)


def test_where_options_came_from(tmp_path: Path) -> None:
    (tmp_path / "airflow.cfg").write_text(
        "# comment\n[core]\n; jwt = 1\nmax_map_length: 9\n\n[database]\nsql_alchemy_conn_secret = conn\n"
        "[DEFAULT]\njwt_leeway = 3\n[api_auth]\njwt_secret_cmd = echo x\n[webserver]\nworkers = 3\n"
    )
    found: Options = {}
    environment = {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__EXECUTION_API_SERVICE__POOL_SIZE": "4",
        "AIRFLOW__CORE__FERNET_KEY_CMD": "echo key",
        "AIRFLOW__SECRETS__BACKEND": "tests.unit.backend.Backend",
        "AIRFLOW__SECRETS__BACKEND_KWARGS": '{"config": {"conn": "postgresql://h/db"}}',
    }
    settings.load(environment, options=found)
    told = {option: (each.value, each.source, each.name, each.line) for option, each in found.items()}
    prefix = "AIRFLOW__"
    assert told["core", "max_map_length"] == ("9", "file", "[core] max_map_length", 4)
    assert told["database", "sql_alchemy_conn"] == ("postgresql://h/db", "secret", "[database] sql_alchemy_conn_secret", 7)
    assert told["api_auth", "jwt_leeway"] == ("3", "file", "[api_auth] jwt_leeway", 9)
    assert told["api_auth", "jwt_secret"] == ("x\n", "command", "[api_auth] jwt_secret_cmd", 11)
    assert told["api", "workers"] == ("3", "file", "[webserver] workers", 13)
    assert told["execution_api_service", "pool_size"] == (
        "4",
        "environment",
        f"{prefix}EXECUTION_API_SERVICE__POOL_SIZE",
        None,
    )
    assert told["core", "fernet_key"] == ("key\n", "command", f"{prefix}CORE__FERNET_KEY_CMD", None)
    assert told["core", "multi_team"] == ("False", "default", "", None)
    sensitive = {option for option, each in found.items() if each.is_sensitive}
    assert sensitive == {
        ("database", "sql_alchemy_conn"),
        ("database", "sql_alchemy_conn_async"),
        ("core", "fernet_key"),
        ("api_auth", "jwt_secret"),
        ("secrets", "backend_kwargs"),
    }


def test_an_option_of_ours_that_is_misspelt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no option 'pool_szie' \(AIRFLOW__.*_SZIE\): did you mean pool_size\?"):
        load(tmp_path, **COMPLETE, AIRFLOW__EXECUTION_API_SERVICE__POOL_SZIE="4")
    (tmp_path / "airflow.cfg").write_text("[DEFAULT]\nmine = 1\n[execution_api_service]\npool_size = 4\nlog_fromat = json\n")
    with pytest.raises(ConfigurationError, match=r"no option 'log_fromat' \(line 5 of .*\): did you mean log_format\?"):
        load(tmp_path, **COMPLETE)
    (tmp_path / "airflow.cfg").write_text("[execution_api_service]\nxyz = 4\n[execution_api_services]\nx = 1\n")
    with pytest.raises(ConfigurationError, match=r"no option 'xyz' .*: expected one of access_log, .* trusted_classes"):
        load(tmp_path, **COMPLETE)


def test_secrets_do_not_show(tmp_path: Path) -> None:
    shown = repr(load(tmp_path, **COMPLETE, AIRFLOW__CORE__FERNET_KEY="fernet-key"))
    assert "s3cret" not in shown
    assert "x" * 64 not in shown
    assert "fernet-key" not in shown


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("AIRFLOW"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)
    assert settings.load().tokens.secret == "x" * 64
