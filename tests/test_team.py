"""The application of the tutorial, started as its README does, in four browsers, one of which loses its network."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest
from playwright.async_api import Browser, Page, expect

from tests.cable import cable
from tests.ports import free_port
from tests.test_examples import EVIL, EXAMPLES, check_page, example
from wsgateway.testing import Client

FOLDER = EXAMPLES / "team"


@pytest.fixture(scope="module")
async def port() -> AsyncIterator[int]:
    """The port of the example, which the tests of this module share."""
    async with example("team", port := free_port()):
        yield port


@asynccontextmanager
async def device(browser: Browser, url: str) -> AsyncIterator[Page]:
    """A browser of its own, as narrow as a phone. No script may fail, and none of a message may run."""
    async with await browser.new_context(viewport={"width": 390, "height": 844}) as context:
        page = await context.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        await page.goto(url)
        yield page
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390
        assert problems == []


async def log_in(page: Page, user: str, password: str) -> None:
    await page.get_by_label("Name").fill(user)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Log in").click()


async def write(page: Page, text: str) -> None:
    await page.get_by_label("Message", exact=True).fill(text)
    await page.get_by_label("Message", exact=True).press("Enter")


async def shows(page: Page, *texts: str) -> None:
    await expect(page.get_by_label("Messages").locator("p")).to_have_text(list(texts))


WATCH = """() => {
  const typing = document.getElementById("typing");
  window.typed = new Promise((resolve) => {
    const changed = () => { if (typing.textContent) resolve(typing.textContent); };
    new MutationObserver(changed).observe(typing, { childList: true });
  });
}"""


async def assert_typing(page: Page, writer: Page, name: str) -> None:
    """Assert that `page` shows `name`, be it for a moment, when `writer` begins to type."""
    await page.evaluate(WATCH)
    await writer.get_by_label("Message", exact=True).press_sequentially("h")
    with anyio.fail_after(20):
        assert await page.evaluate("window.typed") == name


async def test_two_users_on_three_devices_lose_nothing(browser: Browser, port: int) -> None:
    url = f"http://127.0.0.1:{port}/"
    async with (
        cable(port) as network,
        device(browser, url) as tablet,
        device(browser, network.url) as phone,
        device(browser, url) as bob,
    ):
        await log_in(tablet, "ann", "wonderland")
        await log_in(phone, "ann", "wonderland")
        await log_in(bob, "bob", "builder")
        for page in (tablet, phone, bob):
            await expect(page.locator("#members")).to_have_text("ann, bob")
            await expect(page.locator("#orders")).to_have_text(re.compile(r"^\d+$"))
        await assert_typing(phone, bob, "bob")
        await write(bob, "hi")
        await write(tablet, EVIL)
        for page in (tablet, phone, bob):
            await shows(page, "hi", EVIL)
            await expect(page.locator("#typing")).to_be_empty()
        await expect(phone.locator("li.own")).to_have_text([re.compile(r"^ann \d\d:\d\d " + re.escape(EVIL))])

        await network.cut()
        await expect(phone.locator("#status")).to_contain_text("connection lost")
        await write(bob, "missed")
        await tablet.get_by_role("button", name="Order a report").click()
        await expect(tablet.get_by_label("Notes")).to_have_text("Your report is ready")
        await shows(tablet, "hi", EVIL, "missed")
        await shows(phone, "hi", EVIL)
        await expect(phone.get_by_label("Notes")).to_be_empty()
        await network.repair()
        await expect(phone.locator("#status")).to_have_text("connected", timeout=30_000)
        await shows(phone, "hi", EVIL, "missed")
        await expect(phone.get_by_label("Notes")).to_have_text("Your report is ready")
        await expect(bob.get_by_label("Notes")).to_be_empty()

        await bob.reload()  # what was typed is not in the history
        await shows(bob, "hi", EVIL, "missed")
        await expect(bob.locator("li.own p")).to_have_text(["hi", "missed"])
        await expect(bob.locator("#typing")).to_be_empty()


async def test_a_visitor_needs_the_password_and_a_room_its_members(browser: Browser, port: int) -> None:
    url = f"http://127.0.0.1:{port}/"
    async with device(browser, url) as eve:
        await expect(eve.get_by_role("button", name="Log in")).to_be_visible()  # the gateway has refused the visitor
        await log_in(eve, "eve", "wrong")
        await expect(eve.get_by_role("alert")).to_have_text("Wrong name or password")
        async with Client(url, "live/ws") as visitor:
            assert await visitor.closed() == (3500, "log in first")
        async with httpx.AsyncClient(base_url=url) as http:
            assert (await http.post("reports")).status_code == 401
        await check_page(eve)
        await log_in(eve, "eve", "apple")
        await shows(eve, "eve is not a member of room:tea")
        await expect(eve.locator("#members")).to_be_hidden()
        await eve.get_by_role("link", name="chess").click()
        await expect(eve.locator("#members")).to_have_text("eve")
        await expect(eve.locator("nav [aria-current]")).to_have_text("chess")
        await check_page(eve)


def test_it_is_as_short_as_its_readme_says() -> None:
    script = (
        (FOLDER / "static" / "index.html").read_text().partition('<script type="module">')[2].partition("</script>")[0]
    )
    for code, most in (((FOLDER / "app.py").read_text(), 60), (script, 30)):
        lines = [line for line in code.splitlines() if line.strip()]
        assert len(lines) <= most
        assert max(map(len, lines)) <= 120
