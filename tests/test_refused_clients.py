"""A refused client that goes on sending without reading is aborted, and nothing is kept for it."""

import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest

from tests.floods import SENT, read_to_the_end, send_until_cut_off
from tests.raw import handshake, masked
from tests.servers import OwnServer, PlainUvicorn, Serve
from wsgateway import Event, Gateway, Refused
from wsgateway.app import Application
from wsgateway.testing import Client


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


@pytest.mark.parametrize("sent", SENT)
@pytest.mark.parametrize("serve", REFUSING, ids=lambda serve: serve.name)
async def test_a_refused_client_that_goes_on_sending_is_aborted(serve: Serve, sent: str) -> None:
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
async def test_a_refused_client_may_answer_the_close(serve: Serve) -> None:
    async with serve(Gateway(Refusing())) as url:
        async with Client(url) as bob:
            assert await bob.closed() == (3500, "log in first")
        ann, _ = await handshake(url)
        async with ann:
            await ann.send(masked(0x81, b"sent before the close was read") + masked(0x88, b"\x0d\xac"))
            assert await read_to_the_end(ann) == b"\x88\x0e\x0d\xaclog in first"


async def test_a_server_stops_while_a_refused_client_sends_nothing() -> None:
    async with OwnServer()(Gateway(Refusing())) as url:
        ann, _ = await handshake(url)
    with anyio.fail_after(8):
        async with ann:
            await read_to_the_end(ann)


@pytest.mark.parametrize("sent", SENT)
async def test_a_refused_client_that_floods_does_not_starve_the_others(sent: str) -> None:
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
