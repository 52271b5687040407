"""Applications on `uvicorn --ws wsgateway.server:WebSocketProtocol`, as the admin panel is one, and handshakes."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.floods import SENT, read_to_the_end, send_until_cut_off
from tests.raw import connect, handshake, masked, upgrade
from tests.servers import OwnServer, PlainUvicorn
from wsgateway import Event, Gateway
from wsgateway.server.websocket import WebSocketProtocol
from wsgateway.testing import Client

own = OwnServer()
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
                        await anyio.sleep(0.01)  # a list that another task fills
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


async def test_frames_that_come_before_the_accept_are_taken_after_it() -> None:
    gateway = Gateway()
    async with own(gateway) as url:
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
