"""The page about requests is true: each sample runs as written, and every kind of client asks and is asked."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from playwright.async_api import Browser
from starlette.responses import Response
from websockets.typing import Subprotocol

from tests.samples import ROOT, run_sample, samples
from tests.test_docs_browser import Tab
from wsgateway import Gateway
from wsgateway.testing import Client, serve

REQUESTS = "docs/requests.md"
PAGE = '<!doctype html><link rel=icon href="data:,"><body>'


@asynccontextmanager
async def shop() -> AsyncIterator[tuple[Gateway, str]]:
    """Serve the first sample and an empty page. Yield its gateway, and the URL."""
    module = run_sample(REQUESTS, "prices.py")
    module.app.add_route("/", lambda request: Response(PAGE, media_type="text/html"))
    async with serve(module.app) as url:
        yield module.gateway, url


@asynccontextmanager
async def tab(browser: Browser, url: str) -> AsyncIterator[Tab]:
    async with await browser.new_context() as context:
        page = await context.new_page()
        await page.goto(url + "/")
        yield Tab(page)


async def test_a_page_asks(browser: Browser) -> None:
    async with shop() as (_, url), tab(browser, url) as page:
        await page.run(samples(REQUESTS, "js")["price"])
        await page.shows("tea costs 3")
        await page.shows("422 there is no such item")


async def test_a_client_of_json_rpc_asks() -> None:
    async with shop() as (_, url):
        assert await run_sample(REQUESTS, "jsonrpc.py").price(url.replace("http", "ws")) == 3


async def test_every_code_of_json_rpc_is_in_the_text() -> None:
    codes = re.findall("\u2212(32\\d\\d\\d)", (ROOT / REQUESTS).read_text())
    assert codes == ["32601", "32602", "32603", "32000"]
    async with shop() as (_, url), Client(url, "/live/ws") as client:
        for method, params, code in (("nonsense", ["tea"], -32601), ("price", ["milk"], -32602)):
            await client.send_json({"jsonrpc": "2.0", "method": method, "params": params, "id": "a"})
            answer = await client.receive_json()
            assert (answer["id"], answer["error"]["code"]) == ("a", code)


async def test_the_client_of_a_stream_asks() -> None:
    async with shop() as (_, url), httpx.AsyncClient(base_url=url) as http:
        async with http.stream("GET", "/live/stream") as stream:
            lines = stream.aiter_lines()
            session = json.loads(await anext(lines))["open"]["session"]
            target = f"/live/session/{session}?reply=1&name=price"
            assert (await http.post(target, json=["cake"])).json() == 5
            assert (await http.post(target, json=["milk"])).status_code == 422


ROWS = {"plain": (), "v1": ("wsgateway.v1",)}


@pytest.mark.parametrize("kind", list(ROWS))
async def test_a_client_is_asked_and_answers_or_refuses(kind: str) -> None:
    confirmed = run_sample(REQUESTS, "orders.py").confirmed
    subprotocols = [Subprotocol(name) for name in ROWS[kind]] or None
    async with shop() as (gateway, url), Client(url, "/live/ws", subprotocols=subprotocols) as client:
        (connection,) = gateway.connections
        for answer, expected in ((True, True), (False, False), (None, False)):
            outcome: list[bool] = []
            async with anyio.create_task_group() as group:

                async def ask(outcome: list[bool] = outcome) -> None:
                    outcome.append(await confirmed(connection, "really?"))

                group.start_soon(ask)
                await client.send_json(answer_to(kind, await client.receive_json(), answer))
            assert outcome == [expected]


def answer_to(kind: str, question: dict[str, Any], answer: bool | None) -> dict[str, Any]:
    """Return the answer as the page writes it. None refuses."""
    ident = question.pop("id")
    if kind == "v1":
        assert question == {"request": "really?", "name": "confirm"}
        refused = {"refused": None, "id": ident, "status": 403, "reason": "no"}
        return refused if answer is None else {"reply": answer, "id": ident}
    assert question == {"jsonrpc": "2.0", "method": "confirm", "params": ["really?"]}
    content = {"error": {"code": 1, "message": "no"}} if answer is None else {"result": answer}
    return {"jsonrpc": "2.0", "id": ident, **content}


@pytest.mark.parametrize("accepts", [True, False])
async def test_a_page_is_asked(browser: Browser, accepts: bool) -> None:
    async with shop() as (gateway, url), tab(browser, url) as page:
        page.page.on("dialog", lambda dialog: dialog.accept() if accepts else dialog.dismiss())
        await page.run(samples(REQUESTS, "js")["confirm"])
        with anyio.fail_after(20):
            while not len(gateway.connections):
                await anyio.sleep(0.02)  # the page connects
        (connection,) = gateway.connections
        assert await run_sample(REQUESTS, "orders.py").confirmed(connection, "really?") is accepts
