"""The test page, in a real browser on a real server."""

import json
import os
import re
from collections.abc import AsyncIterator
from dataclasses import fields
from importlib.resources import files

import anyio
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Locator, Page, expect
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from wsgateway import Event, Gateway, Refused, Settings
from wsgateway.testing import serve

ODD_KEY = """it's a $KEY "ключ" `id` \\ !1"""
SHELL = {"PATH": os.environ["PATH"], "NO_PROXY": "*", "LC_ALL": "C.UTF-8"}

expect.set_options(timeout=15_000)


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    context = await browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    yield await context.new_page()
    await context.close()


def client(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=f"Client {name}")


async def visit(page: Page, url: str) -> None:
    """Open the test page and wait until both clients know their ids."""
    await page.goto(url)
    for name in "AB":
        await expect(client(page, name)).to_have_attribute("data-state", "open")
        await expect(client(page, name).locator(".id")).not_to_have_text(re.compile("^(none|unknown)$"))


async def type_and_send(page: Page, name: str, text: str) -> None:
    field = client(page, name).get_by_role("textbox")
    await field.fill(text)
    await field.press("Enter")


def push_box(page: Page) -> Locator:
    return page.get_by_role("region", name="Push from a backend")


async def push(page: Page, message: str, *, to: str = "all connections") -> None:
    form = push_box(page)
    await form.get_by_label("To").select_option(to)
    await form.get_by_role("textbox", name="Message").fill(message)
    await form.get_by_role("button", name="Push").click()


def received(page: Page, name: str) -> Locator:
    return client(page, name).locator(".received .text")


def notice(page: Page, name: str) -> Locator:
    return client(page, name).locator(".notice")


def result(page: Page) -> Locator:
    return page.locator("#push-result")


async def run_curl_line(page: Page, *, key: str = "") -> dict[str, object]:
    line = await page.locator("#curl").text_content()
    assert line is not None
    done = await anyio.run_process(["sh", "-c", line], env={**SHELL, "KEY": key})
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


async def test_it_opens_with_two_connected_clients_and_shows_their_ids(page: Page) -> None:
    gateway = Gateway()
    async with serve(gateway) as url:
        await visit(page, url)
        shown = {await client(page, name).locator(".id").text_content() for name in "AB"}
        assert shown == {conn.id for conn in gateway.connections}
        assert len(shown) == 2


async def test_it_shows_the_addresses_and_the_panel_and_fits_on_a_phone(page: Page) -> None:
    gateway = Gateway(id="chat", local_access=True)
    gateway.link_panel(lambda: "http://127.0.0.1:10120")
    async with serve(gateway) as url:
        await visit(page, url)
        await expect(page.locator("#browser")).to_have_text("This browser supports WebSockets.")
        for name, address in (("address", f"ws{url[4:]}/ws"), ("send", f"{url}/send"), ("script", f"{url}/client.js")):
            await expect(page.locator(f"#{name}")).to_have_text(address)
        panel = page.get_by_role("link", name="panel")
        await expect(panel).to_have_attribute("href", "http://127.0.0.1:10120/gateways/chat")
        note = page.locator("#unreported")
        await expect(note).to_contain_text("Over a plain WebSocket, the server does not report")
        log = note.get_by_role("link", name="the gateway's log")
        await expect(log).to_have_attribute("href", "http://127.0.0.1:10120/gateways/chat/log")
        await push(page, "hi")
        for width in (1280, 390):
            await page.set_viewport_size({"width": width, "height": 800})
            assert await page.evaluate(OUTSIDE) == []
            assert (await Axe().run(page)).response["violations"] == []
        await page.set_extra_http_headers({"X-Forwarded-For": "203.0.113.9"})
        await visit(page, url)
        await expect(panel).to_be_hidden()
        await expect(log).to_have_count(0)
        assert "10120" not in await page.content()


OUTSIDE = """() => [...document.querySelectorAll("h1, h2, p, a, code, input, select, button, pre, .log, html")]
  .filter((each) => each.checkVisibility() && each.id !== "copied")
  .filter((each) => each.getBoundingClientRect().left < 0 || each.getBoundingClientRect().right > innerWidth)
  .map((each) => each.outerHTML)"""


async def test_it_says_when_the_browser_has_no_websockets(page: Page) -> None:
    await page.add_init_script("delete window.WebSocket")
    async with serve(Gateway()) as url:
        await page.goto(url)
        await expect(page.locator("#browser")).to_contain_text("does not support WebSockets")


async def test_it_keeps_to_its_content_security_policy(page: Page) -> None:
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    async with serve(Gateway(local_access=True)) as url:
        await visit(page, url)
        await push(page, "hi")
        await expect(result(page)).to_contain_text("to 2 connections")
    assert complaints == []


async def test_a_message_of_one_client_appears_at_the_other(page: Page) -> None:
    async with serve(Gateway()) as url:
        await visit(page, url)
        await type_and_send(page, "A", "hello from A")
        await expect(received(page, "B")).to_have_text(["hello from A"])
        await expect(client(page, "A").locator(".sent .text")).to_have_text(["hello from A"])


async def test_html_in_a_message_stays_text(page: Page) -> None:
    html = "<img src=x onerror=alert(1)><b>bold</b>"
    async with serve(Gateway(local_access=True)) as url:
        await visit(page, url)
        await push(page, html)
        await expect(received(page, "A")).to_have_text([html])
        await expect(client(page, "A").locator("img, b")).to_have_count(0)


async def test_binary_is_shown_as_size_and_hex(page: Page) -> None:
    gateway = Gateway()
    async with serve(gateway) as url:
        await visit(page, url)
        await gateway.send(b"\x00\xff!")
        await expect(received(page, "B")).to_have_text(["binary, 3 bytes: 00 ff 21"])


async def test_the_log_keeps_the_newest_200_rows_and_can_be_cleared(page: Page) -> None:
    gateway = Gateway()
    async with serve(gateway) as url:
        await visit(page, url)
        for number in range(250):
            await gateway.send(f"message {number}")
        rows = client(page, "A").get_by_role("listitem")
        await expect(rows.last).to_contain_text("message 249")
        await expect(rows).to_have_count(200)
        await client(page, "A").get_by_role("button", name="Clear").click()
        await expect(rows).to_have_count(0)


async def test_a_push_reaches_both_clients_and_shows_the_counts(page: Page) -> None:
    async with serve(Gateway(local_access=True)) as url:
        await visit(page, url)
        await push(page, "pushed")
        await expect(received(page, "A")).to_have_text(["pushed"])
        await expect(received(page, "B")).to_have_text(["pushed"])
        await expect(result(page)).to_have_text("Sent to 2 connections of default: 2 queued, 0 dropped.")


async def test_a_push_to_one_client_reaches_only_that_one(page: Page) -> None:
    async with serve(Gateway(local_access=True)) as url:
        await visit(page, url)
        await push(page, "for A", to="client A only")
        await expect(result(page)).to_contain_text("to 1 connection ")
        await push(page, "for all")
        await expect(received(page, "A")).to_have_text(["for A", "for all"])
        await expect(received(page, "B")).to_have_text(["for all"])


async def test_json_is_pushed_as_it_was_typed(page: Page) -> None:
    messages: list[object] = []

    class Listener:
        def on_message(self, event: Event) -> None:
            messages.append(event.message)

    async with serve(Gateway(listener=Listener, local_access=True)) as url:
        await visit(page, url)
        await page.get_by_label("The message is JSON").check()
        await push(page, '{"n": 12345678901234567890}')
        await expect(result(page)).to_contain_text("to 2 connections")
    assert messages == [{"n": 12345678901234567890}]


async def test_what_is_not_json_cannot_be_pushed_as_json(page: Page) -> None:
    async with serve(Gateway(local_access=True)) as url:
        await visit(page, url)
        await page.get_by_label("The message is JSON").check()
        await expect(page.locator("#curl")).to_contain_text("The message is not JSON")
        await expect(page.get_by_role("button", name="Push")).to_be_disabled()


async def test_the_curl_line_works_as_it_stands(page: Page) -> None:
    async with serve(Gateway(local_access=True)) as url:
        await visit(page, url)
        await push_box(page).get_by_role("textbox", name="Message").fill("it's ключ \\n")
        answer = await run_curl_line(page)
        assert answer == {"id": "default", "recipients": 2, "queued": 2, "dropped": 0, "at": None, "is_new": True}
        await expect(received(page, "B")).to_have_text(["it's ключ \\n"])


async def test_the_curl_line_takes_the_key_from_the_shell_and_carries_the_chosen_client(page: Page) -> None:
    async with serve(Gateway(api_key=[ODD_KEY])) as url:
        await visit(page, url)
        await page.get_by_label("To").select_option("client B only")
        await page.get_by_label("API key").fill(ODD_KEY)
        answer = await run_curl_line(page, key=ODD_KEY)
        assert answer["recipients"] == 1
        await expect(received(page, "B")).to_have_text(["hi"])


@pytest.mark.parametrize("where", ["localhost", "plain http elsewhere"])
async def test_the_copy_button_copies_the_curl_line(page: Page, where: str) -> None:
    if where != "localhost":
        await page.add_init_script("delete Navigator.prototype.clipboard")
    async with serve(Gateway(api_key=[ODD_KEY])) as url:
        await visit(page, url)
        line = await page.locator("#curl").text_content()
        assert line is not None
        await page.get_by_role("button", name="Copy the command").click()
        await expect(page.locator("#copied")).to_have_text("Copied.")
        field = client(page, "A").get_by_role("textbox")
        await field.press("Control+V")
        await expect(field).to_have_value(line)


async def test_a_push_carries_the_key_in_utf_8(page: Page) -> None:
    async with serve(Gateway(api_key=[ODD_KEY])) as url:
        await visit(page, url)
        await page.get_by_label("API key").fill(ODD_KEY)
        for message in ("with the key", "with the same key"):
            await push(page, message)
            await expect(received(page, "A").last).to_have_text(message)


@pytest.mark.parametrize("headers", [{}, {"X-Forwarded-For": "203.0.113.9"}], ids=["local", "through a proxy"])
async def test_the_page_holds_no_key_and_asks_for_it(page: Page, headers: dict[str, str]) -> None:
    await page.set_extra_http_headers(headers)
    async with serve(Gateway(api_key=[ODD_KEY], local_access=True)) as url:
        await visit(page, url)
        assert ODD_KEY not in await page.content()
        assert json.loads(await page.locator("#page").text_content() or "")["push_allowed"] is False
        await expect(page.locator("#push-refusal")).to_be_hidden()
        await expect(page.locator("#curl")).to_contain_text('"authorization: Bearer $KEY"')
        await push(page, "without the key")
        await expect(result(page)).to_contain_text("401")
        await page.get_by_label("API key").fill(ODD_KEY)
        await push(page, "with the key")
        await expect(received(page, "A")).to_have_text(["with the key"])


async def test_a_key_is_forgotten_with_the_page(page: Page) -> None:
    async with serve(Gateway(api_key=[ODD_KEY])) as url:
        await visit(page, url)
        await page.get_by_label("API key").fill(ODD_KEY)
        await page.reload()
        await expect(page.get_by_label("API key")).to_have_value("")
        assert await page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0


async def test_a_gateway_that_answers_no_push_names_the_settings(page: Page) -> None:
    async with serve(Gateway()) as url:
        await visit(page, url)
        await expect(page.locator("#push-refusal")).to_contain_text(re.compile("api_key|local_access"))
        await push(page, "hi")
        await expect(result(page)).to_contain_text(re.compile("40[13].*(api_key|local_access)"))


async def test_it_works_under_a_prefix(page: Page) -> None:
    gateway = Gateway(local_access=True)
    host = Starlette(routes=[Mount("/live", gateway)], lifespan=gateway.lifespan)
    async with serve(host) as url:
        await visit(page, f"{url}/live/")
        await push(page, "from the page")
        await expect(received(page, "A")).to_have_text(["from the page"])
        await run_curl_line(page)
        await expect(received(page, "A")).to_have_text(["from the page", "from the page"])


async def test_after_a_refusal_by_the_listener_it_points_at_on_handshake(page: Page) -> None:
    class Listener:
        def on_handshake(self, event: Event) -> None:
            raise Refused(401, "log in first")

    async with serve(Gateway(listener=Listener)) as url:
        await page.goto(url)
        await expect(notice(page, "A")).to_contain_text("on_handshake")
        await expect(client(page, "A")).to_have_attribute("data-state", "refused")


async def test_a_refusal_with_a_close_code_names_a_hook_and_leaves_the_console_empty(page: Page) -> None:
    class Listener:
        def on_handshake(self, event: Event) -> None:
            raise Refused(401, "log in first", close=3500)

    lines: list[str] = []
    page.on("console", lambda line: lines.append(line.text))
    async with serve(Gateway(listener=Listener)) as url:
        await page.goto(url)
        for name in "AB":
            await expect(notice(page, name)).to_contain_text("Closed with 3500 “log in first”: a hook of the listener")
    assert lines == []


async def test_after_a_refusal_by_a_stopped_gateway_it_says_that_it_is_stopped(page: Page) -> None:
    gateway = Gateway()
    async with serve(Starlette(routes=[Mount("/", gateway)], lifespan=gateway.lifespan)) as url:
        await visit(page, url)
        await gateway.stop()
        await expect(notice(page, "A")).to_contain_text("Closed with 1012")
        await page.get_by_role("button", name="Connect client A", exact=True).click()
        await expect(notice(page, "A")).to_contain_text(
            "Refused. 503 Service Unavailable: gateway [default] is stopped"
        )


def rewriting_host(app: ASGIApp) -> ASGIApp:
    """A proxy that tells the application its own name for it, as nginx does when left alone."""

    async def rewriting(scope: Scope, receive: Receive, send: Send) -> None:
        if "headers" in scope:
            scope["headers"] = [(name, b"backend" if name == b"host" else value) for name, value in scope["headers"]]
        await app(scope, receive, send)

    return rewriting


async def test_after_a_refused_origin_it_names_the_setting_that_would_allow_it(page: Page) -> None:
    async with serve(rewriting_host(Gateway(allowed_origins=["https://app.example"]))) as url:
        await page.goto(url)
        await expect(notice(page, "A")).to_contain_text("allowed_origins")
        await expect(notice(page, "A")).to_contain_text("Refused. 403")


@pytest.mark.parametrize(
    ("code", "reason", "said"),
    [
        (3008, "slow", "Closed with 3008 “slow”: the client is too slow, .*send_timeout.* may reconnect"),
        (3500, "banned", "Closed with 3500 “banned”: .*must not reconnect by itself"),
        (4000, '{"reason":"full","reconnect":false}', "Closed with 4000 “full”: .*must not reconnect"),
        (4500, '{"reconnect":true,"retry_after_ms":50}', "Closed with 4500.* may reconnect after 50 ms"),
    ],
)
async def test_a_close_code_is_shown_and_explained(page: Page, code: int, reason: str, said: str) -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            assert event.conn is not None
            await event.conn.close(code, reason)

    async with serve(Gateway(listener=Listener)) as url:
        await visit(page, url)
        await type_and_send(page, "A", "close me")
        await expect(notice(page, "A")).to_have_text(re.compile(said))
        await expect(client(page, "B")).to_have_attribute("data-state", "open")


async def test_a_message_over_the_limit_names_the_setting(page: Page) -> None:
    async with serve(Gateway(max_message_size=10)) as url:
        await visit(page, url)
        await type_and_send(page, "A", "more than ten bytes")
        await expect(notice(page, "A")).to_have_text(
            re.compile("Closed with 1009.*max_message_size.*must not reconnect")
        )


async def test_a_client_disconnects_and_connects_again_under_a_new_id(page: Page) -> None:
    async with serve(Gateway()) as url:
        await visit(page, url)
        shown = client(page, "A").locator(".id")
        before = await shown.text_content()
        await page.get_by_role("button", name="Disconnect client A").click()
        await expect(notice(page, "A")).to_contain_text("Closed with 1000")
        await expect(notice(page, "A")).to_have_class("notice calm")
        await page.get_by_role("button", name="Connect client A", exact=True).click()
        await expect(shown).not_to_have_text(re.compile(f"^(none|unknown|{before})$"))
        await expect(notice(page, "A")).to_be_hidden()


async def test_a_server_that_is_gone_is_said_to_be_gone(page: Page) -> None:
    async with serve(Gateway(local_access=True)) as url:
        await visit(page, url)
    await expect(notice(page, "A")).to_contain_text("Closed with 1012")
    await page.get_by_role("button", name="Connect client A", exact=True).click()
    await expect(notice(page, "A")).to_contain_text("The server does not answer")
    await push(page, "hi")
    await expect(result(page)).to_contain_text("The server does not answer")


def test_every_setting_that_it_names_exists() -> None:
    script = (files("wsgateway.gateway.http") / "pages" / "test.js").read_text(encoding="utf-8")
    named = set(re.findall(r"[a-z]+(?:_[a-z]+)+", script)) - {"push_allowed", "push_refusal", "retry_after_ms"}
    assert named <= {setting.name for setting in fields(Settings)}
    assert {"allowed_origins", "max_message_size"} <= named


async def test_switched_off_it_is_not_there(page: Page) -> None:
    async with serve(Gateway(test_page=False)) as url:
        for path in ("/", "/pages/test.js", "/pages/connection?path=/ws/test-page/0"):
            response = await page.goto(url + path)
            assert response is not None
            assert response.status == 404
