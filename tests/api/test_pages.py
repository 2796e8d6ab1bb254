"""The document's pages in a real browser, and all of it below a path where a proxy may put us."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests import debian
from tests.servers import Server, our_server

BELOW = "/airflow"
BROWSER = (
    "chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    " --disable-background-networking --disable-component-update --disable-dev-shm-usage --virtual-time-budget=60000"
)
PAGE_TIMEOUT = 120.0  # seconds; five on two idle cores


@pytest.fixture(scope="module")
def below(make_database: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {
        "AIRFLOW__API__BASE_URL": f"https://airflow.example.com{BELOW}/",
        "AIRFLOW__EXECUTION_API_SERVICE__KEEP_ALIVE_SECONDS": "1",
    }
    with our_server(make_database("3.3"), tmp_path_factory.mktemp("below"), **settings) as server:
        yield server


def test_it_answers_below_the_path_of_the_base_url_whether_a_proxy_takes_it_off_or_not(below: Server) -> None:
    root = below.base_url.removesuffix("/execution")
    for path in ("/execution/health", f"{BELOW}/execution/health/ping", f"{BELOW}/metrics"):
        assert httpx.get(f"{root}{path}").status_code == 200
    for path in (f"{BELOW}way/execution/health", f"{BELOW}{BELOW}/execution/health"):
        assert httpx.get(f"{root}{path}").status_code == 404
    assert 'handler="/execution/health/ping"' in httpx.get(f"{root}/metrics").text


def test_a_connection_is_kept_as_long_as_the_setting_says(below: Server) -> None:
    url = httpx.URL(below.base_url)
    with socket.create_connection((url.host, url.port or 0), timeout=30) as idle:  # less than the default's 75 s
        idle.sendall(b"GET /execution/health HTTP/1.1\r\nhost: here\r\n\r\n")
        until_it_ends = b"".join(iter(lambda: idle.recv(1000), b""))
    assert until_it_ends.startswith(b"HTTP/1.1 200")


def test_pages_may_ask_nobody_else(below: Server) -> None:
    for page in ("docs", "redoc"):
        answer = httpx.get(f"{below.base_url}/{page}")
        assert answer.headers["content-security-policy"].startswith("default-src 'self';")
        assert "//" not in answer.text.replace("<!--", "").replace("// ", ""), "every address is relative"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs", "redoc"])
def test_every_operation_is_on_the_page_and_nobody_else_was_asked(below: Server, page: str, tmp_path: Path) -> None:
    debian.install("chromium", programs=("chromium",))
    origin = below.base_url.removesuffix("/execution")
    document = httpx.get(f"{below.base_url}/openapi.json").json()
    log = tmp_path / "net.json"
    command = [*BROWSER.split(), f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", "--dump-dom"]
    shown = subprocess.run(
        [*command, f"{origin}{BELOW}/execution/{page}"], capture_output=True, text=True, timeout=PAGE_TIMEOUT, check=True
    ).stdout
    operations = Counter(path for path, methods in document["paths"].items() for _ in methods)
    assert operations.total() > 40
    place = {"docs": r'data-path="([^"]+)"', "redoc": r"</span>(/[^<]+)</div>"}[page]  # one of each operation
    assert Counter(re.findall(place, shown)) == operations
    asked = [(event["params"]["initiator"], event["params"]["url"]) for event in _requests(log)]
    of_the_page = {url for initiator, url in asked if initiator == origin}
    assert f"{origin}{BELOW}/execution/openapi.json" in of_the_page
    assert {url for url in of_the_page if not url.startswith(f"{origin}{BELOW}/execution/")} == set()


def _requests(log: Path) -> list[dict[str, dict[str, str]]]:
    return [event for event in json.loads(log.read_text())["events"] if "initiator" in event.get("params", ())]
