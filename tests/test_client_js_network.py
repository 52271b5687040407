"""`client.js` on a real gateway: restarted, behind a network that breaks, and behind a proxy that blocks WebSockets.

`CUTS=60 pytest tests/test_client_js_network.py` cuts the network 60 times, which takes five minutes for each carrier.
"""

import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import jwt
import pytest
from playwright.async_api import Browser, Page

from tests.cutting import CuttingProxy, cutting_proxy
from wsgateway import Gateway, HandshakeEvent, MessageEvent, Refused
from wsgateway.testing import serve

CUTS = int(os.environ.get("CUTS", "2"))
UP, DOWN = 3.0, 2.0
RATE = 20
TABS = 3
CHANNELS: dict[str, Any] = {
    "news": {"history": 10_000, "public": True},
    "room:*": {"history": 100, "public": True, "clients": ["subscribe", "publish"]},
}

JOIN = """async ([last, options]) => {
  Object.assign(window, await import("/client.js"));
  window.numbers = []; window.recoveries = []; window.states = []; window.outcomes = [];
  window.live = connect("/ws", options && { token: () => options });
  live.on("status", (state) => states.push(state));
  window.news = live.channel("news", { last });
  news.on("message", (number) => numbers.push(number));
  news.on("subscribed", ({ recovered }) => {
    recoveries.push(recovered);
    if (!recovered) numbers.length = 0;
  });
  window.outcome = (promise) => void promise.then(({ at }) => outcomes.push(at), ({ reason }) => outcomes.push(reason));
}"""


class Quiet:
    async def on_message(self, event: MessageEvent) -> None:
        if event.message == "refuse me":
            raise Refused(422, "as you wish")


@asynccontextmanager
async def tabs(browser: Browser, proxy: CuttingProxy, count: int = TABS, token: str = "") -> AsyncIterator[list[Page]]:
    """Pages that are subscribed to `news`, through the proxy."""
    problems: list[str] = []
    async with await browser.new_context() as context:
        pages = [await context.new_page() for _ in range(count)]
        for page in pages:
            page.set_default_timeout(60_000)
            page.on("pageerror", lambda error: problems.append(str(error)))
            await page.goto(proxy.url + "/health")
            await page.evaluate(JOIN, [50, token])
        for page in pages:
            await page.wait_for_function("recoveries.length >= 1")
        yield pages
    assert problems == []


async def publish_while_cutting(gateway: Gateway, proxy: CuttingProxy) -> int:
    """Publish 1, 2, 3… to `news`, `RATE` a second, while the network is up and down. Return the last number."""
    begun, number = time.monotonic(), 0
    while (elapsed := time.monotonic() - begun) < CUTS * (UP + DOWN) + UP:
        if (elapsed % (UP + DOWN) > UP) != proxy.is_cut:
            if proxy.is_cut:
                proxy.mend()
            else:
                proxy.cut()
        number += 1
        await gateway.publish(number, channel="news")
        await anyio.sleep(max(0, begun + number / RATE - time.monotonic()))  # the rate is what is tested
    proxy.mend()
    return number


async def check_numbers(pages: list[Page], last: int) -> None:
    """Assert that every tab has received every number once and in order, and has recovered after each cut."""
    for page in pages:
        await page.wait_for_function("(last) => numbers.at(-1) === last", arg=last)
        assert await page.evaluate("numbers") == list(range(1, last + 1))
        recoveries = await page.evaluate("recoveries")
        assert recoveries[0] is False
        assert len(recoveries) >= 2  # a tab may wait while the network is up for 3 s
        assert all(recoveries[1:])


async def test_a_network_that_breaks_loses_and_doubles_nothing(browser: Browser) -> None:
    gateway = Gateway(listener=Quiet, channels=CHANNELS, test_page=False)
    async with serve(gateway) as url, cutting_proxy(url) as proxy, tabs(browser, proxy) as pages:
        last = await publish_while_cutting(gateway, proxy)
        assert proxy.cuts == CUTS
        assert last >= RATE * CUTS * (UP + DOWN) * 0.5
        await check_numbers(pages, last)
        assert proxy.streams == 0


async def test_where_websockets_are_blocked_a_stream_loses_and_doubles_nothing(browser: Browser) -> None:
    gateway = Gateway(listener=Quiet, channels=CHANNELS, test_page=False)
    async with (
        serve(gateway) as url,
        cutting_proxy(url, refuses_websockets=True) as proxy,
        tabs(browser, proxy) as pages,
    ):
        assert proxy.refused >= 2 * TABS
        last = await publish_while_cutting(gateway, proxy)
        assert proxy.cuts == CUTS
        await check_numbers(pages, last)
        assert proxy.streams >= 2 * TABS
        assert {conn.transport for conn in gateway.connections} == {"stream"}


async def test_after_a_restart_every_tab_starts_over(browser: Browser) -> None:
    """The history was in memory, so the tabs are notified that it is gone, and get what a new client gets."""
    async with AsyncExitStack() as stack:
        first = Gateway(listener=Quiet, channels=CHANNELS, test_page=False)
        async with serve(first) as url:
            proxy = await stack.enter_async_context(cutting_proxy(url))
            pages = await stack.enter_async_context(tabs(browser, proxy))
            for number in range(1, 31):
                await first.publish(number, channel="news")
            for page in pages:
                await page.wait_for_function("numbers.length === 30")
        for page in pages:
            await page.evaluate("outcome(live.channel('room:1').publish('from before'))")
        second = Gateway(listener=Quiet, channels=CHANNELS, test_page=False)
        async with serve(second) as proxy.upstream:
            for number in range(101, 121):
                await second.publish(number, channel="news")
            for page in pages:
                await page.wait_for_function("recoveries.length >= 2 && numbers.length >= 20 && outcomes.length === 1")
            for number in range(121, 141):
                await second.publish(number, channel="news")
            for page in pages:
                await page.wait_for_function("numbers.at(-1) === 140")
                assert await page.evaluate("numbers") == list(range(101, 141))
                assert await page.evaluate("recoveries") == [False, False]
            accepted = [(await page.evaluate("outcomes"))[0].partition(":")[2] for page in pages]
            assert sorted(accepted) == ["1", "2", "3"]


class Doors:
    """Lets a client in that knows the word."""

    async def on_handshake(self, event: HandshakeEvent) -> None:
        if event.token != "sesame":
            raise Refused(401, "the word, please")
        event.conn.user = "ali"

    async def on_message(self, event: MessageEvent) -> None:
        if event.message == "refuse me":
            raise Refused(422, "as you wish")
        if event.channel:
            event.message = {"from": event.conn and event.conn.user, "text": event.message, "name": event.name}


@pytest.mark.parametrize("blocked", [False, True])
async def test_the_same_calls_work_over_both_carriers(browser: Browser, blocked: bool) -> None:
    gateway = Gateway(listener=Doors, channels=CHANNELS, test_page=False)
    async with (
        serve(gateway) as url,
        cutting_proxy(url, refuses_websockets=blocked) as proxy,
        tabs(browser, proxy, 1, token="sesame") as (page,),
    ):
        await page.evaluate("live.on('message', (message) => outcomes.push(message)); texts = []; 0")
        await page.evaluate("room = live.channel('room:\u00e9&1', { data: { a: 1 } }); 0")
        await page.evaluate("room.on('message', ({ from, text, name }) => texts.push(from + text + name)); 0")
        await page.evaluate("for (let i = 0; i < 20; i++) outcome(room.publish(i, { name: 'n' }))")
        await page.wait_for_function("texts.length === 20 && outcomes.length === 20")
        assert await page.evaluate("texts") == [f"ali{number}n" for number in range(20)]
        offsets = [at.partition(":")[2] for at in await page.evaluate("outcomes.splice(0)")]
        assert offsets == [str(number) for number in range(1, 21)]
        await page.evaluate("outcome(live.send('refuse me'))")
        await page.wait_for_function("outcomes.length === 1")
        await page.evaluate("outcome(live.channel('nonsense').publish(1))")
        await page.wait_for_function("outcomes.length === 2")
        assert (await page.evaluate("outcomes"))[0] == "as you wish"
        assert "nonsense" in (await page.evaluate("outcomes.splice(0)"))[1]

        (conn,) = gateway.connections
        assert conn.transport == ("stream" if blocked else "websocket")
        await conn.subscribe("room:mine")
        await gateway.publish("yours", channel="room:mine")
        await page.wait_for_function("outcomes.length === 1")
        await page.evaluate("room.unsubscribe()")
        await gateway.publish(1, channel="news")
        await page.wait_for_function("numbers.at(-1) === 1")
        with anyio.fail_after(20):
            while [sorted(conn.channels) for conn in gateway.connections] not in (
                [["news", "room:mine"]],
                [["news"]],
            ):
                await anyio.sleep(0.02)  # the stream is opened again
        await gateway.publish("not yours", channel="room:\u00e9&1")
        await gateway.publish(2, channel="news")
        await page.wait_for_function("numbers.at(-1) === 2")
        assert await page.evaluate("texts.length") == 20
        await page.evaluate("live.close()")
        assert await page.evaluate("states.at(-1)") == "closed"
        with anyio.fail_after(20):
            while len(gateway.connections):
                await anyio.sleep(0.02)  # the close arrives


async def test_a_wrong_token_ends_it(browser: Browser) -> None:
    gateway = Gateway(listener=Doors, channels=CHANNELS, test_page=False)
    async with serve(gateway) as url, await browser.new_context() as context:
        page = await context.new_page()
        await page.goto(url + "/health")
        await page.evaluate(JOIN, [50, "simsala"])
        await page.wait_for_function("states.at(-1) === 'closed'")


SECRET = "a secret of 32 bytes or more for the tests"


def token_of(seconds: float) -> str:
    return jwt.encode({"sub": "ali", "expire_at": time.time() + seconds}, SECRET)


@asynccontextmanager
async def renewing(browser: Browser, url: str, lifetimes: list[float]) -> AsyncIterator[tuple[Page, list[str]]]:
    """A tab whose tokens have these lifetimes, one after the other; the last one, those that follow, too.

    Yield it, and what the page has logged and requested.
    """
    async with await browser.new_context() as context:
        page = await context.new_page()
        page.set_default_timeout(20_000)
        lines: list[str] = []
        page.on("console", lambda message: lines.append(message.text))
        page.on("request", lambda request: lines.append(request.url))
        page.on("websocket", lambda socket: lines.append(socket.url))
        await page.goto(url + "/health")
        await page.expose_function("issue", lambda: token_of(lifetimes.pop(0) if len(lifetimes) > 1 else lifetimes[0]))
        await page.evaluate("window.asked = 0; window.token = async () => { asked++; return issue(); }; 0")
        await page.evaluate(JOIN.replace("token: () => options", "token"), [50, "a function"])
        yield page, lines
        await page.evaluate("live.close()")
    assert lines
    assert not any("ey" in line and line.count(".") >= 2 and "ey" in line.split("?", 1)[-1] for line in lines), lines


@pytest.mark.parametrize("blocked", [False, True])
async def test_a_connection_outlives_its_tokens(browser: Browser, blocked: bool) -> None:
    gateway = Gateway(token_secret=SECRET, channels=CHANNELS, test_page=False)
    async with (
        serve(gateway) as url,
        cutting_proxy(url, refuses_websockets=blocked) as proxy,
        renewing(browser, proxy.url, [2.0]) as (page, _),
    ):
        await page.wait_for_function("states.at(-1) === 'open'")
        first, states = await page.evaluate("asked"), await page.evaluate("states.length")
        for number in range(1, 4):
            await page.wait_for_function("(least) => asked >= least", arg=first + number)
            await gateway.publish(number, channel="news")
            await page.wait_for_function("(number) => numbers.at(-1) === number", arg=number)
        assert await page.evaluate("numbers") == [1, 2, 3]
        since = (await page.evaluate("states"))[states:]
        assert set(since) <= ({"connecting", "open"} if blocked else set())
        (connection,) = gateway.connections
        assert connection.user == "ali"
        assert connection.transport == ("stream" if blocked else "websocket")
        assert connection.expires_at is not None
        assert 0 < connection.expires_at - time.time() <= 2


@pytest.mark.parametrize("blocked", [False, True])
async def test_an_expired_token_is_replaced_by_another(browser: Browser, blocked: bool) -> None:
    gateway = Gateway(token_secret=SECRET, channels=CHANNELS, test_page=False)
    async with (
        serve(gateway) as url,
        cutting_proxy(url, refuses_websockets=blocked) as proxy,
        renewing(browser, proxy.url, [-60.0, -60.0, -60.0, 60.0]) as (page, _),
    ):
        await page.wait_for_function("recoveries.length === 1")
        assert await page.evaluate("asked") >= 4
        assert "closed" not in await page.evaluate("states")


async def test_a_connection_that_the_server_lets_expire_returns_with_a_new_token(browser: Browser) -> None:
    gateway = Gateway(token_secret=SECRET, channels=CHANNELS, test_page=False)
    async with serve(gateway) as url, renewing(browser, url, [60.0]) as (page, _):
        await page.wait_for_function("recoveries.length === 1")
        await gateway.disconnect(list(gateway.connections), code=3005)
        await page.wait_for_function("recoveries.length === 2")
        assert await page.evaluate("recoveries") == [False, True]
        assert await page.evaluate("asked") == 2
