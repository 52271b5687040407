"""The panel in a real browser, on a real server."""

import re
import time
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import anyio
import pytest
from axe_playwright_python.async_playwright import Axe
from axe_playwright_python.base import AxeResults
from playwright.async_api import Browser, BrowserContext, Locator, Page, expect

from tests.panels import admin
from tests.ports import free_port
from tests.servers import free_socket
from tools.screenshots import SCHEMES
from wsgateway.admin.passwords import write_password
from wsgateway.auth.admin import Access
from wsgateway.gateway.trend import STEP, Trend
from wsgateway.supervisor.supervisor import Supervisor
from wsgateway.testing import Client

LISTENER = """\
from pathlib import Path

class Listener:
    def on_client_open(self, event):
        event.conn.user = event.conn.query.get("name")

    def on_client_close(self, event):
        with Path({closed!r}).open("a") as file:
            file.write(f"{{event.conn.user}} {{event.code}}\\n")
"""


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(15_000)
    yield context
    await context.close()


@pytest.fixture
async def page(context: BrowserContext) -> Page:
    return await context.new_page()


def row(page: Page, gateway_id: str) -> Locator:
    return page.locator(f'tr[data-gateway="{gateway_id}"]')


def state(page: Page, gateway_id: str) -> Locator:
    return row(page, gateway_id).locator(".state")


async def act(page: Page, gateway_id: str, button: str) -> None:
    """Select one gateway in the list, and press a button."""
    await row(page, gateway_id).get_by_role("checkbox").check()
    await page.get_by_role("button", name=button, exact=True).click()


async def open_live(page: Page, url: str) -> None:
    await page.goto(url)
    await expect(page.locator("#link")).to_have_text("live")


async def test_a_gateway_lives_from_create_to_delete(page: Page, tmp_path: Path) -> None:
    closed, listener, first, second = tmp_path / "closed", tmp_path / "listener.py", free_port(), free_port()
    listener.write_text(LISTENER.format(closed=str(closed)))
    async with admin(tmp_path, f'[gateways]\n[admin]\nlisteners = ["{listener}:*"]\n') as (_, url):
        await open_live(page, url)
        await page.get_by_role("link", name="Create the first gateway").click()
        await expect(page.get_by_label("listener")).to_have_value("wsgateway.supervisor.starter:Listener")
        await page.get_by_label("id", exact=True).fill("game")
        await page.get_by_label("port", exact=True).fill(str(first))
        await page.get_by_label("listener").fill(f"{listener}:Listener")
        assert await page.locator("main input:not([type=hidden])").count() == 3
        await page.get_by_role("button", name="Create").click()
        await expect(page.locator("#state")).to_contain_text("running")
        assert (tmp_path / "wsgateway.toml").read_text().count("ping_interval") == 0  # what nobody changed

        async with Client(f"http://127.0.0.1:{first}", "/ws?name=Ann") as client:
            await expect(page.locator("[data-total=connections]")).to_have_text("1")
            await page.get_by_role("link", name="Connections", exact=True).click()
            await page.get_by_role("button", name="Close selected").click()
            await expect(page.get_by_role("alert")).to_have_text("Select the connections first.")
            await page.get_by_role("link", name="Ann /ws").click()
            await page.get_by_label("Message", exact=True).fill("hello from the panel")
            await page.get_by_role("button", name="Send as text").click()
            await expect(page.locator("#report")).to_have_text("Sent to 1 connection.")
            assert await client.receive() == "hello from the panel"
            await page.get_by_role("button", name="Close connection").click()
            await expect(page.locator("#count")).to_contain_text("1 connection will be closed")
            await page.get_by_role("button", name="Close connection").click()
            assert (await client.closed())[0] == 1000
            await expect(page.get_by_text("No connection is open.")).to_be_visible()

        async with Client(f"http://127.0.0.1:{first}", "/ws?name=Bob") as client:
            await expect(page.get_by_role("link", name="Bob /ws")).to_be_visible()
            await page.get_by_role("link", name="Overview").last.click()
            await expect(page.get_by_role("button", name="Start", exact=True)).to_have_count(0)
            await page.get_by_role("button", name="Stop").click()
            await expect(page.locator("#count")).to_contain_text("1 connection will be closed")
            await page.get_by_role("button", name="Stop").click()
            assert (await client.closed())[0] == 1012
            await expect(page.locator("#state")).to_contain_text("stopped")
            await expect(page.get_by_role("button", name="Stop")).to_have_count(0)
        assert closed.read_text().splitlines() == ["Ann 1000", "Bob 1012"]

        await page.get_by_role("link", name="Settings").click()
        await page.get_by_label("port", exact=True).fill(str(second))
        await page.get_by_role("button", name="Save").click()
        await expect(page.locator("#report")).to_have_text("The settings were saved.")
        await page.get_by_role("link", name="Overview").first.click()
        await act(page, "game", "Start")
        await expect(state(page, "game")).to_have_text("running")
        async with Client(f"http://127.0.0.1:{second}"):
            pass
        await act(page, "game", "Delete")
        await page.get_by_role("button", name="Delete").click()
        await expect(page.get_by_text("There is no gateway yet.")).to_be_visible()
        assert "game" not in (tmp_path / "wsgateway.toml").read_text()


async def test_two_panels_see_each_others_changes(context: BrowserContext, tmp_path: Path) -> None:
    one, other = await context.new_page(), await context.new_page()
    async with admin(tmp_path, "[gateways.chat]\nport = 0\n") as (_, url):
        await open_live(one, url)
        await open_live(other, url)
        await one.bring_to_front()  # a page behind another is drawn seldom, and clicks wait for that
        await act(one, "chat", "Stop")
        await one.get_by_role("button", name="Stop").click()
        await expect(state(other, "chat")).to_have_text("stopped")
        await other.bring_to_front()
        for button in ("Start", "Restart", "Restart"):
            await act(other, "chat", button)
            await expect(state(other, "chat")).to_have_text("running")
            await expect(state(one, "chat")).to_have_text("running")


async def test_what_is_selected_stays_selected_while_the_list_changes(page: Page, tmp_path: Path) -> None:
    async with admin(tmp_path, "[gateways.a]\nport = 0\n[gateways.b]\nport = 0\n") as (supervisor, url):
        await open_live(page, url)
        await row(page, "a").get_by_role("checkbox").check()
        await supervisor.stop("b")
        await expect(state(page, "b")).to_have_text("stopped")
        await expect(row(page, "a").get_by_role("checkbox")).to_be_checked()


async def test_a_taken_port_is_red_with_the_reason_and_green_once_it_is_free(page: Page, tmp_path: Path) -> None:
    with free_socket() as taken:
        port = taken.getsockname()[1]
        taken.listen()
        async with admin(tmp_path, f"[gateways.chat]\nport = {port}\n") as (_, url):
            await open_live(page, url)
            await expect(state(page, "chat")).to_have_text("failed")
            await expect(row(page, "chat")).to_contain_text("another server")
            taken.close()
            await act(page, "chat", "Start")
            await expect(state(page, "chat")).to_have_text("running")
            await expect(row(page, "chat")).not_to_contain_text("another server")


async def test_a_wrong_field_says_why_beside_it_and_at_the_top(page: Page, tmp_path: Path) -> None:
    async with admin(tmp_path, "[gateways.chat]\nport = 0\n") as (supervisor, url):
        await page.goto(f"{url}/gateways/chat/settings")
        await expect(page.get_by_label("ping_interval")).not_to_be_visible()
        await page.get_by_label("Search names and explanations").fill("seconds between pings")
        await expect(page.locator("#found")).to_have_text("1 setting")
        await page.get_by_label("ping_interval").fill("often")
        await page.get_by_label("Search names and explanations").fill("")
        await expect(page.get_by_label("ping_interval")).not_to_be_visible()
        await page.get_by_label("listener").fill("os:system")
        await page.get_by_role("button", name="Save").click()
        await expect(page.locator("#mistakes")).to_contain_text("1 mistake. Nothing was saved.")
        await expect(page.locator(".wrong")).to_contain_text(["'often' is not a number"])
        await page.locator("#mistakes").get_by_role("link", name="ping_interval").click()
        await page.get_by_label("ping_interval").fill("20")
        await expect(page.get_by_role("button", name="Save")).to_be_in_viewport()
        await page.get_by_role("button", name="Save").click()
        await expect(page.locator(".wrong")).to_contain_text(["may not be named here; add it to listeners"])
        await page.get_by_label("listener").fill("")
        await page.get_by_role("button", name="Save").click()
        await expect(page.locator("#report")).to_have_text("The settings were saved.")
        await expect(page.locator("summary", has_text="Slow and silent clients")).to_contain_text("1 changed")
        assert supervisor.find("chat").settings.ping_interval == 20


async def test_log_in_wrong_password_log_out_and_read_only(page: Page, tmp_path: Path) -> None:
    for password, access in (("may do all", Access.FULL), ("may only look", Access.READ)):
        write_password(tmp_path / "wsgateway.password", password, access)
    async with admin(tmp_path, "[gateways.chat]\nport = 0\n") as (_, url):
        for password, seen in (("wrong one", False), ("may do all", True), ("may only look", False)):
            await page.goto(url)
            await page.get_by_label("Password").fill(password)
            await page.get_by_role("button", name="Log in").click()
            if password == "wrong one":
                await expect(page.get_by_role("alert")).to_have_text("Wrong password.")
                continue
            await expect(page.locator("#link")).to_have_text("live")
            await expect(page.get_by_role("button", name="Stop")).to_have_count(int(seen))
            await page.get_by_role("button", name="Log out").click()
            await expect(page.get_by_role("heading", name="Log in")).to_be_visible()


async def test_why_did_ann_not_get_it(page: Page, tmp_path: Path) -> None:
    listener = tmp_path / "listener.py"
    listener.write_text(LISTENER.format(closed=str(tmp_path / "closed")))
    text = (
        f'[gateways.chat]\nport = 0\nlistener = "{listener}:Listener"\n[gateways.chat.channels.news]\npublic = true\n'
    )
    async with admin(tmp_path, text) as (supervisor, url):
        found = supervisor.find("chat")
        async with Client(found.url, "/ws?name=Ann&channel=news") as ann, Client(found.url, "/ws?name=Bob"):
            await open_live(page, f"{url}/gateways/chat/connections")
            await page.get_by_role("searchbox").press_sequentially("ann")
            await expect(page.locator("#shown")).to_have_text("1 to 1 of 1")
            await page.get_by_role("link", name="Ann /ws").click()
            entries = page.locator("#events li")
            await expect(entries.last).to_contain_text("Opened")
            for number in range(11):
                await found.gateway.send(f"for Ann {number}")
                await ann.receive()
            await expect(entries.first).to_contain_text("11 messages out")
            await expect(entries.first).to_contain_text("100 B")
            await ann.send("hello")
            await expect(entries.first).to_contain_text("1 message in, 11 messages out")
            await expect(entries).to_have_count(2)
            await expect(page.locator("[data-own=in]")).to_have_text("1")
            await expect(page.get_by_role("link", name="news")).to_be_visible()
        await expect(page.locator("#open")).to_have_text("closed")
        await expect(page.locator("#events")).to_contain_text("Closed")
        await expect(page.get_by_role("button", name="Close connection")).to_have_count(0)


async def test_a_message_goes_to_the_selected_only_without_scripts(browser: Browser, tmp_path: Path) -> None:
    context = await browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 800})
    page = await context.new_page()
    async with admin(tmp_path, "[gateways.chat]\nport = 0\n") as (supervisor, url):
        found = supervisor.find("chat")
        async with Client(found.url, "/ws/a") as one, Client(found.url, "/ws/b") as other:
            await page.goto(f"{url}/gateways/chat/connections")
            await page.get_by_role("button", name="Send to selected").click()
            await expect(page.get_by_role("alert")).to_have_text("Select the connections first.")
            await page.goto(f"{url}/gateways/chat/connections?search=/ws/a")
            await page.get_by_role("checkbox").check()
            await page.get_by_role("button", name="Send to selected").click()
            await page.get_by_label("Message", exact=True).fill('{"n": 1')
            await page.get_by_role("button", name="Send as JSON").click()
            await expect(page.get_by_role("alert")).to_contain_text("is not JSON")
            await page.get_by_label("Message", exact=True).fill('{"n": 1}')
            await page.get_by_role("button", name="Send as JSON").click()
            await expect(page.locator("#report")).to_have_text("Sent to 1 connection.")
            assert await one.receive() == '{"n":1}'
            await found.gateway.send("for both")
            assert await other.receive() == "for both"
    await context.close()


async def test_the_log_follows(page: Page, tmp_path: Path) -> None:
    text = f'log_file = "{tmp_path}/WebSocket.log"\n[gateways.chat]\nport = 0\n[gateways.game]\nport = 0\n'
    async with admin(tmp_path, text) as (supervisor, url):
        await open_live(page, f"{url}/log?gateway=chat&level=INFO")
        await supervisor.stop("chat")
        await expect(page.locator("#log")).to_contain_text("[chat] stopped on")
        await expect(page.locator("#log")).not_to_contain_text("[game]")


async def visit_all(page: Page, supervisor: Supervisor, url: str) -> AsyncIterator[str]:
    """Every page in turn, loaded and live."""
    conn = next(iter(supervisor.find("chat").gateway.connections))
    one = "/gateways/chat"
    for name, path in {
        "overview": "/",
        "gateway": one,
        "failed gateway": "/gateways/failed",
        "connections": f"{one}/connections",
        "connection": f"{one}/connections/{conn.id}",
        "channels": f"{one}/channels",
        "channel": f"{one}/channel?name=news",
        "send": f"{one}/send",
        "settings": f"{one}/settings",
        "log of a gateway": f"{one}/log",
        "new": "/new",
        "log": "/log",
    }.items():
        await open_live(page, url + path)
        yield name
    await page.goto(f"{url}{one}")
    await page.get_by_role("button", name="Stop").click()
    yield "confirmation"
    await page.goto(f"{url}/gateways/none")
    yield "message"
    await page.get_by_role("button", name="Log out").click()
    yield "login"


EVERY_RULE: dict[str, object] = {"resultTypes": ["violations"]}
RULES_OF_LOOKS = {**EVERY_RULE, "runOnly": ["color-contrast", "scrollable-region-focusable", "target-size"]}
"""What depends on the scheme and the width."""

BROKEN_WORDS = """() => {
  const broken = [];
  const texts = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode, range = document.createRange();
    if (text.parentElement.closest("thead, .unseen")) continue;
    range.selectNodeContents(text);
    const lines = new Set(Array.from(range.getClientRects(), ({ top }) => top)).size;
    if (lines > 2 && text.data.trim().length < 6 * lines) broken.push(text.data.trim());
  }
  return broken;
}"""
"""Returns the texts of which a line has fewer than six letters."""


async def test_every_page_is_accessible_and_fits_at_both_widths_and_in_both_schemes(
    browser: Browser, tmp_path: Path
) -> None:
    complaints: list[str] = []
    context = await browser.new_context(reduced_motion="reduce")  # a color on its way to another one has no contrast
    await context.add_init_script(Axe().axe_script)
    page = await context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    listener = tmp_path / "listener.py"
    listener.write_text(LISTENER.format(closed=str(tmp_path / "closed")))
    write_password(tmp_path / "wsgateway.password", "correct horse", Access.FULL)
    text = (
        f'log_file = "{tmp_path}/WebSocket.log"\n[gateways.chat]\nport = 0\nlistener = "{listener}:Listener"\n'
        f'[gateways.chat.channels.news]\npublic = true\n[gateways.{"x" * 64}]\nstartup = "manual"\n'
        '[gateways.failed]\nport = 0\nlistener = "nowhere:Listener"\n'
    )
    path = f"/ws/{'kitchen' * 20}?name={'Ann' * 40}&channel=news"
    async with admin(tmp_path, text) as (supervisor, url), Client(supervisor.find("chat").url, path):
        await page.goto(url)
        await page.get_by_label("Password").fill("correct horse")
        await page.get_by_role("button", name="Log in").click()
        async for name in visit_all(page, supervisor, url):
            options = EVERY_RULE
            for width in (390, 1280):
                await page.set_viewport_size({"width": width, "height": 800})
                assert await page.evaluate("document.documentElement.scrollWidth") <= width, name
                assert await page.evaluate(BROKEN_WORDS) == [], name
                for scheme in SCHEMES:
                    await page.emulate_media(color_scheme=scheme)
                    found = AxeResults(await page.evaluate("options => axe.run(options)", options))
                    serious = [
                        rule for rule in found.response["violations"] if rule["impact"] in ("serious", "critical")
                    ]
                    assert serious == [], f"{name}, {width}, {scheme}: {found.generate_report()}"
                    options = RULES_OF_LOOKS
        assert [text for text in complaints if "404" not in text] == []
    await context.close()


async def test_a_gateway_is_stopped_with_the_keyboard_alone(page: Page, tmp_path: Path) -> None:
    async with admin(tmp_path, "[gateways.chat]\nport = 0\n") as (supervisor, url):
        await open_live(page, url)
        for wanted in ("Select chat", "Stop"):
            for _ in range(20):
                await page.keyboard.press("Tab")
                name = await page.evaluate(
                    "document.activeElement.ariaLabel || document.activeElement.textContent.trim()"
                )
                if name == wanted:
                    break
            assert name == wanted
            await page.keyboard.press("Space")
        await expect(page.locator("#count")).to_be_visible()
        await page.get_by_role("button", name="Stop").press("Enter")
        await expect(state(page, "chat")).to_have_text("stopped")
        assert supervisor.state("chat") == "stopped"


async def test_without_scripts_the_pages_work_too(browser: Browser, tmp_path: Path) -> None:
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    async with admin(tmp_path, "[gateways.chat]\nport = 0\n") as (supervisor, url):
        await page.goto(url)
        await act(page, "chat", "Stop")
        await page.get_by_role("button", name="Stop").click()
        with anyio.fail_after(10):
            while supervisor.state("chat") != "stopped":
                await supervisor.changed(1)
        await page.goto(url)
        await expect(state(page, "chat")).to_have_text("stopped")
    await context.close()


async def test_a_chart_shows_the_past_with_values_under_the_pointer_and_for_the_keyboard(
    browser: Browser, tmp_path: Path
) -> None:
    context = await browser.new_context(
        timezone_id="Asia/Kolkata", locale="en-US", viewport={"width": 1280, "height": 800}
    )
    page = await context.new_page()
    async with admin(tmp_path, "[gateways.chat]\nport = 0\n") as (supervisor, url):
        counts = {"connections": 7.0, "in": 0.0, "out": 0.0, "dropped": 0.0, "hooks": 0.0, "hook_seconds": 0.0}
        past, now = Trend(), time.time() // STEP * STEP
        for step in range(301):
            counts["out"] += 42 * STEP
            past.add(now - (300 - step) * STEP, counts)
        supervisor.find("chat").gateway.trend.continue_from(past)
        await page.goto(url)
        chart = page.locator("figure.chart:visible")
        await expect(chart.locator("svg")).to_have_attribute(
            "aria-label", re.compile("Messages per second, last 50 minutes")
        )
        labels = await chart.locator("text").all_text_contents()
        zone = timezone(timedelta(hours=5.5))
        shown = [datetime.fromtimestamp(now - minutes * 60, zone).strftime("%H:%M") for minutes in range(51)]
        assert len([label for label in labels if label in shown and label.endswith(("0", "5"))]) > 3
        assert not [label for label in labels if re.fullmatch(r"20\d\d", label)]  # years

        box = await chart.locator("svg").bounding_box()
        assert box
        await page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        await expect(chart.locator("output")).to_have_text(re.compile(r"^in 0out 42\d\d:\d\d:\d0$"))
        await page.mouse.move(0, 0)
        await chart.locator("svg").press("Home")
        first = datetime.fromtimestamp(now - 299 * STEP, zone).strftime("%H:%M:%S")
        await expect(chart.locator("output")).to_have_text(f"in 0out 42{first}")
        await page.get_by_text("Connections", exact=True).nth(1).click()
        await expect(chart.locator("output")).to_contain_text("open ")
        await page.get_by_text("Dropped", exact=True).nth(1).click()
        await expect(chart.locator("text.nothing")).to_have_text("No message was dropped in this period.")
        await page.get_by_role("button", name="5 min", exact=True).click()
        await expect(chart.locator("svg")).to_have_attribute("aria-label", re.compile("last 5 minutes"))
    await context.close()


async def test_an_action_that_does_nothing_for_the_selected_is_not_offered(page: Page, tmp_path: Path) -> None:
    text = '[gateways.on]\nport = 0\n[gateways.off]\nport = 0\nstartup = "manual"\n'
    async with admin(tmp_path, text) as (_, url):
        await open_live(page, url)
        await row(page, "off").get_by_role("checkbox").check()
        await expect(page.get_by_role("button", name="Start", exact=True)).to_be_enabled()
        await expect(page.get_by_role("button", name="Stop")).to_be_disabled()
        await row(page, "on").get_by_role("checkbox").check()
        await expect(page.get_by_role("button", name="Stop")).to_be_enabled()
        await act(page, "off", "Start")
        await expect(state(page, "off")).to_have_text("running")
        await expect(page.get_by_role("button", name="Start", exact=True)).to_have_count(0)


async def test_a_sample_is_copied(context: BrowserContext, tmp_path: Path) -> None:
    async with admin(tmp_path, "[gateways.chat]\nport = 0\n") as (supervisor, url):
        await context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
        page = await context.new_page()
        await page.goto(url)
        await page.get_by_text("curl", exact=True).click()
        await page.get_by_role("button", name="Copy", exact=True).last.click()
        await expect(page.get_by_role("button", name="Copied")).to_be_visible()
        copied = await page.evaluate("navigator.clipboard.readText()")
        assert copied.startswith("curl ")
        assert copied.endswith(f"{supervisor.find('chat').url}/send")
