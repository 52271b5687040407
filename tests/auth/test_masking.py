"""What people may see of requests and of URLs, and that no text of a stranger takes long."""

import json
import logging
import time
from collections.abc import Callable

import httpx
import pytest

from tests.raw import connect, upgrade
from wsgateway import Gateway
from wsgateway.admin import Panel
from wsgateway.auth.admin import Access
from wsgateway.auth.masking import SHOWN_HEADERS, shown_headers, shown_parameters, shown_subprotocols
from wsgateway.auth.rules import Rules
from wsgateway.config.settings import Settings
from wsgateway.exceptions import ConfigError
from wsgateway.gateway.shapes import encoded, fields_of
from wsgateway.hub.request import Headers
from wsgateway.logs import LineFormatter
from wsgateway.messages import decode_json
from wsgateway.testing import serve
from wsgateway.text import escape_controls, mask_query, mask_url

SECRET_HEADERS = """
    authorization cookie proxy-authorization cf-access-jwt-assertion x-amzn-oidc-data x-amzn-oidc-identity x-password
    referer x-api-key x-goog-iap-jwt-assertion x-ms-client-principal x-forwarded-client-cert x-forwarded-access-token
    x-auth-request-email sec-websocket-protocol x-original-url x-whatever forwarded
"""


@pytest.mark.parametrize("name", SECRET_HEADERS.split())
def test_of_a_header_that_is_not_on_the_list_only_the_length_is_shown(name: str) -> None:
    assert shown_headers(Headers([(name.encode(), b"SECRET7")])) == {name: "*** (7 characters)"}


def test_headers_on_the_list_are_shown_cut_and_without_query_strings() -> None:
    values = {
        "host": "example.com:8000",
        "origin": "https://example.com",
        "user-agent": "Mozilla/5.0 (X11; Linux x86_64)",
        "accept-language": "en-US,en;q=0.5",
        "sec-websocket-extensions": "permessage-deflate; client_max_window_bits",
    }
    assert shown_headers(values) == values
    assert set(values) < SHOWN_HEADERS
    shown = shown_headers(
        {"user-agent": "x" * 5000, "origin": "https://u:SECRET@h", "host": "SECRET@h", "x" * 300: "y"}
    )
    assert shown["user-agent"] == "x" * 200 + "…"
    assert "SECRET" not in json.dumps(shown)
    assert max(map(len, shown)) == 201
    assert shown_headers({"user-agent": "bot (+http://h/?t=SECRET)"}) == {"user-agent": "bot (+http://h/?…"}


@pytest.mark.parametrize(
    ("word", "is_shown"),
    [
        ("chat", True),
        ("v1.chat", True),
        ("ocpp2.0.1", True),
        ("graphql-transport-ws", True),
        ("actioncable-unsupported", True),
        ("base64url.bearer.SECRET1", False),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", False),
        ("0123456789abcdef0123456789abcdef", False),
    ],
)
def test_a_subprotocol_that_may_be_a_token_is_not_shown(word: str, is_shown: bool) -> None:
    assert shown_subprotocols([word]) == [word if is_shown else f"*** ({len(word)} characters)"]


def test_what_follows_bearer_is_a_token_however_short_it_is() -> None:
    assert shown_subprotocols(["chat", "bearer", "hush"]) == ["chat", "bearer", "*** (4 characters)"]
    assert shown_subprotocols(["chat", "bearer"]) == ["chat", "bearer"]


def test_of_a_query_string_only_names_are_shown() -> None:
    assert shown_parameters(b"token=SECRET&room=a%20b&room=c") == ["room", "token"]
    assert shown_parameters(b"") == []
    for bare in (b"SECRET", b"SECRET=", b"SECRET==", b"&&SECRET&&", b"=SECRET", b"%53ECRET"):
        assert "SECRET" not in str(shown_parameters(bare))


# Time

LARGE = 200_000

TEXTS = [
    "/",
    "/?",
    "?",
    "a",
    " ",
    "a ",
    "@",
    ",",
    ":",
    "#",
    "[",
    "]",
    "=",
    "&",
    "%",
    ";",
    "'",
    '"',
    "\\",
    ".",
    "-",
    "\x00",
]
TEXTS += ["ä", "://", ",nats://", "a=", "a=b&", "%41", '{"a":', "[],", "1", "\\ud800", "\n"]


def formatted(text: str) -> None:
    LineFormatter().format(logging.LogRecord("x", 30, "", 1, "%s", (text,), None))


def rules(text: str) -> None:
    scope = {
        "headers": [(name, text.encode()) for name in (b"host", b"origin", b"cookie", text.lower().encode())],
        "scheme": "ws",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 1),
        "http_version": "1.1",
    }
    found = Rules(Settings(allowed_hosts=("*.example",), allowed_origins=("https://x.example",), local_access=True))
    found.check_host(scope)
    found.check_origin(scope)
    found.check_caller(scope)


FUNCTIONS: list[Callable[[str], object]] = [
    mask_query,
    mask_url,
    escape_controls,
    formatted,
    rules,
    lambda text: mask_url(f"nats://{text}"),
    lambda text: mask_url(f"redis://:{text}@h"),
    lambda text: shown_headers({"user-agent": text, "cookie": text, "origin": text, text: text}),
    lambda text: shown_subprotocols([text, *text.split(",")]),
    lambda text: shown_parameters(text.encode()),
    lambda text: decode_json(text.encode()),
    lambda text: Settings(id=text),
]


@pytest.mark.parametrize("text", TEXTS)
def test_no_text_of_a_stranger_takes_long(text: str) -> None:
    """200 KB take an expression of quadratic time minutes; the bound is generous."""
    large = (text * (LARGE // len(text) + 1))[:LARGE]
    began = time.process_time()
    for function in FUNCTIONS:
        for tried in (large, f"x{large}", f"{large}?x=y"):
            try:
                function(tried)
            except (ValueError, ConfigError):
                pass
    assert time.process_time() - began < 20


# The interfaces


SENT = [
    "Sec-WebSocket-Protocol: chat, base64url.bearer.SECRET1",
    "Cf-Access-Jwt-Assertion: SECRET2",
    "Referer: https://u:SECRET3@h/?SECRET4",
    "X-Password: SECRET5",
    "User-Agent: tested?x=SECRET6",
]


@pytest.mark.parametrize("access", [Access.READ, Access.FULL])
async def test_rest_and_panel_show_no_secret_of_a_client(access: Access) -> None:
    gateway = Gateway(local_access=True)
    panel = Panel([gateway], guard=lambda _: access)
    async with serve(gateway) as url, await connect(url) as raw:
        await raw.send(upgrade(*SENT, path="/ws?token=SECRET7&SECRET8"))
        assert b" 101 " in await raw.receive_until(b"\r\n\r\n")
        conn = next(iter(gateway.connections))
        described = await gateway.inspector.describe(conn.id)
        assert described is not None
        assert fields_of(described)["headers"]["x-password"] == "*** (7 characters)"
        assert described.subprotocols == ["chat", "*** (24 characters)"]
        transport = httpx.ASGITransport(panel)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            page = await http.get(f"/gateways/default/connections/{conn.id}")
    assert page.status_code == 200
    assert "tested?…" in page.text
    assert "SECRET" not in page.text + encoded(described).decode()
