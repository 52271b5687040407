"""The page about tokens is true: each sample runs as written, and each row of the table of refusals holds."""

import asyncio
import json
import re
import time
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import centrifuge
import httpx
import jwt
import pytest
from centrifuge import SubscribedContext, SubscriptionEventHandler, UnsubscribedContext
from playwright.async_api import Browser, expect
from starlette.responses import Response

from tests.samples import ROOT, run_sample, samples
from tests.test_docs_browser import Tab
from wsgateway import Gateway
from wsgateway.testing import Client, serve

TOKENS = "docs/how-to/tokens.md"
LOGIN = ("ann", "wonderland")


@asynccontextmanager
async def signed() -> AsyncIterator[tuple[Any, str]]:
    """Serve the first sample and an empty page. Yield the sample, and the URL."""
    module = run_sample(TOKENS, "signed.py")
    page = '<!doctype html><link rel=icon href="data:,"><body>'
    module.app.add_route("/", lambda request: Response(page, media_type="text/html"))
    async with serve(module.app) as url:
        yield module, url


@asynccontextmanager
async def tab(browser: Browser, url: str) -> AsyncIterator[Tab]:
    """An empty page of a browser in which ann has logged in."""
    credentials: Any = {"username": LOGIN[0], "password": LOGIN[1]}
    async with await browser.new_context(http_credentials=credentials) as context:
        page = await context.new_page()
        await page.goto(url + "/")
        yield Tab(page)


async def test_a_page_gets_a_token_and_connects(browser: Browser) -> None:
    async with signed() as (module, url), tab(browser, url) as ann:
        await ann.run(samples(TOKENS, "js")["signed"])
        await expect(ann.page.locator("body")).to_have_text("ann: hi")
        (connection,) = module.gateway.connections
        assert connection.user == "ann"
        assert 0 < connection.expires_at - time.time() <= 600


async def test_a_page_without_a_library_sends_its_token_as_a_subprotocol(browser: Browser) -> None:
    async with signed() as (_, url), tab(browser, url) as ann:
        await ann.run(samples(TOKENS, "js")["plain"])
        await ann.shows("received hi")


async def test_only_who_has_logged_in_gets_a_token() -> None:
    async with signed() as (module, url), httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/token")).status_code == 401
        assert (await http.get("/token", auth=("ann", "wrong"))).status_code == 401
        claims = jwt.decode((await http.get("/token", auth=LOGIN)).json(), module.SECRET, ["HS256"])
        assert claims["sub"] == "ann"
    assert len(module.SECRET) >= 32


async def test_a_program_sends_its_token_in_a_header() -> None:
    async with signed() as (_, url), httpx.AsyncClient(base_url=url) as http:
        token = (await http.get("/token", auth=LOGIN)).json()
        talk = run_sample(TOKENS, "program.py").talk
        assert await talk(url.replace("http", "ws"), token) == "hi"


async def test_curl_gets_a_token_and_reads_events() -> None:
    block = re.search(r"```sh\n(TOKEN=.*?)```", (ROOT / TOKENS).read_text(), re.DOTALL)
    assert block
    async with signed() as (module, url):
        command = block[1].replace("http://127.0.0.1:8000", url)
        async with await anyio.open_process(["sh", "-c", command], stderr=None) as process:
            assert process.stdout
            text = b""
            with anyio.fail_after(20):
                while b"event: subscribed" not in text:
                    text += await process.stdout.receive()
            assert [connection.user for connection in module.gateway.connections] == ["ann"]
            process.terminate()


def bearer(secret: str, **claims: Any) -> Any:
    return {"additional_headers": {"authorization": f"Bearer {jwt.encode(claims, secret)}"}}


async def test_the_listener_reads_the_claims_and_has_the_last_word() -> None:
    gateway = run_sample(TOKENS, "roles.py").gateway
    (secret,) = gateway.settings.token_secret
    async with serve(gateway) as url:
        async with Client(url, **bearer(secret, sub="ann", role="staff")):
            (connection,) = gateway.connections
            assert (connection.user, set(connection.channels)) == ("ann", {"news"})
        async with Client(url, **bearer(secret, sub="eve", role="guest")) as eve:
            assert await eve.closed() == (4501, "for staff only")


async def test_a_token_of_one_channel_admits_to_it_and_to_nothing_else() -> None:
    token = run_sample(TOKENS, "rooms.py").room_token("ann", "room:1", "s" * 32)
    assert jwt.decode(token, "s" * 32, ["HS256"]).keys() == {"sub", "channel", "exp"}
    async with signed() as (module, url):
        header = {
            "authorization": f"Bearer {run_sample(TOKENS, 'rooms.py').room_token('ann', 'room:1', module.SECRET)}"
        }
        async with httpx.AsyncClient(base_url=url, headers=header) as http:
            assert (await http.get("/live/sse?channel=room:1")).status_code == 401


BAD = {
    "none": None,
    "invalid": {"sub": 7},
    "expired": {"sub": "ann", "exp": 1},
}
REASONS = {"none": "token required", "invalid": "invalid token", "expired": "token expired"}


@pytest.mark.parametrize("kind", list(BAD))
async def test_the_table_of_refusals(kind: str) -> None:
    text = (ROOT / TOKENS).read_text()
    assert all(f"`{reason}`" in text for reason in REASONS.values())
    claims: Any = BAD[kind]
    async with signed() as (module, url), httpx.AsyncClient(base_url=url) as http:
        token = None if claims is None else jwt.encode(claims, module.SECRET)
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        for path in ("/live/sse", "/live/stream"):
            answer = await http.get(path, headers=headers)
            challenge = answer.headers["www-authenticate"]
            assert answer.status_code == 401
            assert challenge.startswith("Bearer")
            assert ('error="invalid_token"' in challenge) == (token is not None)
            assert token is None or token not in answer.text
        origin = {"origin": url}
        subprotocols: Any = ["bearer", token] if token else []
        async with Client(url, "/live/ws", additional_headers=origin, subprotocols=subprotocols) as page:
            assert await page.closed() == (3500, REASONS[kind])
        v1: Any = ["wsgateway.v1"]
        async with Client(url, "/live/ws?auth=first", additional_headers=origin, subprotocols=v1) as page:
            await page.send(json.dumps({"token": token or ""}))
            assert await page.closed() == (3500, REASONS[kind])


async def test_on_expire_renews_the_connection_of_a_user_that_is_logged_in() -> None:
    gateway = run_sample(TOKENS, "sessions.py").gateway
    (secret,) = gateway.settings.token_secret
    async with serve(gateway) as url, Client(url, **bearer(secret, sub="ann", exp=int(time.time()) + 600)):
        (connection,) = gateway.connections
        connection.expires_at = time.time()
        with anyio.fail_after(20):
            while connection.expires_at < time.time() + 60:
                await anyio.sleep(0.02)  # the hook runs


class Outcome(SubscriptionEventHandler):
    """The code with which a subscription was refused, 0 if it was not."""

    def __init__(self) -> None:
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def on_subscribed(self, ctx: SubscribedContext) -> None:
        self.code.set_result(0)

    async def on_unsubscribed(self, ctx: UnsubscribedContext) -> None:
        if not self.code.done():
            self.code.set_result(ctx.code)


async def test_a_subscription_token_admits_its_user_to_its_channel() -> None:
    secret = "a text of 32 bytes or more for the tests"
    room_token = run_sample(TOKENS, "rooms.py").room_token
    gateway = Gateway(token_secret=secret, protocols=["centrifuge"], channels={"room:*": {}})
    async with serve(gateway) as url:
        address = url.replace("http", "ws") + "/connection/websocket"
        sdk = centrifuge.Client(address, token=jwt.encode({"sub": "ann"}, secret), proxy=None)
        await sdk.connect()
        for channel, token, code in (("room:1", room_token("ann", "room:1", secret), 0), ("room:2", "", 103)):
            outcome = Outcome()
            await sdk.new_subscription(channel, outcome, token=token).subscribe()
            with anyio.fail_after(20):
                assert await outcome.code == code
        await sdk.disconnect()


async def test_the_settings_of_an_identity_provider_are_settings() -> None:
    block = re.search(r"```toml\n(.*?)```", (ROOT / TOKENS).read_text(), re.DOTALL)
    assert block
    gateway = Gateway(**tomllib.loads(block[1]))
    assert gateway.settings.token_audience == ("chat",)


@pytest.mark.parametrize(
    ("claims", "close"),
    [
        (None, None),
        ({"sub": 7}, (3500, "invalid token")),
        ({"sub": "eve"}, (3500, "invalid token")),
        ({"sub": "ann", "exp": 1}, (3005, "connection expired")),
    ],
)
async def test_the_row_of_renewed_tokens(claims: Any, close: tuple[int, str] | None) -> None:
    async with signed() as (module, url):
        v1: Any = {"subprotocols": ["wsgateway.v1"], **bearer(module.SECRET, sub="ann", exp=int(time.time()) + 600)}
        async with Client(url, "/live/ws", **v1) as ann:
            first = (await ann.receive_json())["expires"]
            assert 590 <= first <= 600
            await ann.send_json({"token": jwt.encode(claims, module.SECRET) if claims else "", "id": 1})
            if close is not None:
                assert await ann.closed() == close
                return
            refused = await ann.receive_json()
            assert (refused["status"], refused["id"]) == (400, 1)
            token = jwt.encode({"sub": "ann", "exp": int(time.time()) + 1200}, module.SECRET)
            await ann.send_json({"token": token, "id": 2})
            renewed = await ann.receive_json()
            assert renewed["id"] == 2
            assert 1190 <= renewed["expires"] <= 1200
