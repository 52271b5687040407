"""Below any prefix: that of a mount, whatever its name, and one that a proxy removes and the server does not know."""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import httpx
import pytest
from playwright.async_api import Browser, expect
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.panels import TOKEN, Visitor, admin, visitor
from tests.proxies import DEPLOY, NAME, Proxy, Site, caddy, haproxy, nginx, sample, samples, traefik
from wsgateway import Gateway
from wsgateway.admin import Panel
from wsgateway.admin.passwords import hash_password, write_password
from wsgateway.auth.admin import Access
from wsgateway.testing import Client, serve

PASSWORD = "correct horse"
CHAT = "[admin]\nport = 0\n[gateways.chat]\nport = 0\n"


async def shows_the_test_page(http: httpx.AsyncClient, url: str) -> None:
    """The page at `url` finds its script, its style sheet and `/send`."""
    page = await http.get(url)
    assert page.status_code == 200
    base = re.search(r'<base href="([^"]+)">', page.text)
    assert base
    found = page.url.join(base[1])
    for path in re.findall(r'(?:href|src)="(pages/[^"]+)"', page.text):
        assert (await http.get(found.join(path))).status_code == 200
    assert (await http.post(found.join("send"), json={"message": "hi"})).status_code == 200


async def works_as_a_panel(somebody: Visitor, root: str) -> None:
    """Log in at `root`, follow the links, send a form from a deep page, log out."""
    http = somebody.http
    shown = await http.get(root)
    assert "Log in" in shown.text, shown.text
    token = TOKEN.search(shown.text)
    assert token
    shown = await http.post(target(shown, "action"), data={"csrf": token[1], "password": PASSWORD})
    assert "<h1>Overview</h1>" in shown.text
    for path in re.findall(r'(?:href|src)="(\./static[^"]+)"', shown.text):
        assert (await http.get(base_of(shown).join(path))).status_code == 200
    deep = await http.get(base_of(shown).join("./gateways/chat"))
    assert "<h1>chat</h1>" in deep.text
    token = TOKEN.search(deep.text)
    assert token
    url = base_of(deep).join("./gateways/chat/send")
    sent = await http.post(url, data={"csrf": token[1], "message": "hi"})
    assert "No connection received the message." in sent.text
    shown = await http.post(base_of(sent).join("./logout"), data={"csrf": token[1]})
    assert "Log in" in shown.text
    assert "Log in" in (await http.get(root)).text


def base_of(page: httpx.Response) -> httpx.URL:
    found = re.search(r'<base href="([^"]+)">', page.text)
    assert found
    return page.url.join(found[1])


def target(page: httpx.Response, attribute: str) -> httpx.URL:
    found = re.search(rf'{attribute}="([^"]+)"', page.text.partition("<main")[2])
    assert found
    return base_of(page).join(found[1])


# Mounts

NAMES = ("/live", "/café", "/a b", "/a:b", "/100%", "/живи/здесь", "/caf%C3%A9")
"""The last one is `/caf%25C3%25A9` for clients; Starlette redirects it wrongly without a slash at its end."""


@pytest.mark.parametrize("name", NAMES)
async def test_the_test_page_and_the_websocket_work_at_a_mount_of_any_name(name: str) -> None:
    gateway = Gateway(local_access=True)
    app = Starlette(routes=[Mount(name, gateway)], lifespan=gateway.lifespan)
    async with serve(app) as url, httpx.AsyncClient(follow_redirects=True) as http:
        if "%C3" not in name:
            await shows_the_test_page(http, url + quote(name))
        await shows_the_test_page(http, url + quote(name) + "/")
        async with Client(url, quote(name) + "/ws/a%20b") as ann:
            await ann.send("hi")
            assert await ann.receive() == "hi"
            (conn,) = gateway.connections
            assert conn.path == "/ws/a b"


@pytest.mark.parametrize("name", NAMES)
async def test_the_panel_works_at_a_mount_of_any_name(name: str) -> None:
    gateway = Gateway(id="chat")
    panel = Panel([gateway], password_hash=hash_password(PASSWORD))
    app = Starlette(routes=[Mount(name, panel)], lifespan=gateway.lifespan)
    async with serve(app) as url, visitor(url) as somebody:
        await works_as_a_panel(somebody, quote(name) + "/")


async def test_two_panels_of_one_application_keep_both_log_ins() -> None:
    panels = [Panel([Gateway(id=name)], password_hash=hash_password(PASSWORD)) for name in ("a", "b")]
    routes = [Mount(f"/{number}", panel) for number, panel in enumerate(panels)]
    async with serve(Starlette(routes=routes)) as url, visitor(url) as somebody:
        for number in range(2):
            await somebody.submit(f"/{number}/login", {"password": PASSWORD})
        for number in range(2):
            assert "<h1>Overview</h1>" in (await somebody.get(f"/{number}/")).text


# Proxies that remove a prefix


def nginx_below(upstreams: Sequence[str], folder: Path, health: str = "/health") -> AbstractContextManager[Site]:
    del health  # it asks for none
    return nginx(upstreams, folder, changes={"location / {": "location /live/ {"})


def caddy_below(upstreams: Sequence[str], folder: Path, health: str = "/health") -> AbstractContextManager[Site]:
    del health
    text = sample("caddy", "handle_path").replace("127.0.0.1:10125", " ".join(upstreams))
    return caddy([], folder, text)


def haproxy_below(upstreams: Sequence[str], folder: Path, health: str = "/health") -> AbstractContextManager[Site]:
    lines = ("http-request redirect location /live/", "http-request replace-path /live")
    changes = {f"# {line}": line for line in lines}
    return haproxy(upstreams, folder, changes={**changes, "GET /health": f"GET {health}"})


def traefik_below(upstreams: Sequence[str], folder: Path, health: str = "/health") -> AbstractContextManager[Site]:
    changes = {
        "-upgrade, another]": "-upgrade, another, slash, prefix]",
        "Host(`example.com`)": "Host(`example.com`) && PathPrefix(`/live`)",
        "path: /health": f"path: {health}",
    }
    return traefik(upstreams, folder, changes=changes)


BELOW = (nginx_below, caddy_below, haproxy_below, traefik_below)


def site_client(site: Site) -> httpx.AsyncClient:
    """A client that asks for the public name, whose address it knows."""

    class Transport(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            there = httpx.Request(
                request.method,
                request.url.copy_with(host="127.0.0.1"),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": NAME},
            )
            return await super().handle_async_request(there)

    transport = Transport(verify=site.trust)
    return httpx.AsyncClient(transport=transport, base_url=site.origin, follow_redirects=True)


@pytest.mark.parametrize("below", BELOW)
async def test_a_gateway_works_below_a_prefix_that_a_proxy_removes(below: Proxy, tmp_path: Path) -> None:
    async with serve(Gateway(api_key=("the-key",))) as url:
        with below([url.removeprefix("http://")], tmp_path) as site:
            async with site_client(site) as http:
                http.headers["authorization"] = "Bearer the-key"
                await shows_the_test_page(http, "/live/")
                await shows_the_test_page(http, "/live")
                assert (await http.get("/live/ready")).status_code == 200
                assert (await http.get("/live/ws/a%20b", headers={"origin": site.origin})).status_code == 426
            async with site.client("/live/ws", origin=site.origin) as ann:
                await ann.send("hi")
                assert await ann.receive() == "hi"


@pytest.mark.parametrize("below", BELOW)
async def test_the_panel_works_below_a_prefix_that_a_proxy_removes(below: Any, tmp_path: Path) -> None:
    folder = tmp_path / "panel"
    folder.mkdir()
    write_password(folder / "wsgateway.password", PASSWORD, Access.FULL)
    async with admin(folder, CHAT) as (_, url):
        with below([url.removeprefix("http://")], tmp_path, "/login") as site:
            somebody = Visitor(site.origin)
            somebody.http = site_client(site)
            async with somebody.http:
                await works_as_a_panel(somebody, "/live/")


async def test_a_mounted_panel_works_below_a_prefix_that_a_proxy_removes(tmp_path: Path) -> None:
    gateway = Gateway(id="chat")
    panel = Panel([gateway], password_hash=hash_password(PASSWORD))
    async with serve(Starlette(routes=[Mount("/panel", panel)], lifespan=gateway.lifespan)) as url:
        with nginx_below([url.removeprefix("http://")], tmp_path) as site:
            somebody = Visitor(site.origin)
            somebody.http = site_client(site)
            async with somebody.http:
                await works_as_a_panel(somebody, "/live/panel/")


async def test_the_pages_work_in_a_browser_below_a_prefix_that_a_proxy_removes(
    browser: Browser, tmp_path: Path
) -> None:
    folder = tmp_path / "panel"
    folder.mkdir()
    write_password(folder / "wsgateway.password", PASSWORD, Access.FULL)
    context = await browser.new_context(ignore_https_errors=True)
    context.set_default_timeout(15_000)
    page = await context.new_page()
    async with admin(folder, CHAT) as (supervisor, url):
        with nginx_below([url.removeprefix("http://")], tmp_path) as site:
            await page.goto(f"https://127.0.0.1:{site.port}/live/")
            await page.get_by_label("Password").fill(PASSWORD)
            await page.get_by_role("button", name="Log in").click()
            await expect(page.locator("#link")).to_have_text("live")
            await page.get_by_role("link", name="chat", exact=True).click()
            await expect(page.locator("#link")).to_have_text("live")
            await page.get_by_role("link", name="Skip to content").focus()
            await page.keyboard.press("Enter")
            assert page.url == f"https://127.0.0.1:{site.port}/live/gateways/chat#main"
            async with Client(supervisor.find("chat").url):
                await page.get_by_role("link", name="Connections", exact=True).click()
                await expect(page.locator("#shown")).to_have_text("1 to 1 of 1")
                await page.locator("#clients th a").click()
                await expect(page.locator("#link")).to_have_text("live")
            await page.get_by_role("button", name="Log out").click()
            await expect(page).to_have_url(f"https://127.0.0.1:{site.port}/live/login")
    async with serve(Gateway()) as url:
        with nginx_below([url.removeprefix("http://")], tmp_path) as site:
            await page.goto(f"https://127.0.0.1:{site.port}/live/")
            for name in "AB":
                client = page.get_by_role("region", name=f"Client {name}")
                await expect(client).to_have_attribute("data-state", "open")
                await expect(client.locator(".id")).to_have_text(re.compile(r"\S{8}"))
    await context.close()


# Applications that expect the prefix


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
async def test_an_application_works_behind_the_documented_configuration(kind: str, tmp_path: Path) -> None:
    gateway = Gateway(api_key=("the-key",))
    app = Starlette(routes=[Mount("/live", gateway)], lifespan=gateway.lifespan)
    async with serve(app) as url:
        text = sample(kind, ":8000").replace("127.0.0.1:8000", url.removeprefix("http://"))
        proxy = nginx([], tmp_path, text=text) if kind == "nginx" else caddy([], tmp_path, text)
        with proxy as site:
            async with site_client(site) as http, site.client("/live/ws", origin=site.origin) as ann:
                http.headers["authorization"] = "Bearer the-key"
                await shows_the_test_page(http, "/live/")
                with anyio.fail_after(10):
                    assert [await ann.receive() for _ in range(1)] == ["hi"]


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
async def test_the_routes_of_backends_are_private_with_the_documented_lines(kind: str, tmp_path: Path) -> None:
    async with serve(Gateway(api_key=("the-key",))) as url:
        upstream = url.removeprefix("http://")
        lines = sample(kind, "404")
        if kind == "nginx":
            changes = {"    location / {": f"{lines}    location / {{"}
            proxy: AbstractContextManager[Site] = nginx([upstream], tmp_path, changes=changes)
        else:
            text = (DEPLOY / "Caddyfile").read_text().replace("{$GATEWAY_SITE:example.com}", NAME)
            before, line = "\treverse_proxy {$GATEWAY_UPSTREAMS:127.0.0.1:10125}", f"\treverse_proxy {upstream}"
            proxy = caddy([], tmp_path, text.replace(before, f"{lines}{line}"))
        with proxy as site:
            async with site_client(site) as http, site.client("/ws", origin=site.origin):
                assert (await http.get("/health")).status_code == 200
                for path in ("/send", "/api/info", "/metrics", "/info", "/channels/room:1"):
                    assert (await http.get(path, headers={"x-api-key": "the-key"})).status_code == 404, path


def test_every_sample_of_a_proxy_is_run() -> None:
    assert [len(samples(kind)) for kind in ("nginx", "caddy")] == [4, 3]  # two of nginx are in test_unix_sockets
