"""Addresses of gateways as a reader of the panel sees them, and samples to copy."""

import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.panels import admin, visitor
from wsgateway import Gateway
from wsgateway.admin import Panel
from wsgateway.admin.connect import ConnectInfo, connect_to
from wsgateway.auth.admin import Access
from wsgateway.config.settings import Settings
from wsgateway.supervisor.instance import Instance
from wsgateway.testing import Client, serve


def connect(settings: dict[str, object], *, asked: str = "127.0.0.1:10120") -> ConnectInfo:
    instance = Instance(Settings(id="chat", **settings), lambda _: None, lambda: "")  # type: ignore[arg-type]  # any settings
    return connect_to(instance, {"headers": [(b"host", asked.encode())], "scheme": "http", "server": ("10.0.0.1", 1)})


@pytest.mark.parametrize(
    ("asked", "settings", "url"),
    [
        ("127.0.0.1:10120", {}, "ws://127.0.0.1:10125/ws"),
        ("localhost:10120", {}, "ws://localhost:10125/ws"),
        ("panel.test", {}, "ws://127.0.0.1:10125/ws"),
        ("panel.test:8443", {"host": "0.0.0.0"}, "ws://panel.test:10125/ws"),
        ("[2001:db8::1]:10120", {"host": "::"}, "ws://[2001:db8::1]:10125/ws"),
        ("panel.test", {"host": "192.0.2.7", "port": 9000}, "ws://192.0.2.7:9000/ws"),
        (
            "panel.test",
            {"host": "0.0.0.0", "ssl_certfile": "c.pem", "ssl_keyfile": "k.pem"},
            "wss://panel.test:10125/ws",
        ),
        ("[not an address", {"host": "0.0.0.0"}, "ws://10.0.0.1:10125/ws"),
        ("panel.test", {"port": 0}, ""),
        ("panel.test", {"protocols": ("centrifuge",)}, "ws://127.0.0.1:10125/connection/websocket"),
        ("panel.test", {"protocols": ("centrifuge", "sse")}, "ws://127.0.0.1:10125/connection/websocket"),
        ("panel.test", {"protocols": ("sse",)}, ""),
    ],
)
def test_the_address_is_the_one_that_the_reader_can_reach(asked: str, settings: dict[str, object], url: str) -> None:
    assert connect(settings, asked=asked).url == url


def test_a_host_that_a_client_names_stays_inside_the_quotes_of_the_samples() -> None:
    found = connect({"host": "0.0.0.0"}, asked="a'\"$(id)`")
    client, browser, python, curl = (sample.text for sample in found.samples)
    assert 'from "http://a\'\\"$(id)`:10125/client.js"' in client
    assert 'WebSocket("ws://a\'\\"$(id)`:10125/ws")' in browser
    assert 'connect("ws://a\'\\"$(id)`:10125/ws")' in python
    assert curl.endswith("""'http://a'"'"'"$(id)`:10125/send'""")


def test_a_unix_socket_has_only_the_address_for_curl() -> None:
    found = connect({"uds": "/run/it's.sock"})
    assert (found.url, found.test_page, len(found.samples)) == ("", "", 1)
    assert """--unix-socket '/run/it'"'"'s.sock' """ in found.samples[0].text
    assert "/run/it's.sock" in found.notes[0]


@pytest.mark.parametrize(
    ("settings", "part", "hint"),
    [
        ({"local_access": True}, "curl -H 'content-type", "only callers on the host of the gateway"),
        ({"api_key": ("k",)}, "Bearer YOUR_API_KEY", "Replace YOUR_API_KEY"),
        ({}, "Bearer YOUR_API_KEY", "Set api_key in the settings first"),
    ],
)
def test_a_push_says_which_key_it_needs(settings: dict[str, object], part: str, hint: str) -> None:
    sample = connect(settings).samples[-1]
    assert part in sample.text
    assert hint in sample.hint


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"token_secret": ("s" * 32,)}, "{ token: () => YOUR_TOKEN }"),
        ({"token_secret": ("s" * 32,), "protocols": ("plain",)}, '["bearer", YOUR_TOKEN]'),
        ({"protocols": ("v1",)}, 'from "http://127.0.0.1:10125/client.js"'),
        ({"protocols": ("centrifuge",)}, "new Centrifuge("),
        ({"protocols": ("sse",)}, "new EventSource("),
    ],
)
def test_the_sample_for_a_browser_speaks_a_protocol_of_the_gateway(settings: dict[str, object], part: str) -> None:
    assert part in connect(settings).samples[0].text


def test_every_sample_has_the_token_that_clients_need() -> None:
    client, browser, python, _ = connect({"token_secret": ("s" * 32,)}).samples
    assert all("YOUR_TOKEN" in sample.text for sample in (client, browser))
    assert 'additional_headers={"authorization": "Bearer YOUR_TOKEN"}' in python.text
    centrifuge = connect({"token_secret": ("s" * 32,), "protocols": ("centrifuge",)}).samples[0]
    assert "{ token: YOUR_TOKEN }" in centrifuge.text
    source = connect({"token_secret": ("s" * 32,), "protocols": ("sse",)}).samples[0]
    assert "token_cookie" in source.hint
    assert "TOKEN" not in connect({}).samples[2].text


async def test_the_page_shows_the_address_at_which_the_gateway_serves(tmp_path: Path) -> None:
    async with admin(tmp_path, "[gateways.chat]\nport = 0\n") as (supervisor, url), visitor(url) as reader:
        text = (await reader.get("/")).text
        page = re.search(r'href="(http[^"]+)">Open test page', text)
        assert page
        assert page[1] == f"{supervisor.find('chat').url}/"
        assert f"connect(&#34;ws{page[1][4:]}ws&#34;)" in text
        async with Client(page[1].rstrip("/")) as ann:
            await ann.send("hello")
            assert await ann.receive() == "hello"


def guard(_: object) -> Access:
    return Access.FULL


@pytest.mark.parametrize("make", [Starlette, FastAPI])
async def test_a_mounted_gateway_is_found_below_its_prefix(make: type[Starlette]) -> None:
    gateway, away = Gateway(id="live"), Gateway(id="away")
    inner = make(routes=[Mount("/live", gateway), Mount("/panel", Panel([gateway, away], guard=guard))])
    app = Starlette(routes=[Mount("/shop", inner)], lifespan=gateway.lifespan)
    async with serve(app) as url, visitor(url) as reader:
        text = (await reader.get("/shop/panel/")).text
    assert f'data-copy="ws{url[4:]}/shop/live/ws"' in text
    assert f'href="{url}/shop/live/">Open test page' in text
    assert "The application decides at which path this gateway is mounted." in text
