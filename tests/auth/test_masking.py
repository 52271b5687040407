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
from wsgateway.hub.request import Headers
from wsgateway.logs import LineFormatter, QueryMask, escape_controls, mask_query, mask_url
from wsgateway.messages import decode_json
from wsgateway.testing import serve

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


def test_of_a_query_string_only_names_are_shown() -> None:
    assert shown_parameters(b"token=SECRET&room=a%20b&room=c") == ["room", "token"]
    assert shown_parameters(b"") == []
    for bare in (b"SECRET", b"SECRET=", b"SECRET==", b"&&SECRET&&", b"=SECRET", b"%53ECRET"):
        assert "SECRET" not in str(shown_parameters(bare))


# URLs


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:SECRET@host:6379/0", "redis://host:6379/0"),
        ("rediss://user:SECRET@host", "rediss://host"),
        ("redis://:SECRET,REST@127.0.0.1:1", "redis://127.0.0.1:1"),
        ("redis://:SE@CRET@host/2", "redis://host/2"),
        ("redis://:SE/CRET@host:6379", "redis://host:6379"),
        ("redis://:SE?CRET@host", "redis://host"),
        ("redis://:SE#CRET@host/1", "redis://host/1"),
        ("redis://user:12/34SECRET@host", "redis://…"),
        ("redis://:SE/CR@ET@host", "redis://…"),
        ("redis://user:SECRET", "redis://…"),
        ("redis://user:SECRET/0", "redis://…"),
        ("redis://host?password=SECRET", "redis://host?…"),
        ("redis://:SECRET@[::1]:6379/0", "redis://[::1]:6379/0"),
        ("user:SECRET@host:6379", "host:6379"),
        ("unix:///run/redis.sock?db=1&password=SECRET", "unix:///run/redis.sock?…"),
        ("unix://user:SECRET@/run/redis.sock", "unix:///run/redis.sock"),
        ("unix:///run/redis@1.sock", "unix:///run/redis@1.sock"),
        ("ipc:///run/wsgateway", "ipc:///run/wsgateway"),
        ("nats://a:4222,b:4222", "nats://a:4222,b:4222"),
        ("nats://SECRET@host", "nats://host"),
        ("nats://u:SECRET@a:4222,nats://u:SECRET@b:4222", "nats://a:4222,nats://b:4222"),
        ("nats://u:SECRET@a:4222,b:4222", "nats://a:4222,b:4222"),
        ("nats://u:SECRET@a,u:SECRET@b", "nats://b"),
        ("tls://u:SEC,RET@a,tls://u:SE/CRET@b", "tls://a,tls://b"),
        ("wss://ann:SECRET@host/ws/room?key=SECRET", "wss://host/ws/room?…"),
        ("wss://host/ws?key=a@SECRET", "wss://…"),
        ("https://host/path#SECRET", "https://host/path"),
        ("SEC@RET://host", "…"),
    ],
)
def test_a_url_is_shown_without_user_password_and_query(url: str, shown: str) -> None:
    assert mask_url(url) == shown


@pytest.mark.parametrize("tail", ["", "/0", "?db=1", "/0?x=y"])
@pytest.mark.parametrize("scheme", ["redis", "rediss", "nats", "tls", "https", "wss", ""])
def test_no_part_of_any_password_is_shown(scheme: str, tail: str) -> None:
    before = f"{scheme}://" if scheme else ""
    for first in "@,/#?:%&=;! [":
        for second in "@,/#?:x":
            password = f"SECRET{first}SECRET{second}SECRET"
            for user in ("", "user"):
                url = f"{before}{user}:{password}@host:6379{tail}"
                assert "SECRET" not in mask_url(url), url
                assert "SECRET" not in json.dumps(Settings(broker=url).shown())
                try:
                    Gateway(broker=url)
                except ConfigError as exc:
                    assert "SECRET" not in str(exc)  # noqa: PT017  whether it raises depends on the URL


@pytest.mark.parametrize("url", ["redis://u:12#34@127.0.0.1:1", "redis://:5/6@127.0.0.1:1", "nats://u:p?q@127.0.0.1:1"])
def test_a_password_that_could_be_taken_for_a_host_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="%2F for `/`"):
        Gateway(broker=url)


# Lines


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("/ws?token=SECRET", "/ws?…"),
        ("/ws?a=b'SECRET", "/ws?…"),
        ('/ws?a=b"SECRET', "/ws?…"),
        ("/ws?a=b?SECRET", "/ws?…"),
        ("http://h?a=SECRET", "http://h?…"),
        ("?a=SECRET", "?…"),
        ('"GET /a?b=SECRET HTTP/1.1" is it there? yes', '"GET /a?… HTTP/1.1" is it there? yes'),
        ("really?", "really?"),
        ("/a?\x0bSECRET\xa0SECRET", "/a?…"),
    ],
)
def test_nothing_of_a_query_string_stays(text: str, masked: str) -> None:
    assert mask_query(text) == masked


def test_the_filter_masks_paths_whatever_they_hold_and_whole_messages(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("masked.by.a.test")
    log.addFilter(QueryMask())
    log.warning('%s - "%s %s HTTP/%s" %d', "1.2.3.4:5", "GET", "/a?b= SECRET 'SECRET", "1.1", 200)
    log.warning("cannot read http://h/x?key=SECRET")
    log.warning("50% of %s?")
    assert caplog.messages == [
        '1.2.3.4:5 - "GET /a?… HTTP/1.1" 200',
        "cannot read http://h/x?…",
        "50% of %s?",
    ]


@pytest.mark.parametrize("character", "\x00\x07\x1b\x7f\x80\x9b\u061c\u200e\u200f\u2028\u202a\u202e\u2066\u2069\ud800")
def test_characters_that_act_on_a_terminal_are_escaped(character: str) -> None:
    assert escape_controls(f"a{character}b") == f"a{ascii(character)[1:-1]}b"


def test_text_of_any_language_is_shown_as_it_is() -> None:
    text = "ü ñ 漢字 שלום مرحبا 👍🏽 e\u0301 \u200d"
    assert escape_controls(text) == text


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
        described = await gateway.directory.describe(conn.id)
        assert described is not None
        assert described["headers"]["x-password"] == "*** (7 characters)"
        assert described["subprotocols"] == ["chat", "*** (24 characters)"]
        transport = httpx.ASGITransport(panel)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            page = await http.get(f"/gateways/default/connections/{conn.id}")
    assert page.status_code == 200
    assert "tested?…" in page.text
    assert "SECRET" not in page.text + json.dumps(described)
