"""Streams, over every way to be served. What only the gateway's own server does is in tests/server/test_stream.py."""

import json
from contextlib import nullcontext
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount

from tests.clocks import jumping, pass_time
from tests.servers import SERVERS, Hypercorn, OwnServer, PlainUvicorn, Serve
from tests.streams import RawStream, streaming
from wsgateway import Event, Gateway, Refused, Settings
from wsgateway.closing import SHUTDOWN
from wsgateway.gateway.running import Ticker
from wsgateway.hub.outbox import Outbox
from wsgateway.logs import GatewayLog
from wsgateway.messages import Kind, Message
from wsgateway.metrics import Metrics
from wsgateway.protocols.sse import SSE
from wsgateway.testing import Client, RecordingListener
from wsgateway.transports.stream import MAX_JOINED, AsgiStream, StreamContext

ALL = (*SERVERS, PlainUvicorn(http="h11"))
NAMES = [*(serve.name for serve in SERVERS), "uvicorn-h11"]


@pytest.fixture(params=ALL, ids=NAMES)
def serve(request: pytest.FixtureRequest) -> Serve:
    found: Serve = request.param
    return found


async def test_an_event_stream_begins_with_the_session_and_carries_what_is_sent(serve: Serve) -> None:
    gateway = Gateway()
    async with serve(gateway) as url, streaming(url) as stream:
        assert stream.response.status_code == 200
        assert stream.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.response.headers["cache-control"] == "no-store, no-transform"
        opened = await stream.next()
        (conn,) = gateway.connections
        assert opened.type == "open"
        assert json.loads(opened.data)["id"] == conn.id
        assert stream.parser.retry == 2000
        await gateway.send("hi")
        await gateway.send({"price": 42})
        await gateway.send(b"\x00\xff")
        assert await stream.next() == ("message", "hi", "")
        assert await stream.next() == ("message", '{"price":42}', "")
        assert await stream.next() == ("base64", "AP8=", "")


async def test_lines_carry_the_same(serve: Serve) -> None:
    gateway = Gateway()
    async with serve(gateway) as url, streaming(url, "/stream/room/1") as stream:
        assert stream.response.headers["content-type"] == "application/x-ndjson"
        opened = await stream.object()
        (conn,) = gateway.connections
        assert opened["open"]["id"] == conn.id
        assert (conn.path, conn.transport) == ("/stream/room/1", "stream")
        await gateway.send("hi\nthere")
        await gateway.send({"price": 42})
        assert await stream.object() == {"message": "hi\nthere"}
        assert await stream.object() == {"message": {"price": 42}}


async def test_sockets_and_streams_are_in_one_audience(serve: Serve) -> None:
    async with serve(Gateway()) as url, Client(url) as ann, streaming(url, "/sse/x") as stream:
        await stream.next()
        await ann.send("hello")
        assert await ann.receive() == "hello"
        assert (await stream.next()).data == "hello"


async def test_a_listener_sees_a_stream_as_any_connection(serve: Serve) -> None:
    listener = RecordingListener()
    gateway = Gateway(listener=listener)
    async with serve(gateway) as url:
        async with streaming(url, "/sse/x?token=1") as stream:
            await stream.next()
            await listener.wait_for("on_client_open")
            (conn,) = gateway.connections
            assert (conn.path, conn.query["token"], conn.transport) == ("/sse/x", "1", "sse")
            assert await conn.send("only you")
            assert (await stream.next()).data == "only you"
        await listener.wait_for("on_client_close")
        assert listener.events[-1] == ("on_client_close", 1006)
        assert len(gateway.connections) == 0


async def test_what_on_handshake_sends_follows_the_first_event(serve: Serve) -> None:
    class Greeter:
        async def on_handshake(self, event: Event) -> None:
            assert event.conn is not None
            await event.conn.send("welcome")

    async with serve(Gateway(listener=Greeter)) as url, streaming(url) as stream:
        assert [(await stream.next()).type, (await stream.next()).data] == ["open", "welcome"]


async def test_a_refused_stream_is_a_problem_document_with_the_status(serve: Serve) -> None:
    class Closed:
        async def on_handshake(self, event: Event) -> None:
            raise Refused(401, "log in first")

    gateway = Gateway(listener=Closed)
    async with serve(gateway) as url, streaming(url) as stream:
        body = json.loads(await stream.response.aread())
        assert (stream.response.status_code, body["detail"]) == (401, "log in first")
        assert stream.response.headers["content-type"] == "application/problem+json"
        assert len(gateway.connections) == 0


async def test_conn_close_ends_the_stream_with_code_and_reason(serve: Serve) -> None:
    listener = RecordingListener()
    gateway = Gateway(listener=listener)
    async with serve(gateway) as url, streaming(url) as stream, streaming(url, "/stream") as lines:
        await stream.next()
        await lines.object()
        for conn in tuple(gateway.connections):
            assert await conn.send("last words")
            await conn.close(3500, "go\naway")
        assert (await stream.next()).data == "last words"
        event = await stream.next()
        end = {"code": 3500, "reason": "go\naway", "reconnect": False}
        assert (event.type, json.loads(event.data)) == ("close", end)
        assert [await lines.object(), await lines.object()] == [{"message": "last words"}, {"close": end}]
        await stream.ends()
        await lines.ends()
        await listener.wait_for("on_client_close", 2)
        assert {value for hook, value in listener.events if hook == "on_client_close"} == {3500}


async def test_a_stop_tells_the_client_when_to_reconnect(serve: Serve) -> None:
    gateway = Gateway()
    async with serve(gateway) as url, streaming(url) as stream:
        await stream.next()
        await gateway.stop()
        event = await stream.next()
        assert json.loads(event.data) == {"code": 1012, "reason": "shutdown", "reconnect": True}
        assert stream.parser.retry is not None
        assert stream.parser.retry < 1000
        await stream.ends()
        await gateway.start()


async def test_heartbeats_keep_a_silent_stream_alive(serve: Serve) -> None:
    async with serve(Gateway(ping_interval=0.1, pong_timeout=0.1)) as url:
        async with streaming(url) as stream, streaming(url, "/stream") as lines:
            await stream.next()
            await lines.object()
            while stream.parser.comments < 3:
                stream.parser.feed(await stream._chunk())
            assert [await lines.line() for _ in range(3)] == ["", "", ""]


async def test_head_gets_the_headers_only(serve: Serve) -> None:
    gateway = Gateway()
    async with serve(gateway) as url, httpx.AsyncClient(verify=False) as http:
        answer = await http.head(url + "/sse")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert len(gateway.connections) == 0
        assert (await http.get(url + "/health")).status_code == 200


async def test_a_get_with_a_body_is_a_stream_too(serve: Serve) -> None:
    gateway = Gateway()
    async with serve(gateway) as url, httpx.AsyncClient(verify=False) as http:
        async with http.stream("GET", url + "/sse", content=b"x" * 5000) as response:
            with anyio.fail_after(20):
                assert b"event: open" in await anext(response.aiter_raw())
            await gateway.send("hi")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_another_method_is_refused(method: str) -> None:
    async with OwnServer()(Gateway()) as url, httpx.AsyncClient() as http:
        answer = await http.request(method, url + "/sse")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


# Middleware


class Passing(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


MIDDLEWARE: dict[str, list[Middleware]] = {
    "gzip": [Middleware(GZipMiddleware, minimum_size=1)],
    "base": [Middleware(Passing)],
    "cors": [Middleware(CORSMiddleware, allow_origins=["https://good.com"])],
    "session": [Middleware(SessionMiddleware, secret_key="a secret")],
    "all": [
        Middleware(GZipMiddleware, minimum_size=1),
        Middleware(Passing),
        Middleware(CORSMiddleware, allow_origins=["*"]),
        Middleware(SessionMiddleware, secret_key="a secret"),
    ],
}


@pytest.mark.parametrize("server", [OwnServer(), PlainUvicorn(), PlainUvicorn(http="h11"), Hypercorn()])
@pytest.mark.parametrize("name", MIDDLEWARE)
async def test_a_stream_flows_through_middleware(name: str, server: Serve) -> None:
    listener = RecordingListener()
    gateway = Gateway(listener=listener)
    routes = [Mount("/live", gateway)]
    app = Starlette(routes=routes, middleware=MIDDLEWARE[name], lifespan=gateway.lifespan)
    headers = {"accept-encoding": "gzip"}
    async with server(app) as url:
        async with streaming(url, "/live/sse", headers=headers) as stream:
            async with streaming(url, "/live/stream", headers=headers) as lines:
                await stream.next()
                await lines.object()
                for number in range(10):
                    await gateway.send(f"message {number}")
                    assert (await stream.next()).data == f"message {number}"
                    assert await lines.object() == {"message": f"message {number}"}
                assert {conn.path for conn in gateway.connections} == {"/sse", "/stream"}
        await listener.wait_for("on_client_close", 2)
        async with streaming(url, "/live/sse") as stream:
            await stream.next()
            (conn,) = gateway.connections
            await conn.close(1000, "done")
            assert (await stream.next()).type == "close"
            await stream.ends()


# A client that does not read


@pytest.mark.parametrize("path", ["/sse", "/stream"])
async def test_a_client_that_does_not_read_is_closed_3008_with_h11(path: str) -> None:
    """With the other parsers: the guarantees of all clients."""
    listener = RecordingListener()
    gateway = Gateway(listener=listener, outbox_bytes=100_000, send_timeout=0.5)
    async with PlainUvicorn(http="h11")(gateway) as url:
        stuck = await RawStream.open(url, path, buffer=4096)
        async with streaming(url) as stream:
            await stream.next()
            for number in range(200):
                await gateway.send(f"{number} {'x' * 50_000}")
                assert (await stream.next()).data.startswith(f"{number} ")
            await listener.wait_for("on_client_close")
            assert ("on_client_close", 3008) in listener.events
            assert len(gateway.connections) == 1
        await stuck.raw.stream.aclose()


# On plain ASGI, without a server


class Asgi:
    """The `receive` and `send` of a server that takes a write when the test says so."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.takes = anyio.Event()
        self.takes.set()
        self.left = anyio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, event: Any) -> None:
        self.sent.append(event)
        await self.takes.wait()


class Ended:
    closed_with: tuple[int, str] | None = None

    def received(self, message: str | bytes, size: int) -> bool:
        raise AssertionError("a stream receives nothing")

    def counted(self, *, is_fragment: bool = False) -> None:
        raise AssertionError("a stream receives nothing")

    def finished(self, code: int, reason: str) -> None:
        self.closed_with = code, reason


def plain_stream(asgi: Asgi, **options: Any) -> tuple[AsgiStream, Outbox, Ended]:
    settings = Settings(**options)
    ticker = Ticker(0.25)
    context = StreamContext(settings, ticker.wheel, GatewayLog("x"), lambda: None, watching=nullcontext)
    transport = AsgiStream(asgi.receive, asgi.send, kind=SSE, headers=(), context=context)
    outbox = Outbox("x", transport, SSE.wire_format, settings, Metrics())
    peer = Ended()
    transport.attach(peer, outbox)
    return transport, outbox, peer


def text(content: str) -> Message:
    return Message(content.encode(), Kind.TEXT)


@jumping
async def test_what_waits_is_joined_up_to_a_bound() -> None:
    asgi = Asgi()
    transport, outbox, _ = plain_stream(asgi)
    for _ in range(10):
        outbox.append(text("x" * 10_000))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(transport.run)
        await pass_time(0.1)
        asgi.left.set()
    sizes = [len(event["body"]) for event in asgi.sent]
    assert sizes == [7 * 10_008, 3 * 10_008]
    assert sizes[0] - 10_008 < MAX_JOINED <= sizes[0]


@jumping
async def test_a_write_that_the_server_does_not_take_ends_with_3008() -> None:
    asgi = Asgi()
    asgi.takes = anyio.Event()
    transport, outbox, peer = plain_stream(asgi, send_timeout=5, ping_interval=25)
    outbox.append(text("hi"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(transport.run)
        await pass_time(4)
        assert outbox.closing is None
        await pass_time(2)
        assert outbox.closing == (3008, "slow")
        await pass_time(3)
    assert peer.closed_with is not None


@jumping
async def test_a_heartbeat_is_due_every_interval_and_not_beside_what_waits() -> None:
    asgi = Asgi()
    transport, outbox, peer = plain_stream(asgi, ping_interval=25)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(transport.run)
        await pass_time(60)
        assert [event["body"] for event in asgi.sent] == [b":\n\n"] * 2
        outbox.close(1012, SHUTDOWN % 700)
        await pass_time(0.1)
        last = asgi.sent[-1]
        assert last["body"].startswith(b"retry: 700\n\nevent: close\n")
        assert last["more_body"] is False
        asgi.left.set()
    assert peer.closed_with == (1006, "")
