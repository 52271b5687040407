"""A client that was turned away, or is served by uvicorn's own protocol, and goes on sending without reading: nothing
piles up for it, and it is cut off."""

import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.raw import Raw, connect, handshake, masked, upgrade
from tests.servers import OwnServer, PlainUvicorn, Serve
from wsgateway import Event, Gateway, Refused
from wsgateway.app import Application
from wsgateway.server.websocket import WebSocketProtocol
from wsgateway.testing import Client

SENT = {
    "pings": masked(0x89, b"x" * 125),
    "pongs": masked(0x8A, b"x" * 125),
    "messages": masked(0x81, b"x" * 125),
    "fragments": masked(0x01, b"x" * 60) + masked(0x80, b"x" * 60),
}
MUCH = 30_000_000


class Refusing:
    async def on_handshake(self, event: Event) -> None:
        raise Refused(401, "log in first", close=3500)


class OwnApplication:
    """What `uvicorn wsgateway.app:app` serves."""

    name = "wsgateway.app"

    @asynccontextmanager
    async def __call__(self, app: Any) -> AsyncIterator[str]:
        application = Application()
        application.gateway = app
        async with PlainUvicorn()(application) as url:
            yield url


REFUSING: list[Serve] = [OwnServer(), OwnApplication()]


async def send_until_cut_off(raw: Raw, data: bytes, *, most: int = MUCH) -> None:
    """Send `data` again and again, reading nothing. Ends when the server ends the connection, or with `most` bytes."""
    block = data * (64_000 // len(data))
    with anyio.fail_after(30):
        try:
            for _ in range(most // len(block)):
                await raw.stream.send(block)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return


async def read_to_the_end(raw: Raw) -> bytes:
    found = b""
    with anyio.fail_after(30):
        try:
            while True:
                found += await raw.receive_some()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return found


@pytest.mark.parametrize("sent", SENT)
@pytest.mark.parametrize("serve", REFUSING, ids=lambda serve: serve.name)
async def test_a_client_that_is_turned_away_and_goes_on_sending_is_cut_off(serve: Serve, sent: str) -> None:
    async with serve(Gateway(Refusing())) as url:
        ann, head = await handshake(url)
        async with ann:
            assert head.startswith(b"HTTP/1.1 101")
            assert await ann.receive_exactly(16) == b"\x88\x0e\x0d\xaclog in first"
            tracemalloc.start()
            try:
                with anyio.fail_after(8):  # LINGER, not the ten seconds of one that keeps silent
                    await send_until_cut_off(ann, SENT[sent], most=10**12)
                assert tracemalloc.get_traced_memory()[1] < 4_000_000
            finally:
                tracemalloc.stop()
            assert await read_to_the_end(ann) == b""  # no pong


@pytest.mark.parametrize("serve", REFUSING, ids=lambda serve: serve.name)
async def test_a_client_that_is_turned_away_may_answer_the_close(serve: Serve) -> None:
    async with serve(Gateway(Refusing())) as url:
        async with Client(url) as bob:
            assert await bob.closed() == (3500, "log in first")
        ann, _ = await handshake(url)
        async with ann:
            await ann.send(masked(0x81, b"sent before the close was read") + masked(0x88, b"\x0d\xac"))
            assert await read_to_the_end(ann) == b"\x88\x0e\x0d\xaclog in first"


async def test_a_server_stops_while_one_that_was_turned_away_keeps_silent() -> None:
    async with OwnServer()(Gateway(Refusing())) as url:
        ann, _ = await handshake(url)
    with anyio.fail_after(8):
        async with ann:
            await read_to_the_end(ann)


# Applications on `uvicorn --ws wsgateway.server:WebSocketProtocol`, as the admin panel is one

OwnProtocol = PlainUvicorn(ws=WebSocketProtocol, ws_ping_interval=None)


def application(endpoint: Callable[[WebSocket], Any]) -> Starlette:
    return Starlette(routes=[WebSocketRoute("/ws", endpoint)])


@pytest.mark.parametrize("sent", ["pings", "messages"])
async def test_what_an_application_does_not_take_or_the_client_not_read_is_not_read(sent: str) -> None:
    go = anyio.Event()
    received: list[str] = []

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        await go.wait()
        try:
            while True:
                received.append(await socket.receive_text())
        except WebSocketDisconnect:
            pass

    async with OwnProtocol(application(endpoint)) as url:
        ann, _ = await handshake(url)
        async with ann, anyio.create_task_group() as tasks:
            tracemalloc.start()
            try:
                with anyio.move_on_after(3) as sending:
                    await send_until_cut_off(ann, SENT[sent])
                assert sending.cancelled_caught  # the server has stopped reading, so no more can be sent
                assert tracemalloc.get_traced_memory()[1] < 4_000_000
            finally:
                tracemalloc.stop()
            tasks.start_soon(read_to_the_end, ann)
            go.set()
            if sent == "messages":
                with anyio.fail_after(30):
                    while len(received) < 20_000:
                        await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("sent", SENT)
async def test_a_client_that_an_application_has_closed_is_cut_off_if_it_goes_on_sending(sent: str) -> None:
    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close(4000)

    async with OwnProtocol(application(endpoint)) as url:
        ann, _ = await handshake(url)
        async with ann:
            assert await ann.receive_exactly(4) == b"\x88\x02\x0f\xa0"
            with anyio.fail_after(8):
                await send_until_cut_off(ann, SENT[sent], most=10**12)
            assert await read_to_the_end(ann) == b""


async def test_a_client_that_reads_nothing_is_cut_off_when_it_breaks_the_protocol_or_the_application_ends() -> None:
    ended = anyio.Event()

    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        with anyio.move_on_after(1):
            while True:
                await socket.send_bytes(b"x" * 1_000_000)
        ended.set()

    async with OwnProtocol(application(endpoint)) as url:
        ann, _ = await handshake(url)
        async with ann:
            with anyio.fail_after(20):
                await ended.wait()
        # the server waits for its connections when it stops: it would wait for ever


@pytest.mark.parametrize("sent", SENT)
async def test_an_application_s_client_that_floods_does_not_starve_the_others(sent: str) -> None:
    async def endpoint(socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                text = await socket.receive_text()
                if text.startswith("echo"):
                    await socket.send_text(text)
        except WebSocketDisconnect:
            pass

    async with OwnProtocol(application(endpoint)) as url, Client(url) as bob:
        ann, _ = await handshake(url)
        async with ann, anyio.create_task_group() as tasks:
            tasks.start_soon(send_until_cut_off, ann, SENT[sent])
            tasks.start_soon(read_to_the_end, ann)
            with anyio.fail_after(20):
                for number in range(30):
                    await bob.send(f"echo {number}")
                    assert await bob.receive() == f"echo {number}"
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("sent", SENT)
async def test_a_client_that_is_turned_away_and_floods_does_not_starve_the_others(sent: str) -> None:
    class Listener:
        async def on_handshake(self, event: Event) -> None:
            if event.conn is not None and event.conn.path != "/ws/in":
                raise Refused(401, "log in first", close=3500)

        async def on_message(self, event: Event) -> None:
            event.connections = [event.conn] if event.conn else []

    async with OwnServer()(Gateway(Listener())) as url, Client(url, "/ws/in") as bob:
        async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
            for _ in range(3):
                ann, _ = await handshake(url)
                await stack.enter_async_context(ann)
                tasks.start_soon(send_until_cut_off, ann, SENT[sent])
            with anyio.fail_after(20):
                for number in range(30):
                    await bob.send(str(number))
                    assert await bob.receive() == str(number)
            tasks.cancel_scope.cancel()


async def test_frames_that_come_before_the_accept_are_taken_after_it() -> None:
    gateway = Gateway()
    async with OwnServer()(gateway) as url:
        raw = await connect(url)
        async with raw:
            frames = masked(0x89, b"?") + b"".join(masked(0x81, str(number).encode()) for number in range(200))
            await raw.send(upgrade(host=url.removeprefix("http://")) + frames)
            head = await raw.receive_until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101")
            assert await raw.receive_exactly(3) == b"\x8a\x01?"
            for number in range(200):
                text = str(number).encode()
                assert await raw.receive_exactly(2 + len(text)) == bytes([0x81, len(text)]) + text
