"""The page about requests is true: each sample runs as written."""

import httpx
from playwright.async_api import Browser
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount, Route

from tests.samples import run_sample, samples
from tests.streams import streaming
from tests.test_docs_browser import Tab
from tests.test_docs_channels import V1
from wsgateway.testing import serve

PAGE = "docs/how-to/requests.md"


async def page_of(browser: Browser, name: str, script: str) -> list[str]:
    """Serve a sample below `/live`, run `script` in a page beside it, and return what it shows."""
    gateway = run_sample(PAGE, name).gateway
    empty = Response('<!doctype html><link rel=icon href="data:,">', media_type="text/html")
    app = Starlette(routes=[Route("/", lambda _: empty), Mount("/live", gateway)], lifespan=gateway.lifespan)
    async with serve(app) as url, await browser.new_context() as context:
        page = await context.new_page()
        await page.goto(f"{url}/")
        tab = Tab(page)
        await tab.run(samples(PAGE, "js")[script])
        await tab.shows("refused 422 the divisor is 0" if script == "request" else "deleted one.txt")
        return tab.lines


async def test_a_page_sends_requests(browser: Browser) -> None:
    assert await page_of(browser, "calculator.py", "request") == ["sum 3", "refused 422 the divisor is 0"]


async def test_a_page_confirms(browser: Browser) -> None:
    assert await page_of(browser, "confirmation.py", "confirm") == ["deleted one.txt"]


async def test_a_client_that_refuses_deletes_nothing() -> None:
    gateway = run_sample(PAGE, "confirmation.py").gateway
    async with serve(gateway) as url, V1(url) as client:
        question = await client.ask(message="a.txt", id=5)
        assert question == {"request": {"delete": "a.txt"}, "id": 1, "name": "confirm"}
        assert await client.ask(refused=None, id=1, status=404, reason="") == {"id": 5}


async def test_the_other_protocols() -> None:
    gateway = run_sample(PAGE, "calculator.py").gateway
    rpc = run_sample(PAGE, "rpc.py").call
    async with serve(gateway) as url:
        assert await rpc(url.replace("http", "ws"), "sum", [1, 2]) == {"sum": 3}
        error = await rpc(url.replace("http", "ws"), "divide", [1, 0])
        assert error == {"code": -32602, "message": "the divisor is 0"}
        assert (await rpc(url.replace("http", "ws"), "other", []))["code"] == -32601
        async with V1(url) as client:
            assert await client.ask(request=[6, 3], id=1, name="divide") == {"reply": 2.0, "id": 1}
        async with streaming(url) as stream, httpx.AsyncClient(base_url=url) as http:
            secret = httpx.Response(200, text=(await stream.next()).data).json()["session"]
            answer = await http.post(f"/session/{secret}", params={"reply": 1, "name": "sum"}, json=[4, 5])
            assert answer.json() == {"sum": 9}
