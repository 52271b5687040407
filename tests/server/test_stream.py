"""Taking the socket of a stream over from uvicorn: what is written and read there, and on which attributes it rests."""

import asyncio
import gc
import socket
import threading
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tests.raw import connect, head
from tests.servers import PlainUvicorn
from tests.streams import RawStream, streaming
from wsgateway import Gateway
from wsgateway.config.grace import HTTP_GRACE
from wsgateway.server.attributes import NEEDED_STREAM
from wsgateway.server.http import HttpProtocol
from wsgateway.server.stream import MAX_IGNORED, StreamSocket, UvicornStream
from wsgateway.testing import RecordingListener, serve

FIRST = b"\n\n\r\n"
"""The end of the first event of a stream."""


def streams_here() -> list[StreamSocket]:
    return [thing for thing in gc.get_objects() if type(thing) is StreamSocket and thing._user is not None]


@pytest.mark.parametrize("name", NEEDED_STREAM)
async def test_uvicorns_cycle_still_has(name: str) -> None:
    found = asyncio.get_running_loop().create_future()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not found.done():
            found.set_result(send.__self__)
        elif scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})

    async with PlainUvicorn(http="httptools", proxy_headers=False)(app) as url:
        raw = await connect(url)
        async with raw:
            await raw.send(head("GET / HTTP/1.1"))
            cycle = await found
            assert type(cycle) is RequestResponseCycle
            assert hasattr(cycle, name), f"uvicorn's cycle has no {name} any more"


async def test_on_a_uvicorn_that_has_changed_plain_asgi_is_used_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("wsgateway.server.http.NEEDED_STREAM", (*NEEDED_STREAM, "a_newer_name"))  # as in a later one
    for _ in range(2):
        gateway = Gateway()
        async with serve(gateway) as url, streaming(url) as stream:
            await stream.next()
            assert not streams_here()
            await gateway.send("hi")
            assert (await stream.next()).data == "hi"
    assert len([record for record in caplog.records if "a_newer_name" in record.getMessage()]) == 1


async def test_one_chunk_is_shared_and_no_task_is_left() -> None:
    gateway = Gateway()
    async with serve(gateway) as url:
        before = len(asyncio.all_tasks())
        streams = [await RawStream.open(url) for _ in range(20)]
        for stream in streams:
            await stream.raw.receive_until(FIRST)
        assert len(asyncio.all_tasks()) == before
        assert len(streams_here()) == 20
        await gateway.send("hi")
        for stream in streams:
            assert await stream.raw.receive_exactly(15) == b"a\r\ndata: hi\n\n\r\n"
            await stream.raw.stream.aclose()


async def test_what_only_the_request_needs_is_freed_immediately() -> None:
    kinds = (HttpProtocol, RequestResponseCycle, UvicornStream)

    def request_objects() -> list[object]:
        return [thing for thing in gc.get_objects() if issubclass(type(thing), kinds)]

    gateway = Gateway()
    async with serve(gateway) as url:
        async with await connect(url) as warm:  # the first request of a server finds out what uvicorn has
            await warm.send(head("GET /health HTTP/1.1"))
            await warm.receive_until(b"}")
        gc.collect()
        gc.disable()
        try:
            before = request_objects()
            stream = await RawStream.open(url)
            await stream.raw.receive_until(FIRST)
            await gateway.send("hi")
            await stream.raw.receive_until(b"hi\n\n\r\n")
            assert [thing for thing in request_objects() if not any(thing is old for old in before)] == []
            await stream.raw.stream.aclose()
        finally:
            gc.enable()


async def test_the_head_says_that_nothing_follows() -> None:
    async with serve(Gateway()) as url:
        stream = await RawStream.open(url)
        assert b"\r\nconnection: close\r\n" in stream.head
        assert b"\r\ntransfer-encoding: chunked\r\n" in stream.head
        await stream.raw.stream.aclose()


async def test_what_the_client_sends_is_ignored_up_to_a_bound() -> None:
    listener = RecordingListener()
    gateway = Gateway(listener=listener)
    async with serve(gateway) as url:
        stream = await RawStream.open(url)
        await stream.raw.receive_until(FIRST)
        await stream.raw.send(b"x" * MAX_IGNORED)
        await gateway.send("still there")
        await stream.raw.receive_until(b"still there")
        await stream.raw.send(b"x")
        await listener.wait_for("on_client_close")
        assert len(gateway.connections) == 0
        await stream.raw.stream.aclose()


async def test_a_request_behind_that_of_a_stream_breaks_nothing() -> None:
    gateway = Gateway()
    async with serve(gateway) as url:
        for more in (1, 3):
            raw = await connect(url)
            await raw.send(head("GET /sse HTTP/1.1") + head("GET /health HTTP/1.1") * more)
            await raw.receive_until(FIRST)
            await gateway.send("hi")
            assert b"data: hi\n\n" in await raw.receive_until(b"hi\n\n\r\n")
            await raw.stream.aclose()


async def test_a_stream_behind_another_request_begins_after_its_response() -> None:
    gateway = Gateway()
    async with serve(gateway) as url, await connect(url) as raw:
        await raw.send(head("GET /health HTTP/1.1") + head("GET /sse HTTP/1.1"))
        assert (await raw.receive_until(b"}")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"text/event-stream" in await raw.receive_until(b"\r\n\r\n")
        await raw.receive_until(FIRST)
        await gateway.send("hi")
        await raw.receive_until(b"data: hi\n\n")


@pytest.mark.parametrize(
    ("first", "headers", "body"),
    [
        ("GET /sse HTTP/1.1", ["Content-Length: 5"], b"hello"),
        ("GET /sse HTTP/1.1", ["Content-Length: 5"], b""),
        ("GET /sse HTTP/1.1", ["Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n"),
        ("GET /sse HTTP/1.0", [], b""),
    ],
)
async def test_a_request_whose_socket_cannot_be_taken_is_served_over_asgi(
    first: str, headers: list[str], body: bytes
) -> None:
    listener = RecordingListener()
    gateway = Gateway(listener=listener)
    async with serve(gateway) as url:
        raw = await connect(url)
        await raw.send(head(first, *headers) + body)
        await raw.receive_until(b"event: open")
        assert not streams_here()
        await gateway.send("hi")
        await raw.receive_until(b"data: hi\n\n")
        await raw.stream.aclose()
        await listener.wait_for("on_client_close")


async def test_a_client_that_sends_fin_is_disconnected() -> None:
    listener = RecordingListener()
    async with serve(Gateway(listener=listener)) as url:
        stream = await RawStream.open(url)
        await stream.raw.receive_until(FIRST)
        await stream.raw.stream.send_eof()
        await listener.wait_for("on_client_close")
        await stream.raw.stream.aclose()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has TCP_USER_TIMEOUT")
async def test_the_system_closes_the_connection_of_a_client_that_vanishes() -> None:
    async with serve(Gateway(ping_interval=20, pong_timeout=5)) as url:
        stream = await RawStream.open(url)
        await stream.raw.receive_until(FIRST)
        (here,) = streams_here()
        sock = here._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 25_000
        await stream.raw.stream.aclose()


async def test_a_client_that_does_not_read_the_end_is_aborted() -> None:
    listener = RecordingListener()
    gateway = Gateway(listener=listener, drain=3)
    async with serve(gateway) as url:
        stuck = await RawStream.open(url, buffer=4096)
        await listener.wait_for("on_client_open")
        for _ in range(100):
            await gateway.send("x" * 50_000)
        with anyio.fail_after(12):
            await gateway.stop()
        assert ("on_client_close", 1012) in listener.events or ("on_client_close", 3008) in listener.events
        await stuck.raw.stream.aclose()


async def test_a_mounted_gateway_takes_the_socket_too() -> None:
    gateway = Gateway()
    app = Starlette(routes=[Mount("/live", gateway)], lifespan=gateway.lifespan)
    async with serve(app) as url, streaming(url, "/live/sse") as stream:
        await stream.next()
        assert len(streams_here()) == 1
        await gateway.send("hi")
        assert (await stream.next()).data == "hi"


async def test_a_stream_over_asgi_ends_when_the_own_server_stops() -> None:
    class Passing(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
            return await call_next(request)

    gateway = Gateway()
    app = Starlette(routes=[Mount("/", gateway)], middleware=[Middleware(Passing)], lifespan=gateway.lifespan)
    async with AsyncExitStack() as stack:
        serving = AsyncExitStack()
        url = await serving.enter_async_context(serve(app))
        stream = await stack.enter_async_context(streaming(url))
        await stream.next()
        assert not streams_here()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serving.aclose)
            with anyio.fail_after(HTTP_GRACE - 1):
                assert (await stream.next()).type == "close"
                await stream.ends()


def test_uvicorns_protocol_is_the_one_whose_attributes_are_used() -> None:
    assert issubclass(HttpProtocol, HttpToolsProtocol)


async def test_a_gateway_on_another_event_loop_does_not_take_the_socket() -> None:
    gateway = Gateway()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(gateway.start(), loop).result(20)
    try:
        async with serve(Starlette(routes=[Mount("/", gateway)])) as url, streaming(url) as stream:
            assert (await stream.next()).type == "open"
            assert not streams_here()
            await asyncio.to_thread(gateway.send_from_thread, "hi")
            assert (await stream.next()).data == "hi"
            await asyncio.to_thread(asyncio.run_coroutine_threadsafe(gateway.stop(), loop).result, 20)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
