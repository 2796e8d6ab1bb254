"""The two images, their steps followed in environments of their own, since there is no engine here."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from app.commands.embedded import free_port
from tests.deploy.dockerfiles import instructions, of_the_image, variables
from tests.servers import (
    ROOT,
    Server,
    airflow_environment,
    airflow_settings,
    clean_environment,
    pinned_environment,
    running,
    token,
)
from tests.wheels import broken_requirements, build_wheel, environment_with

pytestmark = pytest.mark.slow

SLIM, BESIDE = ROOT / "Dockerfile", ROOT / "Dockerfile.airflow"
AIRFLOWS = ["3.2.1", "3.3.2", "3.4.0b2"]  # with which it is shown
TOO_OLD = {"3.2.0"}  # whose FastAPI is older than ours may be
VAULT_TOKEN = "a token of the tests"


@pytest.mark.parametrize("dockerfile", [SLIM, BESIDE], ids=lambda path: path.name)
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    hadolint = pinned_environment("deploy") / "bin" / "hadolint"
    done = subprocess.run([hadolint, "--no-color", dockerfile], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_both_images_are_asked_alike() -> None:
    wanted = {"ENTRYPOINT": ["execution-api"], "CMD": ["serve"], "HEALTHCHECK": ["execution-api", "healthcheck"]}
    for image in (SLIM, BESIDE):
        assert of_the_image(image) == wanted
        port = variables(image)["AIRFLOW__EXECUTION_API_SERVICE__PORT"]
        assert ("EXPOSE", port) in instructions(image)


def test_what_is_copied_is_there() -> None:
    pinned = {path.stem.removeprefix("airflow-") for path in (ROOT / "requirements").glob("airflow-3.[2-9]*.txt")}
    releases = pinned - TOO_OLD
    assert {*AIRFLOWS} <= releases
    for image in (SLIM, BESIDE):
        copied = [rest.split()[:-1] for word, rest in instructions(image) if word == "COPY" and "--from" not in rest]
        names = [name.replace("${AIRFLOW_VERSION}", each) for rest in copied for name in rest for each in releases]
        assert [name for name in names if not name.startswith("--") and not (ROOT / name).exists()] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module", params=AIRFLOWS)
def programs(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do what ``Dockerfile.airflow`` does, beside an Airflow with all that it was released with."""
    (install,) = (rest for word, rest in instructions(BESIDE) if word == "RUN" and "pip check" in rest)
    assert "--no-deps --require-hashes -r /tmp/requirements.txt" in install
    beside = pinned_environment(f"beside-{request.param}", "--no-deps")
    environments = [beside, airflow_environment(request.param), pinned_environment("hashicorp", "--no-deps")]
    return environment_with(wheel, tmp_path_factory.mktemp("beside") / "environment", *environments)


def test_what_airflow_requires_is_still_there(programs: Path) -> None:
    assert broken_requirements(programs) == ""


def _served(programs: Path, database_url: str, folder: Path, **settings: str) -> Iterator[Server]:
    port = free_port()
    environment = {**clean_environment(), **airflow_settings(database_url), **settings, "AIRFLOW_HOME": str(folder)}
    environment |= {"PATH": f"{programs}:{environment['PATH']}", "AIRFLOW__EXECUTION_API_SERVICE__DRAIN_SECONDS": "0"}
    environment |= {"AIRFLOW__EXECUTION_API_SERVICE__PORT": str(port)}
    image = of_the_image(BESIDE)
    with running([*image["ENTRYPOINT"], *image["CMD"]], port=port, environment=environment, log=folder / "log") as server:
        asked = subprocess.run(image["HEALTHCHECK"], env=environment, capture_output=True, text=True, check=False)
        assert asked.returncode == 0, asked.stderr
        yield server
        assert server.stop() == 0


@pytest.fixture
def with_files(programs: Path, make_database: Callable[[str], str], tmp_path: Path) -> Iterator[Server]:
    """Serve with Airflow's backend of local files."""
    (tmp_path / "variables.json").write_text('{"from_a_file": "of a file"}')
    yield from _served(
        programs,
        make_database("3.3"),
        tmp_path,
        AIRFLOW__SECRETS__BACKEND="airflow.secrets.local_filesystem.LocalFilesystemBackend",
        AIRFLOW__SECRETS__BACKEND_KWARGS=json.dumps({"variables_file_path": str(tmp_path / "variables.json")}),
    )


class Vault(BaseHTTPRequestHandler):
    """As much of HashiCorp's Vault as a reader of secrets asks: who he is, and version 2 of its key-value store."""

    def do_GET(self) -> None:
        known = {"/v1/auth/token/lookup-self": {"id": VAULT_TOKEN}}
        secrets = {"variables/from_vault": {"value": "of the vault"}}
        known |= {f"/v1/secret/data/{path}": {"data": data, "metadata": {}} for path, data in secrets.items()}
        found = known.get(self.path) if self.headers["X-Vault-Token"] == VAULT_TOKEN else None
        body = json.dumps({"data": found} if found else {"errors": []}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def vault() -> Iterator[str]:
    """Run a Vault, and return its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Vault) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def with_vault(programs: Path, make_database: Callable[[str], str], vault: str, tmp_path: Path) -> Iterator[Server]:
    """Serve with HashiCorp's backend."""
    kwargs = {"url": vault, "token": VAULT_TOKEN, "mount_point": "secret", "variables_path": "variables"}
    yield from _served(
        programs,
        make_database("3.3"),
        tmp_path,
        AIRFLOW__SECRETS__BACKEND="airflow.providers.hashicorp.secrets.vault.VaultBackend",
        AIRFLOW__SECRETS__BACKEND_KWARGS=json.dumps(kwargs),
    )


def _variable(server: Server, key: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token(uuid4())}"}
    return httpx.get(f"{server.base_url}/variables/{key}", headers=headers, timeout=10)


@pytest.mark.parametrize("programs", ["3.2.1", "3.4.0b2"], indirect=True)
def test_airflows_own_backend_answers(with_files: Server) -> None:
    assert _variable(with_files, "from_a_file").json() == {"key": "from_a_file", "value": "of a file"}
    assert _variable(with_files, "nowhere").status_code == 404


@pytest.mark.parametrize("programs", ["3.3.2"], indirect=True)
def test_a_providers_backend_answers(with_vault: Server) -> None:
    assert _variable(with_vault, "from_vault").json() == {"key": "from_vault", "value": "of the vault"}
    assert _variable(with_vault, "nowhere").status_code == 404


def test_the_slim_image_says_that_it_has_no_airflow(
    wheel: Path, tmp_path: Path, make_database: Callable[[str], str]
) -> None:
    slim = environment_with(wheel, tmp_path / "slim", pinned_environment("serve"))
    environment = {**clean_environment(), **airflow_settings(make_database("3.3")), "AIRFLOW_HOME": str(tmp_path)}
    environment["AIRFLOW__SECRETS__BACKEND"] = "airflow.secrets.local_filesystem.LocalFilesystemBackend"
    done = subprocess.run([slim / "execution-api", "serve"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "LocalFilesystemBackend" in done.stderr
