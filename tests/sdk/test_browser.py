"""The SDK for JavaScript in a real browser: a gateway that restarts or rolls, networks that block, and TLS."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, Page

from tests.cutting import cutting_proxy
from tests.ports import free_port
from tests.processes import run, serving
from tests.sdk.servers import HERE, MODULES, node, options
from tests.servers import OwnServerTls
from tests.services import redis
from wsgateway import Gateway
from wsgateway.testing import serve

CARRIERS = ("websocket", "http_stream", "sse")
CHANNEL = "test_browser"
PACKAGES = ("centrifuge", "centrifuge-oldest")

JOIN = """([base, carriers]) => {
  window.numbers = []; window.recoveries = []; window.joined = []; window.codes = [];
  const endpoint = (carrier) =>
    (carrier === "websocket" ? base.replace("http", "ws") : base) + "/connection/" + carrier;
  const transports = carriers.map((transport) => ({ transport, endpoint: endpoint(transport) }));
  window.client = new Centrifuge(transports, {
    emulationEndpoint: base + "/emulation", minReconnectDelay: 50, maxReconnectDelay: 500,
  });
  client.on("connected", ({ transport }) => joined.push(transport));
  client.on("connecting", ({ code }) => codes.push(code));
  client.on("disconnected", ({ code }) => codes.push(code));
  window.room = client.newSubscription("test_browser");
  room.on("subscribed", ({ wasRecovering, recovered }) => recoveries.push([wasRecovering, recovered]));
  room.on("publication", ({ data }) => numbers.push(data));
  room.subscribe();
  client.connect();
}"""


def script_of(package: str) -> Path:
    """The SDK as a browser loads it."""
    node()
    return Path(MODULES, package, "dist", "centrifuge.js")


@pytest.fixture(params=PACKAGES)
def script(request: pytest.FixtureRequest) -> Path:
    return script_of(request.param)


@asynccontextmanager
async def page_with(
    browser: Browser, url: str, script: Path, carriers: Sequence[str], *, blocked: Sequence[str] = (), origin: str = ""
) -> AsyncIterator[Page]:
    """A page that is subscribed over one of the carriers. It comes from the gateway, unless `origin` is given."""
    problems: list[str] = []
    async with await browser.new_context(ignore_https_errors=True) as context:
        page = await context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        for path in blocked:
            await page.route(f"**/connection/{path}*", lambda route: route.abort())
        await page.goto((origin or url) + "/health")
        await page.add_script_tag(path=script)
        await page.evaluate(JOIN, [url, list(carriers)])
        await page.wait_for_function("recoveries.length === 1")
        yield page
        await page.evaluate("client.disconnect()")
    assert problems == []


async def has_received(page: Page, numbers: Sequence[int]) -> None:
    await page.wait_for_function("(last) => numbers.at(-1) === last", arg=numbers[-1])
    assert await page.evaluate("numbers") == list(numbers)


async def publish(gateway: Gateway, numbers: Sequence[int]) -> None:
    for number in numbers:
        await gateway.publish(number, channel=CHANNEL)


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_over_a_restart_nothing_is_missed(browser: Browser, script: Path, carrier: str) -> None:
    """The history is in Redis, so it outlives the gateway."""
    with redis() as service:
        settings = {**options("javascript"), "broker": service.url, "drain": 5.0}
        async with AsyncExitStack() as stack:
            first = Gateway(**settings)
            async with serve(first) as url:
                proxy = await stack.enter_async_context(cutting_proxy(url))
                page = await stack.enter_async_context(page_with(browser, proxy.url, script, [carrier]))
                await publish(first, range(1, 4))
                await has_received(page, range(1, 4))
            second = Gateway(**settings)
            async with serve(second) as proxy.upstream:
                await publish(second, range(4, 7))
                await page.wait_for_function("recoveries.length >= 2")
                await publish(second, range(7, 10))
                await has_received(page, range(1, 10))
            assert await page.evaluate("recoveries[1]") == [True, True]


async def test_a_history_that_is_gone_is_reported(browser: Browser, script: Path) -> None:
    async with AsyncExitStack() as stack:
        first = Gateway(**options("javascript"))
        async with serve(first) as url:
            proxy = await stack.enter_async_context(cutting_proxy(url))
            page = await stack.enter_async_context(page_with(browser, proxy.url, script, ["websocket"]))
            await publish(first, range(1, 4))
            await has_received(page, range(1, 4))
        second = Gateway(**options("javascript"))
        async with serve(second) as proxy.upstream:
            await page.wait_for_function("recoveries.length === 2")
            assert await page.evaluate("recoveries[1]") == [True, False]
            await publish(second, range(4, 7))
            await has_received(page, range(1, 7))


async def test_over_a_roll_nothing_is_missed(browser: Browser, tmp_path: Path) -> None:
    """Both versions of the SDK, over each carrier, in one roll."""
    admin = f"http://127.0.0.1:{(port := free_port())}"
    config = ("--config", str(HERE / "javascript.toml"), "--workers", "2", "--admin-port", str(port))
    headers = {"x-api-key": "test-api-key"}
    async with AsyncExitStack() as stack:
        served = stack.enter_context(serving(*config, cwd=tmp_path))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=served.url, headers=headers))
        pages = {
            (package, carrier): await stack.enter_async_context(
                page_with(browser, served.url, script_of(package), [carrier])
            )
            for package in PACKAGES
            for carrier in CARRIERS
        }
        roll = asyncio.create_task(asyncio.to_thread(run, "roll", "default", "--admin-url", admin, cwd=tmp_path))
        number = 0
        while not roll.done() or number < 20:
            number += 1
            answer = await http.post("/send", json={"message": number, "channel": CHANNEL})
            assert answer.status_code == 200, answer.text
            await asyncio.sleep(0.05)  # the rate is what is tested
        assert roll.result().returncode == 0
        for page in pages.values():
            await has_received(page, range(1, number + 1))
            recoveries = await page.evaluate("recoveries")
            assert len(recoveries) >= 2
            assert recoveries[1:] == [[True, True]] * (len(recoveries) - 1)
        for name, page in pages.items():
            codes = set(await page.evaluate("codes"))
            # 5.5 may handle the end of an HTTP stream before what arrived with it, and then reports a lost transport
            lost = {1} if name == ("centrifuge-oldest", "http_stream") else set[int]()
            assert codes <= {0, 3001} | lost
            assert codes > {0}


@pytest.mark.parametrize(("blocked", "carrier"), [((), "http_stream"), (("http_stream",), "sse")])
async def test_where_websockets_are_blocked_it_takes_a_stream(
    browser: Browser, script: Path, blocked: Sequence[str], carrier: str
) -> None:
    gateway = Gateway(**options("javascript"))
    async with (
        serve(gateway) as url,
        cutting_proxy(url, refuses_websockets=True) as proxy,
        page_with(browser, proxy.url, script, CARRIERS, blocked=blocked) as page,
    ):
        assert proxy.refused >= 1
        assert await page.evaluate("joined") == [carrier]
        await publish(gateway, range(1, 4))
        await page.evaluate("room.publish(4).then(() => room.publish(5))")
        await has_received(page, range(1, 6))
        proxy.cut()
        await publish(gateway, range(6, 9))
        proxy.mend()
        await has_received(page, range(1, 9))
        assert await page.evaluate("recoveries") == [[False, False], [True, True]]
        assert await page.evaluate("joined") == [carrier, carrier]


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_over_tls(browser: Browser, script: Path, carrier: str) -> None:
    gateway = Gateway(**options("javascript"))
    async with OwnServerTls()(gateway) as url, page_with(browser, url, script, [carrier]) as page:
        assert await page.evaluate("joined") == [carrier]
        await publish(gateway, range(1, 4))
        await page.evaluate("room.publish(4)")
        await has_received(page, range(1, 5))


@pytest.mark.parametrize("carrier", CARRIERS)
async def test_from_another_origin(browser: Browser, script: Path, carrier: str) -> None:
    """The SDK sends JSON, so the browser sends `OPTIONS` before each POST."""
    async with serve(Gateway(id="page", test_page=False)) as origin:
        gateway = Gateway(**options("javascript"), allowed_origins=[origin])
        async with serve(gateway) as url, page_with(browser, url, script, [carrier], origin=origin) as page:
            assert await page.evaluate("joined") == [carrier]
            await publish(gateway, range(1, 4))
            await page.evaluate("room.publish(4)")
            await has_received(page, range(1, 5))
