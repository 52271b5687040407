"""The panel in a real browser, on a real server."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Locator, Page, expect

from tests.panels import admin
from tests.ports import free_port
from tests.servers import free_socket
from wsgateway.admin.passwords import write_password
from wsgateway.auth.admin import Access
from wsgateway.supervisor.supervisor import Supervisor
from wsgateway.testing import Client

SCREENSHOTS = Path(__file__).parent.parent.parent / "docs" / "panel"

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
        await page.get_by_role("link", name="New gateway").click()
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
        await page.get_by_role("link", name="Gateways").click()
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
                await expect(page.get_by_role("alert")).to_have_text("This is not the password.")
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
        "gateways": "/",
        "gateway": one,
        "connections": f"{one}/connections",
        "connection": f"{one}/connections/{conn.id}",
        "channels": f"{one}/channels",
        "channel": f"{one}/channel?name=news",
        "send": f"{one}/send",
        "edit": f"{one}/settings",
        "log of a gateway": f"{one}/log",
        "new": "/new",
        "log": "/log",
    }.items():
        await open_live(page, url + path)
        yield name


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_serious_and_the_console_stays_empty(
    browser: Browser, tmp_path: Path, scheme: str
) -> None:
    complaints: list[str] = []
    context = await browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]  # a literal of two
    page = await context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    text = f'log_file = "{tmp_path}/WebSocket.log"\n[gateways.chat]\nport = 0\n[gateways.off]\nstartup = "manual"\n'
    async with admin(tmp_path, text) as (supervisor, url), Client(supervisor.find("chat").url):
        async for name in visit_all(page, supervisor, url):
            found = await Axe().run(page)
            serious = [rule["id"] for rule in found.response["violations"] if rule["impact"] in ("serious", "critical")]
            assert serious == [], f"{name}: {found.generate_report()}"
        assert complaints == []
    await context.close()


async def test_no_page_is_wider_than_a_telephone(browser: Browser, tmp_path: Path) -> None:
    context = await browser.new_context(viewport={"width": 360, "height": 640})
    page = await context.new_page()
    async with admin(tmp_path, "[gateways.chat]\nport = 0\n") as (supervisor, url):
        async with Client(supervisor.find("chat").url):
            async for name in visit_all(page, supervisor, url):
                width = await page.evaluate("document.documentElement.scrollWidth")
                assert width <= 360, f"{name} is {width} wide"
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


async def test_screenshots_for_the_documentation(page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `WRITE_README=1` they are written to docs/panel; every page has to be there in any case."""
    monkeypatch.chdir(tmp_path)
    Path("listener.py").write_text(LISTENER.format(closed="closed"))
    text = (
        'log_file = "WebSocket.log"\n[gateways.chat]\nport = 0\nlistener = "listener.py:Listener"\n'
        '[gateways.prices]\nport = 0\n[gateways.game]\nstartup = "manual"\nport = 10127\n'
    )
    folder, ticks = (SCREENSHOTS, 15) if os.environ.get("WRITE_README") else (tmp_path, 1)
    async with admin(tmp_path, text) as (supervisor, url):
        found = supervisor.find("chat")
        async with Client(found.url, "/ws?name=Ann") as ann, Client(found.url, "/ws/kitchen?name=Bob") as bob:
            async for name in visit_all(page, supervisor, url):
                for number in range(ticks if name in ("gateways", "gateway", "connection") else 1):
                    await ann.send("x" * (number * 7))
                    for client in (ann, bob):
                        await client.receive()
                    before = await page.evaluate("before.now")
                    await page.wait_for_function("last => before.now > last", arg=before)
                await page.screenshot(path=folder / f"{name}.png", full_page=name == "gateway")
    assert {path.stem for path in SCREENSHOTS.glob("*.png")} == {"gateways", "gateway", "connection", "edit", "log"}
