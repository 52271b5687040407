"""Handshakes that need no WebSocket protocol of uvicorn, beside the same ones that are given one: nobody may notice."""

import asyncio
import gc
import logging
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.routing import Mount, WebSocketRoute
from starlette.websockets import WebSocket
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from websockets.exceptions import InvalidStatus
from websockets.server import ServerProtocol

from tests.raw import Raw, connect, handshake, masked, upgrade
from tests.servers import OwnServer, OwnServerTls, PlainUvicorn
from wsgateway import Event, Gateway, Refused
from wsgateway.server.direct import DirectHandshake
from wsgateway.server.guards import HttpShared
from wsgateway.server.head import asks_for_websocket, handshake_mistake, usual_key, valid_key
from wsgateway.server.http import HttpProtocol
from wsgateway.server.pacing import HANDSHAKES_PER_ITERATION
from wsgateway.server.serving import serving
from wsgateway.server.websocket import WebSocketProtocol
from wsgateway.testing import Client, RecordingListener

App = Callable[[Any, Any, Any], Coroutine[Any, Any, Any]]

own = OwnServer()


class DirectHttp(HttpProtocol):
    """Handshakes are direct from the first one on."""

    shared = HttpShared(may_be_direct=True)


class General(WebSocketProtocol):
    """A protocol that an application has extended, so handshakes are not direct."""


DIRECT = PlainUvicorn(http=DirectHttp, ws=WebSocketProtocol, ws_per_message_deflate=False)
GENERAL = PlainUvicorn(http=DirectHttp, ws=General, ws_per_message_deflate=False)

HI_AND_CLOSE = masked(0x81, b"hi") + masked(0x88, b"\x03\xe8")


def protocols(*, collect: bool = False) -> int:
    """Return how many of uvicorn's and websockets' objects for a WebSocket there are in this process."""
    if collect:
        gc.collect()  # what earlier tests have left
    return sum(issubclass(type(thing), (WebSocketProtocol, ServerProtocol)) for thing in gc.get_objects())


@asynccontextmanager
async def known(gateway: Gateway) -> AsyncIterator[str]:
    """The gateway's own server, whose next usual handshake is direct."""
    async with own(gateway) as url:
        raw, head = await handshake(url, path="/none")
        await raw.stream.aclose()
        assert b" 404 " in head
        yield url


async def test_a_usual_handshake_makes_no_protocol_of_uvicorn() -> None:
    made: list[int] = []

    class Listener(RecordingListener):
        async def on_client_open(self, event: Event) -> None:
            made.append(protocols())

    async with known(Gateway(Listener())) as url:
        before = protocols(collect=True)
        raw, head = await handshake(url)
        async with raw:
            assert head.startswith(b"HTTP/1.1 101 ")
            await raw.send(HI_AND_CLOSE)
            assert (await raw.receive_all()).startswith(b"\x81\x02hi\x88")
        assert made == [before]


# The same answers


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def slow_echo(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0)  # waits once, so the handshake is not direct
    await echo(scope, receive, send)


async def eager_accept(scope: Any, receive: Any, send: Any) -> None:
    """Accepts without receiving first, which ASGI allows."""
    await send({"type": "websocket.accept", "subprotocol": "b", "headers": [(b"X-A", b"\xe9"), (b"x-a", b"2")]})
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.send", "text": (await receive())["text"]})
    await send({"type": "websocket.close", "code": 4000, "reason": "enough"})


async def denies(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.close"})


async def responds(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"www-authenticate", b"Basic")]})
    await send({"type": "websocket.http.response.body", "body": b"no", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"pe"})


async def fails_first(scope: Any, receive: Any, send: Any) -> None:
    raise LookupError("before the accept")


async def exits(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    raise SystemExit(1)


async def fails_later(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await receive()
    raise LookupError("after the accept")


async def returns(scope: Any, receive: Any, send: Any) -> None:
    """Returns without an answer."""


async def returns_a_value(scope: Any, receive: Any, send: Any) -> int:
    await send({"type": "websocket.accept"})
    return 1


async def sends_nonsense(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.nonsense"})


async def injects(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept", "headers": [(b"x", b"a\r\nx-injected: b")]})


class Chooser:
    async def on_handshake(self, event: Event) -> None:
        assert event.conn
        event.subprotocol = event.conn.subprotocols[-1] if event.conn.subprotocols else None
        match event.conn.query.get("do"):
            case "refuse":
                raise Refused(403, "not you")
            case "close":
                raise Refused(close=4001, reason="not you")
            case "fail":
                raise LookupError("a bug")
            case "wait":
                await asyncio.sleep(0)  # waits once before it accepts


def waits_after_accept(app: App) -> App:
    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        async def slow_send(message: Any) -> None:
            await send(message)
            if message["type"] == "websocket.accept":
                await asyncio.sleep(0)  # waits once between the accept and the takeover

        await app(scope, receive, slow_send)

    return wrapped


def greets(app: App) -> App:
    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        async def greeting_send(message: Any) -> None:
            await send(message)
            if message["type"] == "websocket.accept":
                await send({"type": "websocket.send", "text": "welcome"})

        await app(scope, receive, greeting_send)

    return wrapped


def sets_a_header(app: App) -> App:
    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        async def header_send(message: Any) -> None:
            if message["type"] == "websocket.accept":
                message = {**message, "headers": [(b"Set-Cookie", b"a=b")]}
            await send(message)

        await app(scope, receive, header_send)

    return wrapped


def mounted(gateway: Any) -> App:
    async def dispatch(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    middleware = [
        Middleware(ProxyHeadersMiddleware, trusted_hosts="*"),
        Middleware(SessionMiddleware, secret_key="k"),
        Middleware(BaseHTTPMiddleware, dispatch=dispatch),
    ]
    return Starlette(routes=[Mount("/", gateway)], middleware=middleware, lifespan=gateway.lifespan)


def alone(app: App) -> App:
    """Return `app` with a lifespan."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> Any:
        if scope["type"] != "lifespan":
            return await app(scope, receive, send)
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return await send({"type": "lifespan.shutdown.complete"})

    return wrapped


async def chosen(websocket: WebSocket) -> None:
    await websocket.accept(next(iter(websocket.scope["subprotocols"]), None))
    async for text in websocket.iter_text():
        await websocket.send_text(text)


PLAIN = [
    echo,
    slow_echo,
    eager_accept,
    denies,
    responds,
    fails_first,
    exits,
    fails_later,
    returns,
    returns_a_value,
    sends_nonsense,
    injects,
]

APPLICATIONS: dict[str, Callable[[], App]] = {
    "gateway": lambda: Gateway(Chooser),
    "gateway that compresses": lambda: Gateway(Chooser, compression=True),
    "gateway in Starlette": lambda: mounted(Gateway(Chooser)),
    "waits after the accept": lambda: waits_after_accept(Gateway(Chooser)),
    "sends after the accept": lambda: greets(Gateway(Chooser)),
    "adds a header": lambda: sets_a_header(Gateway(Chooser)),
    "Starlette": lambda: Starlette(routes=[WebSocketRoute("/ws", chosen)]),
    **{app.__name__: partial(alone, app) for app in PLAIN},
}

REQUESTS = {
    "usual": upgrade(),
    "browser": upgrade("Origin: http://localhost", "Sec-WebSocket-Extensions: permessage-deflate", "Cookie: a=b"),
    "keep-alive": upgrade().replace(b"Connection: Upgrade", b"Connection: keep-alive, Upgrade"),
    "subprotocols": upgrade("Sec-WebSocket-Protocol: a, b", "Sec-WebSocket-Protocol: c"),
    "subprotocol not in ASCII": upgrade().replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: \xe9\r\n\r\n"),
    "x-forwarded": upgrade("X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: https"),
    "another path": upgrade(path="/none?a=b"),
    "escaped path": upgrade(path="/ws/%C3%A9%2F?q=%20"),
    "absolute target": upgrade(path="ws://localhost/ws"),
    "cross-origin": upgrade("Origin: http://192.0.2.1"),
    "refused": upgrade(path="/ws?do=refuse"),
    "closed": upgrade("Sec-WebSocket-Protocol: a", path="/ws?do=close"),
    "failing": upgrade(path="/ws?do=fail"),
    "waiting": upgrade(path="/ws?do=wait"),
}


async def answer(url: str, request: bytes) -> bytes:
    """Return all that a client gets that sends `request`, and a message and a close behind a 101."""
    async with await connect(url) as raw:
        await raw.send(request)
        head = b""
        with suppress(anyio.EndOfStream):  # an answer that the least websockets cannot encode
            head = await raw.receive_until(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 101 "):
            with suppress(OSError, anyio.BrokenResourceError):
                await raw.send(HI_AND_CLOSE)
        return head + await raw.receive_all()


def comparable(text: str) -> str:
    """Return `text` without what differs each time. The least uvicorn also leaves an empty date of websockets."""
    return re.sub(r"127\.0\.0\.1:\d+|0x[0-9a-f]+", "…", re.sub(r"(?i:date: [^\r]*\r\n)", "", text))


async def behavior(serve: PlainUvicorn, app: App, caplog: pytest.LogCaptureFixture) -> dict[str, tuple[str, list[str]]]:
    """Return the answer to each request, and what uvicorn logs meanwhile."""
    found = {}
    async with serve(app) as url:
        for name, request in REQUESTS.items():
            caplog.clear()
            received = (await answer(url, request)).decode("latin-1")
            lines = [record.getMessage() for record in caplog.records if record.name == "uvicorn.error"]
            found[name] = (
                comparable(received),
                [comparable(line) for line in lines if "WebSocket" in line or "ASGI" in line],
            )
    return found


@pytest.mark.parametrize("name", APPLICATIONS)
async def test_the_answers_are_the_same(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make = APPLICATIONS[name]
    with caplog.at_level(logging.INFO, "uvicorn.error"):
        general = await behavior(GENERAL, make(), caplog)
        direct = await behavior(DIRECT, make(), caplog)
    assert direct == general


async def test_the_scopes_are_the_same() -> None:
    scopes: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append({**scope, "client": scope["client"][0], "server": scope["server"][0]})
        await denies(scope, receive, send)

    for serve in (GENERAL, DIRECT):
        async with serve(alone(app)) as url:
            for request in REQUESTS.values():
                await answer(url, request)

    for general, direct in zip(scopes[: len(REQUESTS)], scopes[len(REQUESTS) :], strict=True):
        assert direct.pop("extensions").keys() == general.pop("extensions").keys()
        assert direct == general


async def test_what_an_application_is_given() -> None:
    given: list[type] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given.extend((type(receive.__self__), type(send.__self__)))
        await denies(scope, receive, send)

    async with DIRECT(alone(app)) as url:
        await answer(url, upgrade())
    assert given == [DirectHandshake, DirectHandshake]


# Beside the gateway's own steps


async def test_a_middleware_goes_on_after_the_gateway_has_the_socket(caplog: pytest.LogCaptureFixture) -> None:
    go_on, errors = anyio.Event(), []

    def middleware(app: App) -> App:
        async def wrapped(scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, send)
            if scope["type"] == "websocket":
                with pytest.raises(RuntimeError, match="after the socket was taken over") as error:
                    await send({"type": "websocket.send", "text": "no"})
                errors.append(error.value)
                with anyio.move_on_after(0.01):
                    await receive()
                    raise AssertionError("nothing arrives here")
                await go_on.wait()
                raise LookupError("much later")

        return wrapped

    async with DIRECT(middleware(Gateway())) as url, Client(url) as ann:
        await ann.send("hi")
        assert await ann.receive() == "hi"
        go_on.set()
        with anyio.fail_after(10):
            while "much later" not in caplog.text:
                await anyio.sleep(0.01)  # a line of uvicorn's logger
        await ann.send("still here")
        assert await ann.receive() == "still here"
    assert len(errors) == 1
    assert "Exception in ASGI application" in caplog.text


async def test_an_application_that_goes_on_is_cancelled_when_the_server_stops() -> None:
    cancelled: list[bool] = []

    def middleware(app: App) -> App:
        async def wrapped(scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, send)
            if scope["type"] == "websocket":
                try:
                    await anyio.sleep_forever()
                finally:
                    cancelled.append(True)

        return wrapped

    async with DIRECT(middleware(Gateway())) as url, Client(url):
        pass
    assert cancelled == [True]


@pytest.mark.parametrize("serve", [DIRECT, GENERAL], ids=["direct", "general"])
async def test_an_application_that_does_not_answer_is_cancelled_when_the_server_stops(serve: PlainUvicorn) -> None:
    begun, cancelled = anyio.Event(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async with serve(alone(app)) as url:
        raw = await connect(url)
        await raw.send(upgrade())
        with anyio.fail_after(10):
            await begun.wait()
    async with raw:
        assert (await raw.receive_all()).startswith(b"HTTP/1.1 500 ")
    assert cancelled == [True]


async def test_an_application_may_receive_again_before_it_accepts() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(disconnected, receive)
            await anyio.sleep(0)  # one iteration, in which the other task begins to receive
            await send({"type": "websocket.accept"})

    ended = anyio.Event()

    async def disconnected(receive: Any) -> None:
        while (await receive())["type"] != "websocket.disconnect":
            pass
        ended.set()

    async with DIRECT(alone(app)) as url:
        async with Client(url) as ann:
            await ann.send("hi")
        with anyio.fail_after(10):
            await ended.wait()


class Slow:
    """A listener whose `on_handshake` waits for `release`, and then refuses if `refuses`."""

    refuses = False

    def __init__(self) -> None:
        self.asked, self.release = anyio.Event(), anyio.Event()

    async def on_handshake(self, event: Event) -> None:
        self.asked.set()
        await self.release.wait()
        if self.refuses:
            raise Refused(403, "not you")


@asynccontextmanager
async def waiting(url: str, listener: Slow) -> AsyncIterator[Raw]:
    """A client whose handshake has begun, and waits for `listener`."""
    async with await connect(url) as raw:
        await raw.send(upgrade() + masked(0x81, b"early"))
        with anyio.fail_after(10):
            await listener.asked.wait()
        yield raw


@pytest.mark.parametrize("compression", [False, True])
async def test_an_on_handshake_that_waits(compression: bool) -> None:
    listener = Slow()
    async with known(Gateway(listener, compression=compression)) as url, waiting(url, listener) as raw:
        listener.release.set()
        assert (await raw.receive_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert await raw.receive_exactly(7) == b"\x81\x05early"


async def test_an_on_handshake_that_waits_and_refuses() -> None:
    listener = Slow()
    listener.refuses = True
    async with known(Gateway(listener)) as url, waiting(url, listener) as raw:
        listener.release.set()
        assert (await raw.receive_all()).startswith(b"HTTP/1.1 403 ")


async def test_an_on_handshake_that_takes_too_long_is_503() -> None:
    listener = Slow()
    async with known(Gateway(listener, handshake_timeout=0.1)) as url, waiting(url, listener) as raw:
        assert (await raw.receive_all()).startswith(b"HTTP/1.1 503 ")


async def test_a_gateway_that_stops_refuses_a_handshake_that_waits() -> None:
    listener = Slow()
    gateway = Gateway(listener)
    async with known(gateway) as url, waiting(url, listener) as raw, anyio.create_task_group() as tasks:
        tasks.start_soon(gateway.stop)
        await anyio.wait_all_tasks_blocked()
        listener.release.set()
        assert (await raw.receive_all()).startswith(b"HTTP/1.1 503 ")
        assert (await answer(url, upgrade())).startswith(b"HTTP/1.1 503 ")


async def test_a_server_that_stops_lets_a_handshake_finish_that_waits() -> None:
    listener = Slow()
    raw: Raw
    async with known(Gateway(listener)) as url:
        raw = await connect(url)
        await raw.send(upgrade())
        with anyio.fail_after(10):
            await listener.asked.wait()
        asyncio.get_running_loop().call_later(0.1, listener.release.set)  # within the half second of a stop
    async with raw:
        assert (await raw.receive_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert (await raw.receive_all()).startswith(b"\x88")


def reset(raw: Raw) -> None:
    """End the connection with a reset."""
    sock = raw.stream.extra(anyio.abc.SocketAttribute.raw_socket)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("resets", [False, True])
async def test_clients_that_vanish_in_their_handshakes_leave_nothing(
    waits: bool, resets: bool, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Slow()
    if not waits:
        listener.release.set()
    gateway = Gateway(listener)
    async with known(gateway) as url:
        for _ in range(2 * HANDSHAKES_PER_ITERATION):
            raw = await connect(url)
            await raw.send(upgrade())
            if resets:
                reset(raw)
            await raw.stream.aclose()
        listener.release.set()
        async with Client(url) as ann:
            await ann.send("hi")
            assert await ann.receive() == "hi"
            with anyio.fail_after(10):
                while len(gateway.connections) > 1:
                    await anyio.sleep(0.01)  # a live view
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


async def test_max_connections() -> None:
    gateway = Gateway(max_connections=1)
    async with known(gateway) as url:
        for _ in range(3):
            async with Client(url):
                with pytest.raises(InvalidStatus, match="503"):
                    async with Client(url):
                        pass
            with anyio.fail_after(10):
                while gateway.connections:
                    await anyio.sleep(0.01)  # a live view


async def test_handshakes_that_wait_for_their_iteration_with_frames_behind_them() -> None:
    async with known(Gateway()) as url:
        clients = [await connect(url) for _ in range(5 * HANDSHAKES_PER_ITERATION)]
        async with anyio.create_task_group() as tasks:
            for number, raw in enumerate(clients):
                tasks.start_soon(raw.send, upgrade() + masked(0x89, b"%03d" % number))
        for number, raw in enumerate(clients):
            async with raw:
                assert (await raw.receive_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
                assert await raw.receive_exactly(5) == b"\x8a\x03%03d" % number


async def test_a_frame_behind_the_handshake_that_arrives_in_pieces() -> None:
    async with known(Gateway()) as url, await connect(url) as raw:
        frames = masked(0x81, b"x" * 60_000) + masked(0x81, b"second")
        await raw.send(upgrade() + frames[:-4])
        await raw.receive_until(b"\r\n\r\n")
        await raw.send(frames[-4:])
        assert await raw.receive_exactly(60_004) == b"\x81\x7e" + (60_000).to_bytes(2) + b"x" * 60_000
        assert await raw.receive_exactly(8) == b"\x81\x06second"


async def test_over_tls() -> None:
    made: list[int] = []

    class Listener(RecordingListener):
        async def on_client_open(self, event: Event) -> None:
            made.append(protocols())

    before = protocols(collect=True)
    async with OwnServerTls()(Gateway(Listener())) as url, Client(url), Client(url) as ann:
        await ann.send("x" * 60_000)
        assert await ann.receive() == "x" * 60_000
    assert made == [before + 2, before]  # only a handshake that is not direct shows whether another may be


async def test_on_a_unix_socket(tmp_path: Path) -> None:
    gateway = Gateway()
    async with serving(gateway, replace(gateway.settings, uds=str(tmp_path / "s"))):
        for _ in range(3):
            raw = Raw(await anyio.connect_unix(tmp_path / "s"))
            async with raw:
                await raw.send(upgrade() + HI_AND_CLOSE)
                assert b"\x81\x02hi" in await raw.receive_all()


async def test_a_request_before_the_handshake_on_the_same_connection() -> None:
    async with known(Gateway()) as url, await connect(url) as raw:
        await raw.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await raw.receive_until(b"}")).startswith(b"HTTP/1.1 200 ")
        await raw.send(upgrade() + HI_AND_CLOSE)
        assert (await raw.receive_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert (await raw.receive_all()).startswith(b"\x81\x02hi\x88")


async def test_where_uvicorn_lacks_an_attribute_no_handshake_is_direct(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("a_name_of_a_later_uvicorn",)
    monkeypatch.setattr("wsgateway.server.direct.NEEDED_DIRECT_HTTP", names)  # as in a later uvicorn
    made: list[int] = []

    class Listener(RecordingListener):
        async def on_client_open(self, event: Event) -> None:
            made.append(protocols())

    before = protocols(collect=True)
    async with own(Gateway(Listener())) as url:
        for _ in range(3):
            assert b" 101 " in await answer(url, upgrade())
    assert made == [before + 2] * 3
    assert len([record for record in caplog.records if names[0] in record.getMessage()]) == 1


# Garbage


async def test_neither_a_connect_nor_an_on_handshake_that_waits_leaves_garbage() -> None:
    class Listener:
        async def on_handshake(self, event: Event) -> None:
            assert event.conn
            if event.conn.query.get("do") == "wait":
                await asyncio.sleep(0)  # waits once

    clients: list[Raw] = []
    async with known(Gateway(Listener)) as url:
        for path in ("/ws", "/ws?do=wait"):
            await answer(url, upgrade(path=path))  # whatever is made once
        for path in ("/ws", "/ws?do=wait"):
            gc.collect()
            gc.disable()
            try:
                for _ in range(100):
                    raw, _ = await handshake(url, path=path)
                    clients.append(raw)
                assert gc.collect() <= 30
            finally:
                gc.enable()
        for raw in clients:
            await raw.stream.aclose()


async def test_a_connection_that_was_closed_leaves_nothing_to_the_garbage_collector() -> None:
    gateway = Gateway()
    async with known(gateway) as url:
        await answer(url, upgrade())
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(50):
                await answer(url, upgrade())
            with anyio.fail_after(10):
                while gateway.connections:
                    await anyio.sleep(0.01)  # a live view
            gc.collect()
            modules = [type(thing).__module__.partition(".")[0] for thing in gc.garbage]
            kept = [name for name in modules if name in ("wsgateway", "uvicorn", "websockets", "httptools")]
            assert kept == []
        finally:
            gc.set_debug(0)
            gc.garbage.clear()


# Which heads are usual


@pytest.mark.parametrize(
    "changed",
    [
        {"GET": "POST"},
        {"HTTP/1.1": "HTTP/1.0"},
        {"/ws": "/\xe9"},
        {"websocket": "h2c"},
        {"websocket": "websocket, h2c"},
        {"Upgrade: websocket": "Upgrade: h2c\r\nUpgrade: websocket"},
        {"Connection: Upgrade": "Connection: xUpgrade"},
        {"Connection: Upgrade": "X: y"},
        {"Sec-WebSocket-Version: 13": "Sec-WebSocket-Version: 12"},
        {"Sec-WebSocket-Version: 13": "Sec-WebSocket-Version: 12\r\nSec-WebSocket-Version: 13"},
        {"Sec-WebSocket-Version: 13": "X: y"},
        {"Sec-WebSocket-Key: dGhl": "Sec-WebSocket-Key: dGh"},
        {"Sec-WebSocket-Key": "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key"},
        {"Host": "Content-Length: 1\r\nHost"},
        {"Host": "Transfer-Encoding: chunked\r\nHost"},
        {},
        {"Connection: Upgrade": "Connection: keep-alive, Upgrade"},
        {"Connection: Upgrade": "Connection: close\r\nConnection: upgrade"},
    ],
    ids=str,
)
def test_a_usual_head_is_one_without_a_mistake(changed: dict[str, str]) -> None:
    request = upgrade().decode()
    for before, after in changed.items():
        assert before in request
        request = request.replace(before, after)
    first, *lines = request.strip().split("\r\n")
    method, target, version = first.encode("latin-1").replace(b"HTTP/", b"").split()
    pairs = (line.encode("latin-1").partition(b": ") for line in lines)
    headers = [(name.lower(), value) for name, _, value in pairs]
    key = usual_key(method, version.decode(), target, headers)
    is_right = (
        asks_for_websocket(headers)
        and handshake_mistake(method.decode(), version.decode(), target, headers) is None
        and valid_key(headers) is not None
    )
    assert key == (valid_key(headers) if is_right else None)
