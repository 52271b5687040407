"""The panel's pages over HTTP: the access that they require, and their content."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import anyio
import httpx
import pytest
import websockets
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import Mount
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as sync_connect
from websockets.typing import Origin

from tests import processes
from tests.panels import TOKEN, admin, visitor
from tests.ports import free_port
from wsgateway import Event, Gateway
from wsgateway.admin import Panel
from wsgateway.admin.logins import COOKIE, TRIES
from wsgateway.admin.pages import login
from wsgateway.admin.pages.table import PAGES
from wsgateway.admin.passwords import hash_password, write_password
from wsgateway.admin.site import Page
from wsgateway.auth.admin import Access
from wsgateway.client import connect
from wsgateway.hub.recording import KEPT, Recording
from wsgateway.testing import Client, serve

FILE = "[gateways.chat]\nport = 0\n"
TABS = ("", "/connections", "/channels", "/channel?name=a", "/send", "/settings", "/log")
HTML = "<script>alert(1)</script>\x1b[31m%s"


def address_of(page: Page) -> str:
    path = page.path.format(gateway_id="chat", connection_id="none")
    return f"{path}?name=room" if page.path.endswith("/channel") else path


async def answer(http: httpx.AsyncClient, page: Page) -> httpx.Response:
    return await http.request(page.method, address_of(page), data={"csrf": "x"} if page.method == "POST" else None)


async def test_without_logging_in_only_the_log_in_is_shown(tmp_path: Path) -> None:
    write_password(tmp_path / "wsgateway.password", "correct horse", Access.FULL)
    async with admin(tmp_path, FILE) as (supervisor, url), httpx.AsyncClient(base_url=url) as http:
        for page in PAGES:
            response = await answer(http, page)
            if page.view is login.show:
                assert response.status_code == 200
            elif page.access is Access.NONE:
                assert response.status_code == 403, page  # a form without its token
            else:
                assert response.status_code == 303, page
                assert response.url.join(response.headers["location"]).path == "/login"
        assert supervisor.state("chat") == "running"


async def test_who_may_only_look_changes_nothing(tmp_path: Path) -> None:
    write_password(tmp_path / "wsgateway.password", "only looking", Access.READ)
    async with admin(tmp_path, FILE) as (supervisor, url), visitor(url) as reader:
        assert (await reader.submit("/login", {"password": "only looking"})).status_code == 200
        token = TOKEN.search((await reader.get("/")).text)
        assert token
        for page in (page for page in PAGES if page.access is not Access.NONE):
            response = await reader.http.request(page.method, address_of(page), data={"csrf": token[1]})
            if page.access is Access.FULL:
                assert response.status_code == 403, page
                assert "read-only access" in response.text
            else:
                assert response.status_code in (200, 404), page
        assert supervisor.state("chat") == "running"


async def test_a_reader_sees_no_buttons(tmp_path: Path) -> None:
    write_password(tmp_path / "wsgateway.password", "only looking", Access.READ)
    async with admin(tmp_path, FILE) as (_, url), visitor(url) as reader:
        await reader.submit("/login", {"password": "only looking"})
        for page in PAGES:
            if page.method == "GET" and page.access is Access.READ and "{connection_id}" not in page.path:
                text = (await reader.get(address_of(page))).text
                assert "read only" in text
                assert 'name="action"' not in text, page.path
                assert "<textarea" not in text
                assert "chat/send" not in text


async def test_the_cookie_is_for_this_site_and_no_script(tmp_path: Path) -> None:
    write_password(tmp_path / "wsgateway.password", "correct horse", Access.FULL)
    async with admin(tmp_path, FILE) as (_, url), visitor(url) as somebody:
        cookie = (await somebody.get("/login")).headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Secure" not in cookie  # over TLS only
        before = somebody.http.cookies[COOKIE]
        await somebody.submit("/login", {"password": "correct horse"})
        assert somebody.http.cookies[COOKIE] != before


async def test_a_wrong_password_and_log_out(tmp_path: Path) -> None:
    write_password(tmp_path / "wsgateway.password", "correct horse", Access.FULL)
    async with admin(tmp_path, FILE) as (_, url), visitor(url) as somebody:
        wrong = await somebody.submit("/login", {"password": "correct horsf"})
        assert wrong.status_code == 401
        assert "Wrong password" in wrong.text
        await somebody.submit("/login", {"password": "correct horse"})
        assert "chat" in (await somebody.get("/")).text
        stolen = somebody.http.cookies[COOKIE]
        assert (await somebody.submit("/", {}, action="/logout")).url.path == "/login"
        async with httpx.AsyncClient(base_url=url, cookies={COOKIE: stolen}) as thief:
            assert (await thief.get("/")).status_code == 303


async def test_tries_are_throttled(tmp_path: Path) -> None:
    write_password(tmp_path / "wsgateway.password", "correct horse", Access.FULL)
    async with admin(tmp_path, FILE) as (_, url), visitor(url) as somebody:
        statuses = [(await somebody.submit("/login", {"password": "x"})).status_code for _ in range(TRIES + 1)]
        assert statuses == [401] * TRIES + [429]
        refused = await somebody.submit("/login", {"password": "correct horse"})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")


async def test_forwarded_addresses_of_a_local_process_count_as_one(tmp_path: Path) -> None:
    write_password(tmp_path / "wsgateway.password", "correct horse", Access.FULL)
    async with admin(tmp_path, FILE) as (_, url), visitor(url) as somebody:
        token = TOKEN.search((await somebody.get("/login")).text)
        assert token
        statuses = []
        for number in range(TRIES + 1):
            claimed = {"x-forwarded-for": f"203.0.113.{number}"}
            form = {"csrf": token[1], "password": "x"}
            statuses.append((await somebody.http.post("/login", data=form, headers=claimed)).status_code)
        assert statuses == [401] * TRIES + [429]


async def test_many_wrong_passwords_are_few_short_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_password(tmp_path / "wsgateway.password", "correct horse", Access.FULL)
    async with admin(tmp_path, FILE) as (_, url), visitor(url, {"x-forwarded-for": "1" * 20_000}) as somebody:
        began = time.monotonic()
        for _ in range(40):
            await somebody.submit("/login", {"password": "x"})
        seconds = time.monotonic() - began
    lines = [record.getMessage() for record in caplog.records if "panel: " in record.getMessage()]
    assert any("wrong password from " in line for line in lines)
    assert any("too many passwords tried from " in line for line in lines)
    assert len(lines) <= 2 * (seconds + 1)
    assert max(map(len, lines)) < 200


async def test_wrong_passwords_at_the_same_time_do_not_lock_the_right_one_out(tmp_path: Path) -> None:
    write_password(tmp_path / "wsgateway.password", "correct horse", Access.FULL)
    async with admin(tmp_path, FILE) as (_, url), AsyncExitStack() as stack:
        attackers = [await stack.enter_async_context(visitor(url)) for _ in range(12)]
        owner = await stack.enter_async_context(visitor(url))
        for attacker in attackers:
            await attacker.get("/login")
        wrong = await asyncio.gather(*(attacker.submit("/login", {"password": "x"}) for attacker in attackers))
        assert {answer.status_code for answer in wrong} <= {401, 429}
        assert (await owner.submit("/login", {"password": "correct horse"})).status_code == 200


async def test_attackers_of_many_addresses_do_not_lock_the_right_password_out(tmp_path: Path) -> None:
    write_password(tmp_path / "wsgateway.password", "correct horse", Access.FULL)
    async with admin(tmp_path, FILE) as (_, url), AsyncExitStack() as stack:
        addresses = [f"127.0.0.{number}" for number in range(2, 14)]
        attackers = [await stack.enter_async_context(visitor(url, address=address)) for address in addresses]
        async with anyio.create_task_group() as tasks:
            for attacker in attackers:
                tasks.start_soon(attacker.submit, "/login", {"password": "x"})
            owner = await stack.enter_async_context(visitor(url))
            answer = await owner.submit("/login", {"password": "correct horse"})
            assert answer.status_code == 200
            assert answer.url.path == "/"


async def test_a_cookie_that_was_logged_out_is_worth_nothing_after_a_restart(tmp_path: Path) -> None:
    write_password(tmp_path / "wsgateway.password", "correct horse", Access.FULL)
    async with admin(tmp_path, FILE) as (_, url), visitor(url) as one, visitor(url) as other:
        await one.submit("/login", {"password": "correct horse"})
        await other.submit("/login", {"password": "correct horse"})
        ended, valid = one.http.cookies[COOKIE], other.http.cookies[COOKIE]
        await one.submit("/", {}, action="/logout")
    async with admin(tmp_path, FILE) as (_, url):
        for cookie, status in ((ended, 303), (valid, 200)):
            async with httpx.AsyncClient(base_url=url, cookies={COOKIE: cookie}) as http:
                assert (await http.get("/")).status_code == status


async def test_a_second_log_in_ends_the_session_that_the_browser_had(tmp_path: Path) -> None:
    write_password(tmp_path / "wsgateway.password", "correct horse", Access.FULL)
    async with admin(tmp_path, FILE) as (_, url), visitor(url) as somebody:
        await somebody.submit("/login", {"password": "correct horse"})
        before = somebody.http.cookies[COOKIE]
        await somebody.submit("/login", {"password": "correct horse"})
        assert somebody.http.cookies[COOKIE] != before
        async with httpx.AsyncClient(base_url=url, cookies={COOKIE: before}) as http:
            assert (await http.get("/")).status_code == 303


async def test_a_token_of_the_settings_file_logs_in_too(tmp_path: Path) -> None:
    text = FILE + '[admin]\ntoken = ["everything"]\nread_token = ["looking"]\n'
    async with admin(tmp_path, text) as (_, url), visitor(url) as one, visitor(url) as other:
        assert "New gateway" in (await one.submit("/login", {"password": "everything"})).text
        assert "read only" in (await other.submit("/login", {"password": "looking"})).text


async def test_a_password_in_the_file_counts_after_a_reload(tmp_path: Path) -> None:
    async with admin(tmp_path, FILE) as (supervisor, url), visitor(url) as somebody:
        assert (await somebody.get("/")).url.path == "/"
        (tmp_path / "wsgateway.toml").write_text(f'{FILE}[admin]\npassword_hash = "{hash_password("correct horse")}"\n')
        await supervisor.reload()
        assert (await somebody.get("/")).url.path == "/login"
        assert "Gateways" in (await somebody.submit("/login", {"password": "correct horse"})).text


async def test_a_reload_in_the_panel_that_replaces_a_token_ends_its_login(tmp_path: Path) -> None:
    text = FILE + '[admin]\ntoken = ["{}"]\n'
    async with admin(tmp_path, text.format("the first")) as (_, url), visitor(url) as somebody:
        assert "New gateway" in (await somebody.submit("/login", {"password": "the first"})).text
        (tmp_path / "wsgateway.toml").write_text(text.format("the second"))
        assert (await somebody.submit("/", {"action": "reload"})).url.path == "/login"
        assert (await somebody.get("/")).url.path == "/login"


async def test_a_password_closes_rest_without_a_token_too(tmp_path: Path) -> None:
    async with admin(tmp_path, FILE) as (_, url), httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/api/gateways")).status_code == 200
        write_password(tmp_path / "wsgateway.password", "correct horse", Access.FULL)
        refused = await http.get("/api/gateways")
        assert refused.status_code == 401
        assert "[admin] token" in refused.json()["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "attacker.example"},
        {"x-forwarded-for": "203.0.113.9"},
        {"x-request-id": "1"},
        {"connection": "close"},
        {"connection": "upgrade"},
        {"origin": "https://evil.example"},
        {"origin": "https://localhost:3000"},
        {"origin": "null"},
    ],
)
async def test_without_a_password_only_local_callers_are_served(tmp_path: Path, headers: dict[str, str]) -> None:
    async with admin(tmp_path, FILE) as (_, url), httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/")).status_code == 200
        assert "wsgateway password" in (await http.get("/")).text
        refused = await http.get("/", headers=headers)
        assert refused.status_code == 403
        assert "chat" not in refused.text


async def test_a_form_needs_the_token_of_its_session(tmp_path: Path) -> None:
    async with admin(tmp_path, FILE) as (supervisor, url), visitor(url) as one, visitor(url) as other:
        foreign = TOKEN.search((await other.get("/")).text)
        assert foreign
        fields = {"action": "stop", "sure": "yes", "id": "chat"}
        for token in ("", "x", foreign[1]):
            await one.get("/")
            response = await one.http.post("/", data={"csrf": token, **fields})
            assert response.status_code == 403
            assert "reload the page" in response.text
        assert supervisor.state("chat") == "running"


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"csrf=x", "text/plain", 415),
        (b"csrf=\xff", "application/x-www-form-urlencoded", 400),
        (b"a=1&" * 6000, "application/x-www-form-urlencoded", 400),
        (b"a" * 300_000, "application/x-www-form-urlencoded", 413),
    ],
)
async def test_what_is_no_form_is_refused(tmp_path: Path, body: bytes, kind: str, status: int) -> None:
    async with admin(tmp_path, FILE) as (_, url), httpx.AsyncClient(base_url=url) as http:
        assert (await http.post("/", content=body, headers={"content-type": kind})).status_code == status


async def test_every_answer_has_the_policy_and_is_not_kept(tmp_path: Path) -> None:
    async with admin(tmp_path, FILE) as (_, url), httpx.AsyncClient(base_url=url) as http:
        for path in ("/", "/nowhere", "/gateways/none", "/static/panel.js", "/log"):
            headers = (await http.get(path)).headers
            assert "default-src 'none'; script-src 'self'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"


async def test_no_page_has_inline_script_or_style(tmp_path: Path) -> None:
    async with admin(tmp_path, FILE) as (_, url), httpx.AsyncClient(base_url=url) as http:
        for path in ("/", "/new", "/log", "/nowhere", *(f"/gateways/chat{tab}" for tab in TABS)):
            text = (await http.get(path)).text
            assert text.count("<script") == text.count('<script src="')
            assert "<style" not in text
            assert " style=" not in text
            assert "http://" not in text.replace(url, "").replace("http://127.0.0.1:", "")


async def test_what_clients_say_is_text_on_every_page(tmp_path: Path) -> None:
    listener = tmp_path / "listener.py"
    listener.write_text("def on_client_open(event):\n    event.conn.user = event.conn.query['name']\n")
    text = f'[gateways.chat]\nport = 0\nlistener = "{listener}"\nverbose = true\nlog_file = "{tmp_path}/x.log"\n'
    async with admin(tmp_path, text) as (supervisor, url), httpx.AsyncClient(base_url=url) as http:
        found = supervisor.find("chat")
        name = str(httpx.QueryParams({"name": HTML}))
        async with connect(f"ws{found.url[4:]}/ws?{name}", user_agent_header="<script>alert(2)</script>") as socket:
            conn = next(iter(found.gateway.connections))
            pages = [
                "/gateways/chat/connections",
                f"/gateways/chat/connections/{conn.id}",
                "/gateways/chat/connections?search=<script>",
                "/gateways/chat/log",
                "/log",
            ]
            for path in pages:
                shown = (await http.get(path)).text
                assert "<script>" not in shown
                assert "\x1b" not in shown
            assert "&lt;script&gt;alert(1)" in (await http.get(pages[0])).text
            assert "&lt;script&gt;alert(2)" in (await http.get(pages[1])).text
            await socket.close(4000, "<script>bye\r\n")
        with anyio.fail_after(5):
            while "&lt;script&gt;bye" not in (await http.get("/log")).text:
                await asyncio.sleep(0)  # nothing reports a new line of the log
        assert "<script>" not in (await http.get("/log")).text


async def test_secrets_of_a_request_are_not_shown(tmp_path: Path) -> None:
    async with admin(tmp_path, FILE) as (supervisor, url), httpx.AsyncClient(base_url=url) as http:
        found = supervisor.find("chat")
        headers = {"Cookie": "session=hidden1", "Authorization": "Bearer hidden2", "X-Api-Key": "hidden4"}
        headers["Referer"] = "https://app.example/page?token=hidden5"
        async with connect(f"ws{found.url[4:]}/ws?token=hidden3", additional_headers=headers):
            conn = next(iter(found.gateway.connections))
            text = (await http.get(f"/gateways/chat/connections/{conn.id}")).text
            assert all(f"hidden{number}" not in text for number in range(1, 6))
            assert "token" in text


async def test_connections_are_shown_a_page_at_a_time_and_searched(tmp_path: Path) -> None:
    listener = tmp_path / "listener.py"
    listener.write_text("def on_client_open(event):\n    event.conn.user = event.conn.query['name']\n")
    async with admin(tmp_path, f'[gateways.chat]\nport = 0\nlistener = "{listener}"\n') as (supervisor, url):
        found = supervisor.find("chat")
        async with httpx.AsyncClient(base_url=url) as http:
            sockets = [await connect(f"ws{found.url[4:]}/ws?name=user{number}") for number in range(120)]
            list_of = "/gateways/chat/connections"
            first = (await http.get(list_of)).text
            assert "1 to 50 of 120" in first
            assert re.findall(r'offset=(\d+)">(\w+)<', first) == [("50", "Next"), ("100", "Last")]
            middle = (await http.get(f"{list_of}?offset=50")).text
            places = [("0", "First"), ("0", "Previous"), ("100", "Next"), ("100", "Last")]
            assert re.findall(r'offset=(\d+)">(\w+)<', middle) == places
            assert "101 to 120 of 120" in (await http.get(f"{list_of}?offset=100")).text
            assert "1 to 1 of 1" in (await http.get(f"{list_of}?search=USER117")).text
            assert "No connection matches “nobody”." in (await http.get(f"{list_of}?search=nobody")).text
            assert (await http.get(f"{list_of}?offset=-1")).status_code == 422
            for socket in sockets:
                await socket.close()


async def test_a_panel_is_mounted_for_gateways_made_in_code() -> None:
    gateway = Gateway(id="live")
    panel = Panel([gateway])
    app = Starlette(routes=[Mount("/live", gateway), Mount("/panel", panel)], lifespan=gateway.lifespan)
    async with serve(app) as url, visitor(url) as somebody:
        text = (await somebody.get("/panel/")).text
        assert 'href="./gateways/live"' in text
        assert "<code>password_hash</code> to <code>Panel</code>" in text  # there is no file for `wsgateway password`
        assert (await somebody.get("/panel/static/panel.css")).status_code == 200
        settings = await somebody.get("/panel/gateways/live/settings")
        assert "created in code" in settings.text
        assert 'name="port"' not in settings.text
        page = "/panel/gateways/live/send"
        assert (await somebody.submit(page, {}, action="/panel/gateways/live/settings")).status_code == 409
        async with Client(f"{url}/live") as client:
            sent = await somebody.submit(page, {"message": "hi"})
            assert "Sent to 1 connection." in sent.text
            assert await client.receive() == "hi"
        assert "./new" not in text
        refused = await somebody.submit("/panel/", {"action": "reload"})
        assert refused.status_code == 409
        assert "created in code" in refused.text


async def test_a_mounted_panel_asks_for_its_password() -> None:
    panel = Panel([Gateway()], password_hash=hash_password("correct horse"))
    async with serve(Starlette(routes=[Mount("/panel", panel)])) as url, visitor(url) as somebody:
        login = await somebody.get("/panel/")
        assert login.url.path == "/panel/login"
        assert "Enter the password of this panel." in login.text
        assert "Gateways" in (await somebody.submit("/panel/login", {"password": "correct horse"})).text


@pytest.mark.parametrize(("allowed", "status"), [((), 403), (("https://app.example",), 422)])
async def test_a_mounted_panel_behind_a_proxy_names_its_origin(allowed: tuple[str, ...], status: int) -> None:
    panel = Panel([Gateway()], allowed_origins=allowed, local_access=True)
    async with serve(Starlette(routes=[Mount("/panel", panel)])) as url, visitor(url) as somebody:
        somebody.http.headers["origin"] = "https://app.example"
        response = await somebody.http.get("/panel/")
        assert (response.status_code == 200) is bool(allowed)
        if allowed:
            assert (await somebody.submit("/panel/", {"action": "none"})).status_code == status


@pytest.mark.parametrize("access", list(Access))
async def test_the_guard_of_the_host_replaces_the_log_in(access: Access) -> None:
    async def guard(connection: HTTPConnection) -> Access:
        return access if connection.headers.get("x-user") == "ann" else Access.NONE

    async with serve(Starlette(routes=[Mount("/panel", Panel([Gateway()], guard=guard))])) as url:
        async with httpx.AsyncClient(base_url=url) as http:
            refused = await http.get("/panel/")
            assert refused.status_code == 403
            assert "its guard did not give you access" in refused.text
            assert "Back to the overview" not in refused.text
            shown = await http.get("/panel/", headers={"x-user": "ann"})
            assert shown.status_code == (403 if access is Access.NONE else 200)
            assert ('name="action"' in shown.text) is (access is Access.FULL)


async def test_only_pages_with_access_are_pushed_to(tmp_path: Path) -> None:
    write_password(tmp_path / "wsgateway.password", "correct horse", Access.FULL)
    async with admin(tmp_path, FILE) as (_, url), visitor(url) as browser:
        live = f"ws{url[4:]}/live"
        with pytest.raises(websockets.InvalidStatus):
            await connect(live)
        await browser.submit("/login", {"password": "correct horse"})
        cookie = {"Cookie": f"{COOKIE}={browser.http.cookies[COOKIE]}"}
        with pytest.raises(websockets.InvalidStatus):
            await connect(live, additional_headers=cookie, origin=Origin("https://evil.example"))
        async with connect(live, additional_headers=cookie) as socket:
            pushed = json.loads(await socket.recv())
            assert [(found["id"], found["state"]) for found in pushed["gateways"]] == [("chat", "running")]
            await browser.submit("/", {}, action="/logout")
            with anyio.fail_after(10), pytest.raises(websockets.ConnectionClosed):
                while True:
                    await socket.recv()


@pytest.mark.parametrize(
    ("site", "target", "status"),
    [
        ("cross-site", "image", 403),
        ("same-site", "iframe", 403),
        ("cross-site", "document", 200),
        ("same-origin", "script", 200),
        ("none", "document", 200),
    ],
)
async def test_a_page_of_another_site_may_link_to_the_panel_but_not_load_it(
    tmp_path: Path, site: str, target: str, status: int
) -> None:
    headers = {"sec-fetch-site": site, "sec-fetch-dest": target}
    async with admin(tmp_path, FILE) as (_, url), httpx.AsyncClient(base_url=url, headers=headers) as http:
        assert (await http.get("/gateways/chat")).status_code == status


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1:1", "null", "https://evil.example"])
async def test_what_is_pushed_is_for_the_panel_s_own_pages(tmp_path: Path, origin: str) -> None:
    panel = Panel([Gateway()])
    mounted = Starlette(routes=[Mount("/panel", panel)])
    async with admin(tmp_path, FILE) as (_, url), serve(mounted) as there:
        for live, own in ((f"ws{url[4:]}/live", url), (f"ws{there[4:]}/panel/live", there)):
            with pytest.raises(websockets.InvalidStatus, match="403"):
                await connect(live, origin=Origin(origin))
            async with connect(live, origin=Origin(own)) as socket:
                assert "gateways" in json.loads(await socket.recv())


@pytest.mark.parametrize("path", ["/elsewhere", "/static/panel.css", "/gateways/chat", "/api/gateways", "/api"])
async def test_a_websocket_that_is_not_there_is_404_and_a_line(
    tmp_path: Path, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with admin(tmp_path, FILE) as (_, url):
        with pytest.raises(websockets.InvalidStatus, match="404"):
            await connect(f"ws{url[4:]}{path}")
    (line,) = [record for record in caplog.records if "refused" in record.getMessage()]
    assert line.levelname == "WARNING"
    assert f"refused a WebSocket {path} from 127.0.0.1: " in line.getMessage()


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/nowhere", {}, 404),
        ("GET", "/static/nowhere.css", {}, 404),
        ("POST", "/static/panel.css", {}, 405),
        ("PUT", "/", {}, 405),
        ("GET", "/gateways/none", {}, 404),
        ("GET", "/gateways/chat/connections?offset=-1", {}, 422),
        ("GET", "/", {"via": "x"}, 403),
        ("GET", "/", {"origin": "http://localhost:3000"}, 403),
        ("POST", "/", {"content-type": "text/plain"}, 415),
    ],
)
async def test_every_refusal_is_a_warning(
    tmp_path: Path,
    method: str,
    path: str,
    headers: dict[str, str],
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with admin(tmp_path, FILE) as (_, url), httpx.AsyncClient(base_url=url) as http:
        assert (await http.request(method, path, headers=headers)).status_code == status
    (line,) = [record for record in caplog.records if "refused" in record.getMessage()]
    assert line.levelname == "WARNING"
    assert f"panel: refused {method} {path.partition('?')[0]} from 127.0.0.1: " in line.getMessage()


async def test_info_and_the_page_of_a_connection_show_when_it_expires() -> None:
    gateway = Gateway(local_access=True)
    app = Starlette(routes=[Mount("/panel", Panel([gateway])), Mount("/", gateway)], lifespan=gateway.lifespan)
    async with serve(app) as url, Client(url), httpx.AsyncClient(base_url=url) as http:
        (conn,) = gateway.connections
        page = f"/panel/gateways/default/connections/{conn.id}"
        assert "<dt>Expires</dt>" not in (await http.get(page)).text
        conn.expires_at = 4e9
        assert re.search(r"<dt>Expires</dt><dd><small.*>in</small> \d+d [\d:]+</dd>", (await http.get(page)).text)
        assert (await http.get("/info")).json()["connections"][0]["expires_at"] == 4e9


async def test_a_connection_is_recorded_while_a_page_shows_it_and_costs_nothing_else() -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            event.connections = [event.conn] if event.conn else None

    gateway = Gateway(listener=Listener)
    app = Starlette(routes=[Mount("/panel", Panel([gateway])), Mount("/", gateway)], lifespan=gateway.lifespan)
    async with serve(app) as url, Client(url) as client, Client(url) as bystander:
        conn = next(iter(gateway.connections))
        assert conn._outbox.recording is None
        async with connect(f"ws{url[4:]}/panel/live?gateway=default&connection={conn.id}") as socket:
            seen = [event[1] for event in json.loads(await socket.recv())["connection"]["events"]]
            assert seen == ["opened"]
            await client.send("12345")
            assert await client.receive() == "12345"
            await gateway.send("all")
            assert await client.receive() == "all"
            assert await bystander.receive() == "all"
            with anyio.fail_after(10):
                while seen[1:].count("out") < 2:
                    pushed = json.loads(await socket.recv())["connection"]
                    seen += [event[1] for event in pushed["events"]]
            assert seen == ["opened", "in", "out", "hook", "out"]
            assert (pushed["in"], pushed["out"], pushed["dropped"]) == (1, 2, 0)
        with anyio.fail_after(10):
            while conn._outbox.recording is not None:
                await asyncio.sleep(0)  # nothing reports the end of a recording
        await gateway.send("after")
        assert await client.receive() == "after"
        assert conn.messages_out == 3


async def test_what_is_dropped_for_a_slow_client_is_recorded() -> None:
    gateway = Gateway(outbox_messages=1, slow_policy="drop_newest")
    async with serve(gateway) as url, connect(f"ws{url[4:]}/ws", max_queue=1, close_timeout=0.1):
        conn = next(iter(gateway.connections))
        with gateway.recording(conn) as recording:
            while not conn.dropped:
                await gateway.send("x" * 200_000)
            last = recording.since(recording.total - 1)[0]
            assert (last.what, last.note) == ("dropped", "1, slow_policy drop_newest")
        assert conn._outbox.recording is None


async def test_a_recording_keeps_the_last_hundred_and_tells_what_is_new() -> None:
    recording = Recording(0.0)
    for number in range(150):
        recording.add("in", number)
    assert [event.size for event in recording.since(149)] == [148, 149]
    assert len(recording.since(0)) == KEPT
    assert recording.since(recording.total) == []


@pytest.mark.parametrize("ws", ["auto", "wsgateway.server:WebSocketProtocol"])
def test_a_server_ends_at_once_while_a_panel_is_open(tmp_path: Path, ws: str) -> None:
    (tmp_path / "host.py").write_text(
        "from starlette.applications import Starlette\nfrom starlette.routing import Mount\n"
        "from wsgateway import Gateway\nfrom wsgateway.admin import Panel\ngateway = Gateway()\n"
        'app = Starlette(routes=[Mount("/panel", Panel([gateway]))], lifespan=gateway.lifespan)\n'
    )
    port = free_port()
    argv = [sys.executable, "-m", "uvicorn", "host:app", "--port", str(port), "--ws", ws]
    with subprocess.Popen(argv, cwd=tmp_path, env=processes.environment()) as process:
        try:
            with watching(f"ws://127.0.0.1:{port}/panel/live") as socket:
                assert "gateways" in json.loads(socket.recv())
                process.terminate()
                assert process.wait(10) == -signal.SIGTERM
        finally:
            process.kill()


@contextmanager
def watching(url: str) -> Iterator[ClientConnection]:
    """A WebSocket to a server that is about to listen."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with sync_connect(url) as socket:
                yield socket
                return
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)  # another process opens the socket, and reports nothing


async def test_channels_are_shown_and_survive_a_change_but_are_not_in_the_form(tmp_path: Path) -> None:
    text = FILE + '[gateways.chat.channels."room:<b>*"]\nhistory = 100\nclients = "subscribe, publish"\n'
    async with admin(tmp_path, text) as (supervisor, url), visitor(url) as somebody:
        page = (await somebody.get("/gateways/chat/settings")).text
        assert "room:&lt;b&gt;* (clients subscribe+publish, public False, history 100, history_ttl 86400.0" in page
        assert 'name="channels"' not in page
        before = supervisor.find("chat").settings.channels
        await supervisor.edit("chat", {"drain": 5.0})
        assert supervisor.find("chat").settings.channels == before
        assert (await somebody.http.get("/api/gateways/chat")).json()["settings"]["channels"]["room:<b>*"][
            "history"
        ] == 100
        gateway = supervisor.find("chat").gateway
        await supervisor.reload()
        assert supervisor.find("chat").gateway is gateway  # nothing has changed
