"""`reconnect.js` of the examples in a real browser: pages reconnect by themselves, unless the close says not to."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from playwright.async_api import Browser, Page, expect

from tests.ports import free_port
from tests.test_examples import EXAMPLES, example, join, tabs, write
from wsgateway import Event, Gateway
from wsgateway.testing import serve

BACK, AWAY, LATER = '{"reconnect":true}', '{"reconnect":false}', '{"retry_after_ms":60000}'
FAILS = "seen = []; Math.random = () => 0.5; live = connect('ws%s', {status: (...told) => seen.push(told)}, {base: 2})"
STAYS = [(3500, ""), (3999, "x"), (4500, ""), (4999, ""), (1012, AWAY), (1009, ""), (1012, LATER)]


class Closing:
    async def on_client_open(self, event: Event) -> None:
        if event.conn and event.conn.query:
            await event.conn.close(int(event.conn.query["code"]), event.conn.query["reason"])


async def test_both_tabs_come_back_after_a_restart(browser: Browser) -> None:
    port = free_port()
    async with AsyncExitStack() as stack:
        async with example("simple_chat", port) as url:
            ann, bob = await stack.enter_async_context(tabs(browser, url))
            await join(ann, "Ann")
            await join(bob, "Bob")
        for page in (ann, bob):
            await expect(page.get_by_role("status")).to_contain_text("connection lost")
        async with example("simple_chat", port):
            for page, other in ((ann, bob), (bob, ann)):
                await expect(page.get_by_role("status")).to_have_text("connected, 2 online", timeout=30_000)
                await write(page, "again")
                await expect(other.get_by_label("Messages")).to_contain_text(": again")


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (3499, "null"), (4000, "[]"), (4499, "x"), (3500, BACK)])
async def test_it_comes_back_later_each_time(browser: Browser, code: int, reason: str) -> None:
    async with serve(Gateway(listener=Closing)) as url, tabs(browser, url + "/health", 1) as (page,):
        await page.add_script_tag(path=EXAMPLES / "reconnect.js")
        await page.evaluate(FAILS % f"?code={code}&reason={reason}")
        told = [told for ms in (1, 2, 4) for told in (["connecting"], ["open"], ["waiting", ms])]
        assert await (await page.wait_for_function("seen.length >= 9 && seen.slice(0, 9)")).json_value() == told


@pytest.mark.parametrize(("code", "reason"), STAYS)
async def test_it_does_not_reconnect_while_the_close_reason_says_so(browser: Browser, code: int, reason: str) -> None:
    gateway = Gateway(listener=Closing, max_message_size=10)
    async with serve(gateway) as url, tabs(browser, url + "/health", 1) as (page,):
        await page.clock.install()
        await page.add_script_tag(path=EXAMPLES / "reconnect.js")
        await page.evaluate(FAILS % ("" if code == 1009 else f"?code={code}&reason={reason}"))
        await page.wait_for_function("seen.length >= 2")
        if code == 1009:  # once: what a client goes on sending may cost it the close frame
            assert await page.evaluate("live.send('more than 10 bytes')")
        await page.wait_for_function("seen.length >= 3")
        await page.clock.run_for(55_000)
        assert await page.evaluate("seen.length === 3 && seen[2][0]") == ("waiting" if reason == LATER else "closed")
        await page.clock.run_for(3_600_000)
        assert await page.evaluate("seen.length > 3") == (reason == LATER)


PLAYED = """() => {
  delays = []; sockets = []; Math.random = () => 0.5;
  WebSocket = class { constructor() { sockets.push(this); } close() {} };
  live = connect("http://gateway.test/ws", { status: (state, ms) => state === "waiting" && delays.push(ms) });
}"""
CLOSED = "(reason) => sockets.at(-1).onclose({ code: 1012, reason })"


@asynccontextmanager
async def played(browser: Browser) -> AsyncIterator[Page]:
    """A page without a network: the test says when a socket opens and closes, and what time it is."""
    async with await browser.new_context() as context:
        page = await context.new_page()
        await page.clock.install(time=0)
        await page.clock.pause_at(1000)
        await page.add_script_tag(path=EXAMPLES / "reconnect.js")
        await page.evaluate(PLAYED)
        yield page


async def test_the_wait_is_capped_and_begins_anew_after_a_stable_connection(browser: Browser) -> None:
    async with played(browser) as page:
        for _ in range(8):
            await page.evaluate(CLOSED, "")
            await page.clock.run_for(20_000)
        await page.evaluate("sockets.at(-1).onopen()")
        await page.clock.run_for(4_900)  # not yet stable
        await page.evaluate(CLOSED, "")
        await page.clock.run_for(20_000)
        await page.evaluate("sockets.at(-1).onopen()")
        await page.clock.run_for(5_100)
        await page.evaluate(CLOSED, "")
        assert await page.evaluate("delays") == [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000, 10_000, 250]


async def test_a_wait_too_long_for_a_timer_is_not_a_wait_of_nothing(browser: Browser) -> None:
    async with played(browser) as page:
        await page.evaluate(CLOSED, '{"retry_after_ms": 1e12}')
        assert await page.evaluate("delays") == [2**31 - 1]


async def test_it_stays_closed_when_the_page_closes_it_while_it_waits(browser: Browser) -> None:
    async with played(browser) as page:
        await page.evaluate(CLOSED, "")
        await page.evaluate("live.close()")
        await page.clock.run_for(60_000)
        assert await page.evaluate("sockets.length") == 1
