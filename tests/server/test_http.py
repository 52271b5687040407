"""Requests as they are on the wire: where a body ends, what may follow it, and what surrounds it."""

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.raw import connect, handshake, head, masked, post, upgrade
from tests.server.patient import Patient
from tests.servers import OwnServer, OwnServerTls, PlainUvicorn, Serve
from wsgateway import Event, Gateway
from wsgateway.server.head import MAX_HEAD
from wsgateway.server.http import HttpProtocol
from wsgateway.server.websocket import WebSocketProtocol
from wsgateway.testing import Client

own = OwnServer()

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


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
        answers = await raw.receive_all()
    assert answers.count(b"HTTP/1.1 ") == 1
    assert b"smuggled" not in answers
    assert b"connection: close" in answers


async def test_uvicorn_with_the_protocols_of_the_gateway_is_as_safe() -> None:
    body = b"\r\n" * 20_000 + SMUGGLED
    async with PlainUvicorn(http=HttpProtocol, ws=WebSocketProtocol)(Gateway()) as url, await connect(url) as raw:
        await raw.send(head("POST /health HTTP/1.1", *UPGRADES[0], f"Content-Length: {len(body)}") + body)
        answers = await raw.receive_all()
        async with Client(url) as client:
            await client.send("hello")
            assert await client.receive() == "hello"
    assert answers.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("headers", UPGRADES, ids=" ".join)
async def test_chunks_are_no_request_either(headers: tuple[str, ...]) -> None:
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(head("POST /health HTTP/1.1", *headers, "Transfer-Encoding: chunked") + chunks + SMUGGLED)
        answers = await raw.receive_all()
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
        answers = await raw.receive_all()
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
        assert (await raw.receive_all()).startswith(b"HTTP/1.1 200 ")
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
        answers = await raw.receive_all()
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert answers.count(b"HTTP/1.1 ") == 1


async def test_a_handshake_may_say_that_it_has_no_body() -> None:
    async with own(Gateway()) as url:
        raw, answer = await handshake(url, "Content-Length: 0")
        async with raw:
            assert answer.startswith(b"HTTP/1.1 101 ")


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
        answers = await raw.receive_all()
    assert answers.startswith(b"HTTP/1.1 200 ")
    assert answers.count(b"HTTP/1.1 ") == 1


async def test_a_broken_body_is_400_and_its_application_hears_of_it() -> None:
    async with own(Gateway(local_access=True)) as url, await connect(url) as raw:
        await raw.send(head("POST /send HTTP/1.1", "Content-Type: application/json", "Transfer-Encoding: chunked"))
        await raw.send(b"5\r\nhel")
        await raw.send(b"lo\r\nnonsense\r\n")
        assert (await raw.receive_all()).startswith(b"HTTP/1.1 400 ")


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
            answers = await raw.receive_all()
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


# The wrong scheme


async def test_tls_at_a_port_without_it_is_a_line_that_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with own(Gateway()) as url:
        context = ssl.create_default_context()
        with pytest.raises((ssl.SSLError, OSError)):
            await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]), ssl=context)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("uses TLS (wss:// or https://) on a port without TLS" in line for line in lines)


async def test_a_request_that_cannot_be_parsed_is_a_line_of_the_gateway(caplog: pytest.LogCaptureFixture) -> None:
    async with own(Gateway(id="shop")) as url, await connect(url) as raw:
        await raw.send(b"GARBAGE\r\n\r\n")
        assert (await raw.receive_all()).startswith(b"HTTP/1.1 400 ")
    line = next(record.getMessage() for record in caplog.records if "Invalid HTTP request" in record.getMessage())
    assert line.startswith("[shop] refused a request from 127.0.0.1 with 400")


async def test_a_body_that_comes_after_its_answer_is_no_head() -> None:
    async with own(Gateway(local_access=True)) as url, await connect(url) as raw:
        await raw.send(b"POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        await raw.send(b"Content-Length: 3000000\r\n\r\n")
        assert (await raw.receive_until(b"}")).startswith(b"HTTP/1.1 413 ")
        for _ in range(30):
            await raw.send(b"x" * 100_000)
        await raw.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"HTTP/1.1 200 OK" in await raw.receive_until(b"}")


async def test_requests_that_do_not_wait_for_each_other_are_answered_in_order() -> None:
    async with own(Gateway(local_access=True)) as url, await connect(url) as raw:
        head = "POST /send HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
        for number in range(500):
            body = json.dumps({"message": number, "id": f"none{number}"})
            await raw.send(f"{head}{len(body)}\r\n\r\n{body}".encode())
        for number in range(500):
            assert f"[none{number}]".encode() in await raw.receive_until(b"}")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (upgrade("Cookie: " + "c" * 16_384), 101),
        (upgrade(*(f"X-{number}: y" for number in range(200))), 101),
        (upgrade("Cookie: " + "c" * 40_000), 431),
        (upgrade(*(f"X-{number}: {'y' * 100}" for number in range(400))), 431),
        (upgrade(path="/ws?" + "q" * 9000), 414),
        (b"GET /health HTTP/1.1\r\nCookie: " + b"c" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\nX: " + b"c" * 100_000, 431),
    ],
    ids=lambda value: str(value)[:3] if isinstance(value, int) else "",
)
async def test_the_head_of_a_request_has_room_for_a_fat_cookie_and_a_limit(request_: bytes, status: int) -> None:
    async with own(Gateway()) as url, await connect(url) as raw:
        await raw.send(request_)
        assert (await raw.receive_some()).startswith(b"HTTP/1.1 %d " % status)
        if status == 101:
            raw.buffer = b""
            await raw.send(masked(0x81, b"hi"))
            assert b"\x81\x02hi" in await raw.receive_until(b"hi")


class CountedWrites(HttpProtocol):
    """Keeps what its connections write, each write on its own."""

    writes: ClassVar[list[bytes]] = []

    def connection_made(self, transport: Any) -> None:
        super().connection_made(WritesOf(transport, self.writes))


class WritesOf:
    """A transport that keeps what is written to it."""

    def __init__(self, transport: Any, writes: list[bytes]) -> None:
        self._transport = transport
        self._writes = writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._writes.append(bytes(data))
        self._transport.write(data)


@pytest.fixture
def writes() -> list[bytes]:
    CountedWrites.writes.clear()
    return CountedWrites.writes


counting = PlainUvicorn(http=CountedWrites, ws=WebSocketProtocol)


@pytest.mark.parametrize(
    ("request_", "answers"),
    [
        (head("GET /health HTTP/1.1"), 1),
        (head("GET /health HTTP/1.1", "Connection: close"), 1),
        (head("GET /health HTTP/1.0"), 1),
        (post({"message": "hi"}), 1),
        (post(b"{"), 1),
        (head("GET /health HTTP/1.1") + post({"message": "hi"}) + head("GET /unknown HTTP/1.1"), 3),
    ],
)
async def test_a_response_is_one_write(request_: bytes, answers: int, writes: list[bytes]) -> None:
    async with counting(Gateway(local_access=True)) as url, await connect(url) as raw:
        await raw.send(request_)
        for _ in range(answers):
            assert (await raw.receive_until(b"}")).startswith(b"HTTP/1.1 ")
    assert len(writes) == answers
    assert all(write.startswith(b"HTTP/1.1 ") and write.endswith(b"}") for write in writes)


async def test_responses_to_head_have_no_body_and_keep_their_order(writes: list[bytes]) -> None:
    requests = head("HEAD /health HTTP/1.1") * 3 + head("GET /unknown HTTP/1.1") + head("HEAD /health HTTP/1.1")
    async with counting(Gateway()) as url, await connect(url) as raw:
        await raw.send(requests + b"nonsense\r\n\r\n")
        answers = await raw.receive_all()
    statuses = [line.split()[1] for line in answers.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    assert statuses[:4] == [b"200", b"200", b"200", b"404"]
    assert answers.count(b"{") == 1
    assert writes[0].endswith(b"\r\n\r\n")


@pytest.mark.parametrize("serve", [own, counting, OwnServerTls()], ids=["own", "uvicorn", "tls"])
async def test_the_head_of_a_stream_does_not_wait_for_its_body(serve: Serve) -> None:
    release = anyio.Event()

    async def parts() -> AsyncIterator[bytes]:
        await release.wait()
        yield b"late"
        yield b"later"

    app = Starlette(routes=[Route("/", lambda _: StreamingResponse(parts()))])
    async with serve(app) as url, httpx.AsyncClient() as http:
        with anyio.fail_after(30):
            async with http.stream("GET", url) as response:
                assert response.status_code == 200
                release.set()
                assert await response.aread() == b"latelater"


@pytest.mark.parametrize("status", [204, 304])
async def test_a_response_without_a_body_is_its_head(status: int, writes: list[bytes]) -> None:
    app = Starlette(routes=[Route("/", lambda _: Response(status_code=status))])
    async with counting(app) as url, await connect(url) as raw:
        for _ in range(2):
            await raw.send(head("GET / HTTP/1.1"))
            assert (await raw.receive_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 %d " % status)
    assert len([write for write in writes if write]) == 2


async def test_a_body_is_asked_for_before_it_is_sent(writes: list[bytes]) -> None:
    request_ = post({"message": "hi"}, "Expect: 100-continue")
    at = request_.index(b"\r\n\r\n") + 4
    async with counting(Gateway(local_access=True)) as url, await connect(url) as raw:
        await raw.send(request_[:at])
        assert await raw.receive_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await raw.send(request_[at:])
        assert (await raw.receive_all()).startswith(b"HTTP/1.1 200 ")
    assert len(writes) == 2


async def test_a_large_response_is_read_whole_by_a_slow_client() -> None:
    body = b"x" * 3_000_000
    app = Starlette(routes=[Route("/", lambda _: Response(body))])
    async with own(app) as url, await connect(url, buffer=65_536) as raw:
        await raw.send(head("GET / HTTP/1.1", "Connection: close"))
        answer = await raw.receive_all()
    assert answer.endswith(b"\r\n\r\n" + body)


async def test_an_application_that_fails_within_its_response_ends_it(writes: list[bytes]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
            raise ValueError("on purpose")

    async with counting(app) as url, await connect(url) as raw:
        await raw.send(head("GET / HTTP/1.1"))
        assert (await raw.receive_all()).endswith(b"content-length: 5\r\n\r\n")
    assert len(writes) == 1
