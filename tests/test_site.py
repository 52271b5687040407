"""The documentation site is whole: every link and anchor leads somewhere, every page is in its navigation, and the
search works without the network."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from playwright.async_api import Browser, expect

from tools.llms import entries, read

pytest.importorskip("zensical", reason="make test-lowest does not install it, because the site has one version of it")

ROOT = Path(__file__).parent.parent
SITE = ROOT / "build" / "site"


@pytest.fixture(scope="module", autouse=True)
def site() -> Path:
    """The site, built from the pages as they are now."""
    built = subprocess.run(
        [sys.executable, "-m", "tools.docs", "build"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return SITE


def nav_pages() -> list[str]:
    return [path for _, _, path in entries(read(ROOT / "mkdocs.yml")["nav"])]


def test_every_page_is_in_the_navigation_once() -> None:
    docs = ROOT / "docs"
    in_nav = nav_pages()
    assert len(in_nav) == len(set(in_nav))
    own = [page for page in in_nav if not page.startswith("files/")]
    assert sorted(own) == sorted(path.relative_to(docs).as_posix() for path in docs.rglob("*.md"))
    for page in set(in_nav) - set(own):
        assert (ROOT / page.removeprefix("files/")).exists(), page


@dataclass
class Page(HTMLParser):
    """The links of a page, the files that it loads, and its anchors."""

    path: Path
    links: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name == "src" and value:
                self.sources.append(value)
            elif name == "href" and value is not None:
                (self.links if tag == "a" else self.sources).append(value)


def file_of(address: str) -> Path:
    """Return the file that a server answers with at the path `address`."""
    path = SITE / unquote(address).lstrip("/")
    return path / "index.html" if address.endswith("/") else path


def test_every_link_anchor_and_file_exists() -> None:
    pages = {path: Page(path) for path in SITE.rglob("*.html")}
    assert len(pages) > 20
    broken = []
    for path, page in pages.items():
        base = "/" + path.relative_to(SITE).as_posix()
        for link in [*page.links, *page.sources]:
            target = urlsplit(urljoin(base, link))
            if target.scheme in ("http", "https", "mailto", "data"):
                assert link in page.links, f"{base} loads {link} from another host"
                continue
            file = file_of(target.path)
            anchors = pages[file].anchors if file in pages else set()
            is_found = file.is_file() and (not target.fragment or unquote(target.fragment) in anchors)
            if not is_found and path.name != "404.html":  # whose links are absolute, for a site at the root
                broken.append((base, link))
    assert broken == []


EXPORTING = ["wsgateway"] + [
    f"wsgateway.{room}" for room in ("admin", "auth", "client", "config", "server", "supervisor")
]


@pytest.mark.parametrize("module", EXPORTING)
def test_every_exported_name_is_on_the_page_of_the_api(module: str) -> None:
    anchors = Page(SITE / "reference" / "api" / "index.html").anchors
    elsewhere = {"wsgateway.client.ClientConnection", "wsgateway.client.Subprotocol", "wsgateway.config.Settings"}
    assert {f"{module}.{name}" for name in import_module(module).__all__} - anchors <= elsewhere


def test_no_page_shows_markdown_as_text() -> None:
    """A list without an empty line before it, or a table that is not one, would be a paragraph."""
    for path in SITE.rglob("*.html"):
        text = re.sub(r"<pre.*?</pre>|<code.*?</code>|<script.*?</script>", "", path.read_text(), flags=re.DOTALL)
        for paragraph in re.findall(r"<p>(.*?)</p>", text, re.DOTALL):
            assert not re.search(r"^(- |\d+\. |\||```|#)|\*\*", paragraph, re.MULTILINE), (path, paragraph)


def test_the_index_for_language_models_names_each_page() -> None:
    index = (SITE / "llms.txt").read_text()
    title, _, rest = index.partition("\n")
    assert title == "# wsgateway"
    assert rest.lstrip().startswith("> ")
    links = re.findall(r"^- \[[^\]]+\]\(([^)]+)\)", index, re.MULTILINE)
    assert links == nav_pages()
    full = (SITE / "llms-full.txt").read_text()
    for link in links:
        assert (SITE / link).read_text().rstrip() in full


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name in the standard library
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=SITE))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_the_search_finds_a_word_and_nothing_is_loaded_from_another_host(browser: Browser, url: str) -> None:
    page = await browser.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    await page.goto(url)
    await page.get_by_role("button", name="Search").click()
    await page.get_by_role("combobox", name="Search").fill("outbox_bytes")
    await expect(page.get_by_role("option").filter(has_text="Troubleshooting").first).to_be_visible()
    assert {urlsplit(request).netloc for request in requests if request.startswith("http")} == {url[7:]}
    await page.set_viewport_size({"width": 390, "height": 800})
    for name in ("", "reference/http/", "reference/settings/"):
        await page.goto(f"{url}/{name}")
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
    await page.close()
