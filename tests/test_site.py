"""The documentation site: built as it is published, and every link in it leads somewhere."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from app.settings import OWN_SECTION
from app.versions import VERSIONS

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """What a page leads to, what it loads, and what can be led to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = {""}
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        self.anchors |= {told[name] for name in ("id", "name") if name in told}
        self.links += [told[name] for name in ("href", "src") if name in told]
        if tag in ("script", "img") or told.get("rel") in ("stylesheet", "preconnect"):
            self.loaded += [told[name] for name in ("href", "src") if name in told]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "site"
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "site", "--into", folder], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def lost(site: Path) -> list[str]:
    """Return the links of a site that lead nowhere in it."""
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    found = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            known = pages[target].anchors if target in pages else {parts.fragment}
            if not target.is_file() or unquote(parts.fragment) not in known:
                found.append(f"{path.relative_to(site)}: {link}")
    return found


def test_every_link_leads_somewhere(site: Path) -> None:
    assert lost(site) == []
    page = site / "index.html"
    text = page.read_text()
    page.write_text(text + '<a href="no-such-page/">x</a><a href="operations/#no-such-heading">x</a>')
    assert lost(site) == ["index.html: no-such-page/", "index.html: operations/#no-such-heading"]
    page.write_text(text)


def test_pages_load_nothing_from_another_host(site: Path) -> None:
    """Nor does the theme, which fetches what draws if a page has left it a drawing to draw."""
    pages = {path: Page(path) for path in site.rglob("*.html")}
    loaded = {link for page in pages.values() for link in page.loaded}
    assert any(link.endswith(".js") for link in loaded)
    assert [link for link in loaded if urlsplit(link).netloc] == []
    assert [path for path in pages if 'class="mermaid"' in path.read_text()] == []


def test_drawings_are_pictures(site: Path) -> None:
    drawn = [path.stem for path in (ROOT / "docs").rglob("*.md") if "```mermaid" in path.read_text()]
    assert len(drawn) > 2
    for name in drawn:
        picture = (site / f"{name}-0.svg").read_text()
        assert picture.startswith("<svg")
        assert f'src="../{name}-0.svg"' in (site / name / "index.html").read_text()


def test_every_page_is_there(site: Path) -> None:
    pages = [path for path in (ROOT / "docs").rglob("*.md") if path.name != "index.md"]
    names = [path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in pages]
    names += ["changelog", "contributing", "security", "support", "scheduler-plugin"]
    assert [name for name in names if not (site / name / "index.html").is_file()] == []


def test_reference_pages_are_made_from_the_code(site: Path) -> None:
    settings, metrics, operations = (
        (site / "reference" / name / "index.html").read_text() for name in ("settings", "metrics", "operations")
    )
    assert "task_instance_heartbeat_timeout" in settings
    assert OWN_SECTION in settings
    assert "execution_api_requests_at_the_door" in metrics
    assert "/task-instances/{task_instance_id}/heartbeat" in operations
    assert [version.date for version in VERSIONS if f'<h2 id="{version.date}"' not in operations] == []
