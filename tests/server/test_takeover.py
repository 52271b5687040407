"""Taking a socket over from uvicorn: on which of its attributes it rests, where it happens, and what if it cannot."""

import asyncio
import gc
from typing import Any

import anyio
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from starlette.websockets import WebSocket
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.server import ServerProtocol

from tests.raw import Raw, handshake, masked
from tests.servers import PlainUvicorn
from wsgateway import Event, Gateway
from wsgateway.app import Application
from wsgateway.server.attributes import NEEDED_HTTP, NEEDED_WEBSOCKET
from wsgateway.server.http import HttpProtocol
from wsgateway.server.websocket import WebSocketProtocol
from wsgateway.testing import Client, RecordingListener, serve


@pytest.mark.parametrize("name", NEEDED_WEBSOCKET)
async def test_uvicorn_still_has(name: str) -> None:
    found = asyncio.get_running_loop().create_future()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            found.set_result(send.__self__)
        await receive()
        await send({"type": f"{scope['type']}.{'startup.complete' if scope['type'] == 'lifespan' else 'close'}"})

    async with PlainUvicorn()(app) as url:
        with pytest.raises(Exception, match="403"):
            async with Client(url):
                pass
        assert hasattr(await found, name), f"uvicorn's WebSocket protocol has no {name} any more"


@pytest.mark.parametrize("name", NEEDED_HTTP)
async def test_uvicorns_http_protocol_still_has(name: str) -> None:
    config = uvicorn.Config(Gateway(), ws=WebSocketProtocol)
    config.load()
    assert hasattr(HttpToolsProtocol(config, ServerState(), {}), name), (
        f"uvicorn's HTTP protocol has no {name} any more"
    )


async def test_on_a_uvicorn_whose_http_protocol_has_changed_its_own_is_used_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("wsgateway.server.http.NEEDED_HTTP", (*NEEDED_HTTP, "a_new_name"))  # as in a later uvicorn
    for _ in range(2):
        async with serve(Gateway()) as url, Client(url) as ann:
            await ann.send("hi")
            assert await ann.receive() == "hi"
    warnings = [record.getMessage() for record in caplog.records if "a_new_name" in record.getMessage()]
    assert len(warnings) == 1


async def idle_tasks(url: str, count: int) -> int:
    """How many tasks `count` idle connections cost the server, which runs on this loop."""
    clients: list[Raw] = []
    async with Client(url) as ann:
        before = len(asyncio.all_tasks())
        for _ in range(count):
            raw, _ = await handshake(url)
            clients.append(raw)
        await ann.send("are you all there?")
        for raw in clients:
            assert await raw.receive_exactly(2) == b"\x81\x12"
        with anyio.move_on_after(1):
            while len(asyncio.all_tasks()) > before:
                await anyio.sleep(0.01)  # nothing reports the end of the server's tasks
        after = len(asyncio.all_tasks())
        for raw in clients:
            await raw.stream.aclose()
    return after - before


def handshake_objects() -> list[object]:
    """Return the objects of this process that only handshakes need."""
    kinds = (HttpProtocol, WebSocketProtocol, ServerProtocol)
    return [thing for thing in gc.get_objects() if issubclass(type(thing), kinds)]


async def test_what_only_the_handshake_needs_is_freed_immediately() -> None:
    gc.collect()
    gc.disable()
    try:
        before = handshake_objects()  # which earlier tests have left, and which stay alive meanwhile
        async with serve(Gateway()) as url, Client(url) as client:
            await client.send("hello")
            assert await client.receive() == "hello"
            assert [thing for thing in handshake_objects() if not any(thing is old for old in before)] == []
    finally:
        gc.enable()


async def test_plain_uvicorn_on_the_shipped_application_is_the_fast_path_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSGATEWAY_TEST_PAGE", "false")
    async with PlainUvicorn()(Application()) as url:
        assert await idle_tasks(url, 20) == 0


async def test_a_mounted_gateway_on_uvicorn_with_our_protocol_is_on_the_fast_path() -> None:
    gateway = Gateway()
    app = Starlette(routes=[Mount("/live", gateway)], lifespan=gateway.lifespan)
    async with PlainUvicorn(ws=WebSocketProtocol)(app) as url:
        async with Client(url, "/live/ws") as ann:
            before = len(asyncio.all_tasks())
            raw, _ = await handshake(url, path="/live/ws")
            async with raw:
                await raw.send(masked(0x81, b"hi"))
                assert await raw.receive_exactly(4) == b"\x81\x02hi"
                assert await ann.receive() == "hi"
                assert len(asyncio.all_tasks()) <= before


async def test_uvicorn_takes_both_protocols_by_name() -> None:
    names = {"ws": "wsgateway.server:WebSocketProtocol", "http": "wsgateway.server:HttpProtocol"}
    async with PlainUvicorn(**names)(Gateway()) as url:
        assert await idle_tasks(url, 3) == 0
        raw, _ = await handshake(url, "Cookie: " + "c" * 16_384)
        await raw.stream.aclose()


async def test_other_websockets_of_the_application_are_left_to_uvicorn() -> None:
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.close(3000)

    app = Starlette(routes=[WebSocketRoute("/echo", echo)])
    async with PlainUvicorn(ws=WebSocketProtocol)(app) as url, Client(url, "/echo") as ann:
        await ann.send("hi")
        assert await ann.receive() == "hi"
        assert await ann.closed() == (3000, "")


async def test_where_uvicorn_lacks_an_attribute_the_plain_path_is_used_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Changed(WebSocketProtocol):
        def handle_connect(self, event: Any) -> None:
            super().handle_connect(event)
            del self.request

    assert issubclass(Changed, WebSocketsSansIOProtocol)
    listener = RecordingListener()
    async with PlainUvicorn(ws=Changed)(Gateway(listener)) as url:
        async with Client(url) as ann, Client(url) as bob:
            await listener.wait_for("on_client_open", 2)
            await ann.send("hi")
            assert await bob.receive() == await ann.receive() == "hi"
        await listener.wait_for("on_client_close", 2)
    warnings = [record.getMessage() for record in caplog.records if "plain ASGI path" in record.getMessage()]
    assert len(warnings) == 1
    assert " has no request in its WebSocket protocol" in warnings[0]


async def test_uvicorns_own_shutdown_drains_the_gateway_over_time() -> None:
    closed: list[tuple[float, int | None]] = []

    class Listener(RecordingListener):
        async def on_client_close(self, event: Event) -> None:
            closed.append((asyncio.get_running_loop().time(), event.code))

    listener = Listener()
    gateway = Gateway(listener, drain=5)
    async with anyio.create_task_group() as tasks:
        async with PlainUvicorn(ws=WebSocketProtocol)(gateway) as url:
            for _ in range(120):  # more than are closed at once
                raw, _ = await handshake(url)
                tasks.start_soon(answer_close, raw)
            await listener.wait_for("on_client_open", 120)
        assert len(closed) == 120
    assert {code for _, code in closed} == {1012}
    assert closed[-1][0] - closed[0][0] > 0.15


async def answer_close(raw: Raw) -> None:
    async with raw:
        head = await raw.receive_exactly(2)
        assert head[0] == 0x88
        await raw.receive_exactly(head[1])
        await raw.send(masked(0x88, b"\x03\xf4"))
