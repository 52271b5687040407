"""The page about clients for every platform is true: its samples run as written, its tables of codes are complete."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from playwright.async_api import Browser
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from tests.cutting import cutting_proxy
from tests.samples import ROOT, run_sample, samples
from tests.test_docs_browser import Tab
from wsgateway.protocols.centrifuge import codes
from wsgateway.testing import serve

CENTRIFUGE = "docs/how-to/centrifuge.md"
SDK = ROOT / "examples" / "centrifuge_js" / "vendor" / "centrifuge-5.8.0.js"
PAGE = '<!doctype html><link rel=icon href="data:,"><body><script src="/centrifuge.js"></script>'
LOGIN: Any = {"username": "ann", "password": "wonderland"}


SHOP: str = re.findall(
    r"^```html\n(<!-- shop.html -->\n.*?)^```$", (ROOT / CENTRIFUGE).read_text(), re.DOTALL | re.MULTILINE
)[0]


@asynccontextmanager
async def served(page: str, name: str, html: str = PAGE) -> AsyncIterator[tuple[Any, str]]:
    """Serve a sample, and `html` as its page. Yield the sample's module, and the URL."""
    module = run_sample(page, name)
    own_page = Route("/", lambda request: Response(html, media_type="text/html"))
    module.app.router.routes.insert(0, own_page)  # before the sample's, which is a file
    module.app.add_route("/centrifuge.js", lambda request: FileResponse(SDK))
    async with serve(module.app) as url:
        yield module, url


@asynccontextmanager
async def tab(browser: Browser, url: str) -> AsyncIterator[Tab]:
    async with await browser.new_context(http_credentials=LOGIN) as context:
        await context.route("https://unpkg.com/centrifuge@5.8.0/**", lambda route: route.fulfill(path=SDK))
        page = await context.new_page()
        lines = Tab(page)
        await page.goto(url + "/")
        yield lines


def sample(name: str) -> str:
    if name == "shop":
        return str(SHOP.partition('<script type="module">\n')[2].removesuffix("</script>\n"))
    return samples(CENTRIFUGE, "js")[name]


async def test_a_page_in_ten_lines(browser: Browser) -> None:
    lines = [line for line in sample("shop").splitlines() if line.strip()]
    assert len(lines) <= 12
    async with served(CENTRIFUGE, "shop.py", SHOP) as (module, url), tab(browser, url) as page:
        await page.shows("received hi 1")
        await page.shows("tea costs 3")
        await module.gateway.disconnect(list(module.gateway.connections), code=3011)
        await module.gateway.publish("missed", channel="room:1")
        await module.gateway.forget("room:1")
        await page.shows("start over")


async def test_a_page_falls_back_to_http(browser: Browser) -> None:
    async with (
        served(CENTRIFUGE, "shop.py") as (_, url),
        cutting_proxy(url, refuses_websockets=True) as proxy,
        tab(browser, proxy.url) as page,
    ):
        await page.run(sample("fallback") + "console.log('tea costs', (await live.rpc('price', 'tea')).data);")
        await page.shows("connected over http_stream")
        await page.shows("tea costs 3")


async def test_a_page_connects_with_a_token(browser: Browser) -> None:
    async with served("docs/how-to/tokens.md", "signed.py") as (module, url), tab(browser, url) as page:
        await page.run(sample("tokens"))
        await page.shows("connected as .+")
        assert [connection.user for connection in module.gateway.connections] == ["ann"]


async def test_a_page_answers_in_three_lines(browser: Browser) -> None:
    assert len(sample("ask").splitlines()) == 3
    async with served(CENTRIFUGE, "shop.py") as (module, url), tab(browser, url) as page:
        await page.run(sample("shop") + sample("ask"))
        await page.shows("tea costs 3")
        (connection,) = module.gateway.connections
        assert await connection.request("ready?") == "you asked: ready?"


async def test_a_program_in_python() -> None:
    async with served(CENTRIFUGE, "shop.py") as (_, url):
        with anyio.fail_after(20):
            assert await run_sample(CENTRIFUGE, "prices.py").talk(url.replace("http", "ws")) == ["hi", 5]


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table below `heading`."""
    section = (ROOT / CENTRIFUGE).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\| \d.*", section, re.MULTILINE)
    ]


def test_every_error_has_its_row() -> None:
    written = {int(code): message.partition(" (")[0] for code, message, _ in rows("Error codes")}
    assert written == {code: codes.error_result(code)["message"] for code in codes.ErrorCode}
    temporary = {int(code) for code, message, _ in rows("Error codes") if "(temporary)" in message}
    assert temporary == {code for code in codes.ErrorCode if codes.error_result(code).get("temporary")}


@pytest.mark.parametrize("row", rows("Close codes"), ids=lambda row: row[0])
def test_every_close_code_has_the_reason_of_its_row(row: list[str]) -> None:
    for code, reason in zip(row[0].split(", "), row[1].split(", "), strict=True):
        if reason:
            assert codes.closing(int(code), "") == (int(code), reason)
