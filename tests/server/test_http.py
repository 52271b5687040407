"""Requests as they are on the wire: where a body ends, what may follow it, what else a head may look like, and how long
a socket without a request lasts."""

import asyncio
import logging
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.raw import KEY, Raw, connect, handshake, masked, post, upgrade
from tests.servers import OwnServer, OwnServerTls, PlainUvicorn
from wsgateway import Event, Gateway, Settings
from wsgateway.server.head import MAX_HEAD
from wsgateway.server.http import HttpProtocol
from wsgateway.server.pacing import IdleSockets
from wsgateway.server.serving import serving
from wsgateway.server.websocket import WebSocketProtocol
from wsgateway.testing import Client

own = OwnServer()

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def everything(raw: Raw) -> bytes:
    """All that the server sends until it closes."""
    received = b""
    with anyio.fail_after(20):
        while True:
            try:
                received += await raw.receive_some()
            except anyio.EndOfStream:
                return received


def head(first: str, *headers: str) -> bytes:
    return "\r\n".join([first, "Host: localhost", *headers, "\r\n"]).encode()


UPGRADES = [
    ("Connection: upgrade", "Upgrade: foo"),
    ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA"),
    ("Connection: keep-alive", "Connection: upgrade", "Upgrade: foo"),
    ("Upgrade: TLS/1.3, h2c", "Connection: close, Upgrade"),
    ("Connection: upgrade", "Upgrade: websocket2"),
    ("Connection: upgrade", "Upgrade:"),
    ("Upgrade: h2c",),
    ("connection: UPGRADE ", "UPGRADE:   foo  "),
]


@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("headers", UPGRADES, ids=" ".join)
async def test_a_body_is_not_a_request_whatever_upgrade_is_asked_for(headers: tuple[str, ...], method: str) -> None:
    body = b"\r\n" * 20_000 + SMUGGLED
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(head(f"{method} /health HTTP/1.1", *headers, f"Content-Length: {len(body)}") + body)
        answers = await everything(raw)
    assert answers.count(b"HTTP/1.1 ") == 1
    assert b"smuggled" not in answers
    assert b"connection: close" in answers


async def test_uvicorn_with_the_protocols_of_the_gateway_is_as_safe() -> None:
    body = b"\r\n" * 20_000 + SMUGGLED
    async with PlainUvicorn(http=HttpProtocol, ws=WebSocketProtocol)(Gateway()) as url, await connect(url) as raw:
        await raw.send(head("POST /health HTTP/1.1", *UPGRADES[0], f"Content-Length: {len(body)}") + body)
        answers = await everything(raw)
        async with Client(url) as client:
            await client.send("hello")
            assert await client.receive() == "hello"
    assert answers.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("headers", UPGRADES, ids=" ".join)
async def test_chunks_are_no_request_either(headers: tuple[str, ...]) -> None:
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(head("POST /health HTTP/1.1", *headers, "Transfer-Encoding: chunked") + chunks + SMUGGLED)
        answers = await everything(raw)
    assert answers.count(b"HTTP/1.1 ") == 1
    assert b"smuggled" not in answers


@pytest.mark.parametrize(
    "request_head",
    [
        head("POST /health HTTP/1.1", "Connection: upgrade", "Upgrade: foo", "Content-Length: 0"),
        head("GET /health HTTP/1.1", "Connection: upgrade", "Upgrade: foo"),
        head("GET /health HTTP/1.1", "Connection: close"),
        head("GET /health HTTP/1.0"),
        head("GET /health HTTP/1.0", "Connection: keep-alive"),
        head("POST /health HTTP/1.1", "Expect: 100-continue", "Content-Length: 0"),
        head("POST /health HTTP/1.1", "Expect: nonsense", "Content-Length: 0"),
    ],
)
async def test_nothing_behind_the_last_request_of_a_connection_is_parsed(request_head: bytes) -> None:
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(request_head + SMUGGLED)
        answers = await everything(raw)
    assert answers.count(b"HTTP/1.1 ") == 1
    assert b"smuggled" not in answers


@pytest.mark.parametrize("headers", UPGRADES, ids=" ".join)
@pytest.mark.parametrize("pieces", [1, 7, 10_000])
async def test_the_body_of_a_request_with_an_upgrade_is_read(headers: tuple[str, ...], pieces: int) -> None:
    messages: list[Any] = []

    class Listener:
        async def on_message(self, event: Event) -> None:
            messages.append(event.message)

    request = post({"message": "from Java"}, *headers, "Authorization: Bearer k")
    async with own(Gateway(Listener, api_key="k")) as url, await connect(url) as raw:
        size = max(1, len(request) // pieces)
        for at in range(0, len(request), size):
            await raw.send(request[at : at + size])
        assert (await everything(raw)).startswith(b"HTTP/1.1 200 ")
    assert messages == ["from Java"]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (["Content-Length: 5"], b"hello"),
        (["Transfer-Encoding: chunked"], b"0\r\n\r\n"),
        (["Content-Length: 05"], b"hello"),
    ],
)
async def test_a_handshake_with_a_body_is_400(headers: list[str], body: bytes) -> None:
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(upgrade(*headers) + body + SMUGGLED)
        answers = await everything(raw)
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert answers.count(b"HTTP/1.1 ") == 1


async def test_a_handshake_may_say_that_it_has_no_body() -> None:
    async with own(Gateway()) as url:
        raw, answer = await handshake(url, "Content-Length: 0")
        async with raw:
            assert answer.startswith(b"HTTP/1.1 101 ")


class Patient:
    """Answers `/send` once `release` is set."""

    def __init__(self) -> None:
        self.release = anyio.Event()

    async def on_message(self, event: Event) -> None:
        await self.release.wait()


@pytest.mark.parametrize(
    "second",
    [
        upgrade(),
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 2 * MAX_HEAD + b"\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
    ids=["handshake", "garbage", "large head", "long address", "connect"],
)
async def test_what_cannot_be_answered_yet_is_not_answered_before_its_turn(second: bytes) -> None:
    listener = Patient()
    async with own(Gateway(listener, local_access=True)) as url, await connect(url) as raw:
        await raw.send(post({"message": 1}) + second)
        await anyio.wait_all_tasks_blocked()
        listener.release.set()
        answers = await everything(raw)
    assert answers.startswith(b"HTTP/1.1 200 ")
    assert answers.count(b"HTTP/1.1 ") == 1


async def test_a_broken_body_is_400_and_its_application_hears_of_it() -> None:
    async with own(Gateway(local_access=True)) as url, await connect(url) as raw:
        await raw.send(head("POST /send HTTP/1.1", "Content-Type: application/json", "Transfer-Encoding: chunked"))
        await raw.send(b"5\r\nhel")
        await raw.send(b"lo\r\nnonsense\r\n")
        assert (await everything(raw)).startswith(b"HTTP/1.1 400 ")


async def test_the_limit_of_a_head_does_not_count_the_requests_before_it() -> None:
    request = head("GET /health HTTP/1.1", "X-Padding: " + "x" * 200)
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(request[:20])
        await anyio.wait_all_tasks_blocked()
        await raw.send(request[20:] + request * (MAX_HEAD // len(request)) + request[:-2])
        for _ in range(1 + MAX_HEAD // len(request)):
            assert (await raw.receive_until(b"}")).startswith(b"HTTP/1.1 200 ")
        await raw.send(request[-2:])
        assert (await raw.receive_until(b"}")).startswith(b"HTTP/1.1 200 ")


async def test_a_head_that_arrives_slowly_behind_an_answer_has_its_own_time_limit() -> None:
    listener = Patient()
    async with serving_with(Gateway(listener, local_access=True), timeout_keep_alive=0.2) as url:
        async with await connect(url) as raw:
            await raw.send(post({"message": 1}) + b"GET /health HTTP/1.1\r\nHost: loc")
            await anyio.wait_all_tasks_blocked()
            listener.release.set()
            assert (await raw.receive_until(b"}")).startswith(b"HTTP/1.1 200 ")
            await anyio.sleep(0.4)  # longer than an idle connection lasts
            await raw.send(b"alhost\r\n\r\n")
            assert (await raw.receive_until(b"}")).startswith(b"HTTP/1.1 200 ")


async def test_a_head_is_not_refused_once_the_last_response_is_written(caplog: pytest.LogCaptureFixture) -> None:
    release = anyio.Event()

    async def last(request: Request) -> Response:
        await release.wait()
        return Response(headers={"connection": "close"})

    class Impatient(HttpProtocol):
        request_timeout = 0.3

    app = Starlette(routes=[Route("/", last)])
    async with PlainUvicorn(http=Impatient)(app) as url, await connect(url) as raw:
        await raw.send(head("GET / HTTP/1.1") + b"GET / HTTP/1.1\r\nHo")
        await anyio.wait_all_tasks_blocked()
        release.set()
        assert b"HTTP/1.1 408" not in await everything(raw)
        await anyio.sleep(0.5)  # longer than the time limit of a head
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# Trailers and chunk extensions


@pytest.mark.parametrize(
    "endless",
    [b"0\r\n" + b"a:\r\n" * 200_000, b"0\r\na: " + b"b" * 500_000, b"0\r\n" + b"a" * 500_000, b"1;" + b"a" * 500_000],
    ids=["fields", "a value", "a name", "an extension"],
)
@pytest.mark.parametrize("path", ["/health", "/send"])
async def test_what_surrounds_a_body_has_a_bound(endless: bytes, path: str) -> None:
    async with own(Gateway(local_access=True)) as url, await connect(url) as raw:
        begin = head(f"POST {path} HTTP/1.1", "Content-Type: application/json", "Transfer-Encoding: chunked")
        answers = b""
        try:
            await raw.send(begin + endless)
            answers = await everything(raw)
        except anyio.BrokenResourceError:
            pass  # it was reset while it sent
        assert answers[:10] in (b"HTTP/1.1 4", b"")  # answered at once, or refused


async def test_trailers_are_not_headers() -> None:
    async with own(Gateway(api_key="k")) as url, await connect(url) as raw:
        chunks = b"f\r\n" + b'{"message":"a"}' + b"\r\n0\r\nAuthorization: Bearer k\r\n\r\n"
        await raw.send(
            head("POST /send HTTP/1.1", "Content-Type: application/json", "Transfer-Encoding: chunked") + chunks
        )
        assert (await raw.receive_until(b"}")).startswith(b"HTTP/1.1 401 ")


async def test_short_trailers_and_extensions_are_ignored() -> None:
    async with own(Gateway(api_key="k")) as url, await connect(url) as raw:
        headers = ["Content-Type: application/json", "Transfer-Encoding: chunked", "Authorization: Bearer k"]
        for _ in range(2):
            chunks = b'f;name="value"\r\n{"message":"a"}\r\n0\r\nDigest: x\r\n\r\n'
            await raw.send(head("POST /send HTTP/1.1", *headers) + chunks)
            assert (await raw.receive_until(b"}")).startswith(b"HTTP/1.1 200 ")


# What a head may look like


@pytest.mark.parametrize(
    "changed",
    [
        {"Connection: Upgrade": "Connection: keep-alive, Upgrade"},
        {"Connection: Upgrade": "Connection: Upgrade, keep-alive"},
        {"Connection: Upgrade": "Connection: keep-alive\r\nConnection: Upgrade"},
        {"Connection: Upgrade": "Connection: Upgrade\r\nConnection: keep-alive"},
        {"Connection: Upgrade": "Connection: uPGRADE\t"},
        {"Upgrade: websocket": "Upgrade: WebSocket  "},
        {f"Key: {KEY}": f"Key:   {KEY}  "},
        {"Version: 13": "Version: 13 \t"},
        {"GET /ws": "GET http://localhost/ws"},
        {"GET /ws": "GET ws://localhost/ws"},
        {"GET /ws": "GET HTTP://LOCALHOST/ws"},
        {"GET /ws": "GET ws://localhost/ws?a=b"},
        {"GET /ws": "GET http://localhost"},
    ],
    ids=str,
)
async def test_a_handshake_in_any_form_that_the_rfcs_allow(changed: dict[str, str]) -> None:
    request = upgrade().decode()
    for before, after in changed.items():
        assert before in request
        request = request.replace(before, after)
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(request.encode())
        assert (await raw.receive_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize(
    "value", ["", ",,", "permessage-deflate;", "permessage-deflate; =", "foo/bar", "x- -y", "\xff"]
)
async def test_extensions_that_cannot_be_parsed_are_ignored(
    value: str, compression: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with own(Gateway(compression=compression)) as url, await connect(url) as raw:
        await raw.send(
            upgrade().replace(b"\r\n\r\n", f"\r\nSec-WebSocket-Extensions: {value}\r\n\r\n".encode("latin-1"))
        )
        assert (await raw.receive_some()).split()[1] in (b"101", b"400")
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("target", ["http://user@localhost/ws", "ftp://localhost/ws", "ws:/ws"])
async def test_a_target_that_is_no_address_of_the_gateway_is_400(target: str) -> None:
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(upgrade(path=target))
        answer = await everything(raw)
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_the_host_of_an_absolute_target_counts_and_not_the_header() -> None:
    async with own(Gateway(allowed_hosts=["good.example"])) as url:
        for target, status in (("http://good.example/info", b"403"), ("http://evil.example/info", b"400")):
            async with await connect(url) as raw:
                await raw.send(f"GET {target} HTTP/1.1\r\nHost: good.example\r\n\r\n".encode())
                assert (await raw.receive_some()).split()[1] == status


async def test_frames_in_the_packet_of_the_handshake_arrive() -> None:
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(upgrade() + masked(0x81, b"first") + masked(0x81, b"second")[:4])
        await raw.receive_until(b"\r\n\r\n")
        await raw.send(masked(0x81, b"second")[4:])
        assert await raw.receive_exactly(7) == b"\x81\x05first"
        assert await raw.receive_exactly(8) == b"\x81\x06second"


async def test_frames_that_come_while_the_handshake_is_decided_arrive_in_order() -> None:
    asked, release = anyio.Event(), anyio.Event()

    class Listener:
        async def on_handshake(self, event: Event) -> None:
            asked.set()
            await release.wait()

    async with own(Gateway(Listener)) as url, await connect(url) as raw:
        await raw.send(upgrade() + masked(0x81, b"0"))
        with anyio.fail_after(10):
            await asked.wait()
        for number in range(1, 10):
            await raw.send(masked(0x81, b"%d" % number))
        release.set()
        await raw.receive_until(b"\r\n\r\n")
        for number in range(10):
            assert await raw.receive_exactly(3) == b"\x81\x01%d" % number


# Sockets without a request

WITHOUT_REQUEST = {
    "an empty line": (head("GET /health HTTP/1.1"), b"\r\n"),
    "many empty lines": (head("GET /health HTTP/1.1"), b"\r\n" * 500),
    "a body after its answer": (head("POST /health HTTP/1.1", "Content-Length: 5"), b"hello"),
    "chunks after their answer": (head("POST /health HTTP/1.1", "Transfer-Encoding: chunked"), b"0\r\n\r\n"),
    "h2c": (head("GET /health HTTP/1.1", "Upgrade: h2c", "Connection: Upgrade"), b"\r\n"),
}


@pytest.mark.parametrize("way", WITHOUT_REQUEST)
async def test_a_socket_without_a_request_is_ended_whatever_it_sends(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uvicorn.config.Config.timeout_keep_alive", 0.3, raising=False)
    first, second = WITHOUT_REQUEST[way]
    async with serving_with(Gateway(), timeout_keep_alive=0.3) as url, await connect(url) as raw:
        await raw.send(first)
        assert (await raw.receive_some()).startswith(b"HTTP/1.1 ")
        await raw.send(second)
        await everything(raw)


async def test_a_body_that_does_not_come_after_its_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsgateway.server.guards.BODY_TIMEOUT", 0.3)
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(head("POST /health HTTP/1.1", "Content-Length: 5"))
        with anyio.fail_after(10), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            while True:
                await raw.receive_some()


@asynccontextmanager
async def serving_with(gateway: Gateway, *, timeout_keep_alive: float) -> AsyncIterator[str]:
    """A server with another time limit for idle connections, which is a constant of uvicorn's configuration."""
    import uvicorn

    with pytest.MonkeyPatch.context() as patch:
        init = uvicorn.Config.__init__

        def shorter(self: uvicorn.Config, *args: Any, **options: Any) -> None:
            init(self, *args, **options)
            self.timeout_keep_alive = timeout_keep_alive  # type: ignore[assignment]  # seconds, whole by convention

        patch.setattr(uvicorn.Config, "__init__", shorter)
        async with own(gateway) as url:
            yield url


async def test_a_websocket_is_not_ended_by_the_keep_alive_of_a_request_before_it() -> None:
    async with serving_with(Gateway(), timeout_keep_alive=0.2) as url, await connect(url) as raw:
        await raw.send(head("GET /health HTTP/1.1"))
        await raw.receive_until(b"}")
        await raw.send(upgrade())
        assert (await raw.receive_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        await anyio.sleep(0.4)  # the timer that must not be left
        await raw.send(masked(0x81, b"hello"))
        assert await raw.receive_exactly(7) == b"\x81\x05hello"


async def connect_from(source: str, url: str) -> socket.socket:
    """A socket to the server from another of this machine's loopback addresses."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.bind((source, 0))
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", int(url.rpartition(":")[2])))
    return sock


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
async def test_silent_sockets_of_one_address_make_room_for_another() -> None:
    async with own(Gateway(max_connections=10)) as url:
        silent = [await connect_from("127.0.0.2", url) for _ in range(60)]  # 10, and 32 to spare
        try:
            for _ in range(3):
                async with Client(url) as client:
                    await client.send("hello")
                    assert await client.receive() == "hello"
                async with await connect(url) as raw:
                    await raw.send(head("GET /health HTTP/1.1"))
                    assert (await raw.receive_some()).startswith(b"HTTP/1.1 200 ")
        finally:
            for sock in silent:
                sock.close()


async def test_an_address_whose_own_sockets_are_silent_is_refused_on_a_full_server() -> None:
    async with own(Gateway(max_connections=10)) as url, await connect(url) as first:
        silent = [await connect(url) for _ in range(60)]
        try:
            async with await connect(url) as raw:
                assert (await raw.receive_some()).startswith(b"HTTP/1.1 503 ")
            await first.send(head("GET /health HTTP/1.1"))
            assert (await first.receive_some()).startswith(b"HTTP/1.1 200 ")
        finally:
            for raw in silent:
                await raw.stream.aclose()


def test_the_address_with_the_most_idle_sockets_loses_its_oldest() -> None:
    idle = IdleSockets[str]()
    for number in range(3):
        idle.add(f"a{number}", "a")
    for number in range(5):
        idle.add(f"b{number}", "b")
    idle.discard("b0", "b")
    idle.add("b1", "b")  # it has had a request meanwhile
    assert [idle.take_oldest("c") for _ in range(3)] == ["b2", "a0", "b3"]
    assert idle.take_oldest("a") is None
    assert {idle.take_oldest("c") for _ in range(4)} == {"a1", "a2", "b4", "b1"}
    assert idle.take_oldest("c") is None
    idle.discard("a0", "a")


# Addresses


async def test_an_ipv4_client_has_its_ipv4_address_on_a_socket_of_both_families() -> None:
    gateway = Gateway(host="::", port=0, local_access=True, api_key="k")
    async with serving(gateway, gateway.settings) as url:
        port = url.rpartition(":")[2]
        async with Client(f"http://127.0.0.1:{port}"):
            assert [conn.address for conn in gateway.connections] == ["127.0.0.1"]


async def test_a_name_is_listened_on_at_every_address_that_it_has() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    gateway = Gateway(host="localhost", port=0)
    async with serving(gateway, gateway.settings) as url:
        port = int(url.rpartition(":")[2])
        for host in {str(found[4][0]) for found in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)}:
            async with Client(f"http://localhost:{port}", host=host, port=port) as client:
                await client.send("hello")
                assert await client.receive() == "hello"


@pytest.mark.parametrize(("mode", "expected"), [("660", 0o660), ("0600", 0o600), ("666", 0o666)])
async def test_the_mode_of_a_unix_socket_is_a_setting(mode: str, expected: int, tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    gateway = Gateway(uds=str(path), uds_mode=mode)
    async with serving(gateway, gateway.settings):
        assert path.stat().st_mode & 0o777 == expected


# The wrong scheme


async def test_tls_at_a_port_without_it_is_a_line_that_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with own(Gateway()) as url:
        context = ssl.create_default_context()
        with pytest.raises((ssl.SSLError, OSError)):
            await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]), ssl=context)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("speaks TLS (wss:// or https://) to a port without TLS" in line for line in lines)


async def test_plain_http_at_a_port_with_tls_is_a_line_that_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with OwnServerTls()(Gateway()) as url:
        async with await connect("http://127.0.0.1:" + url.rpartition(":")[2]) as raw:
            await raw.send(upgrade())
            await everything(raw)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("speaks plain HTTP (ws:// or http://) to a port with TLS" in line for line in lines)


# Handshakes that fail leave no line of the server's


async def test_a_client_that_vanishes_in_its_handshake_leaves_no_error(caplog: pytest.LogCaptureFixture) -> None:
    asked, release = anyio.Event(), anyio.Event()

    class Listener:
        async def on_handshake(self, event: Event) -> None:
            asked.set()
            await release.wait()

    async with own(Gateway(Listener)) as url:
        raw = await connect(url)
        await raw.send(upgrade())
        with anyio.fail_after(10):
            await asked.wait()
        await raw.stream.aclose()
        release.set()
    assert not [record for record in caplog.records if record.name.startswith("uvicorn") and record.levelno > 20]


async def test_clients_past_the_limit_leave_no_line_of_uvicorn(caplog: pytest.LogCaptureFixture) -> None:
    async with own(Gateway(max_connections=1)) as url, Client(url):
        for vanishes in (False, True) * 5:
            async with await connect(url) as raw:
                await raw.send(upgrade())
                if not vanishes:
                    assert (await raw.receive_some()).startswith(b"HTTP/1.1 503 ")
    assert not [record for record in caplog.records if record.name.startswith("uvicorn") and record.levelno > 20]


async def test_a_request_that_cannot_be_parsed_is_a_line_of_the_gateway(caplog: pytest.LogCaptureFixture) -> None:
    async with own(Gateway(id="shop")) as url, await connect(url) as raw:
        await raw.send(b"GARBAGE\r\n\r\n")
        assert (await everything(raw)).startswith(b"HTTP/1.1 400 ")
    line = next(record.getMessage() for record in caplog.records if "Invalid HTTP request" in record.getMessage())
    assert line.startswith("[shop] refused a request from 127.0.0.1 with 400")


def test_a_mode_that_is_not_one_is_a_mistake() -> None:
    for mode in ("rw", "888", "66", "1777", ""):
        with pytest.raises(ValueError, match="mode"):
            raise ValueError(str(_mistake(uds_mode=mode)))


def _mistake(**options: Any) -> Exception:
    try:
        Settings(**options)
    except Exception as exc:
        return exc
    raise AssertionError(f"{options} passed")
