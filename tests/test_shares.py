"""What one client sends at once is handled in shares, so that others are served and memory stays bounded."""

import asyncio
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.cli.test_main import hidden_uvloop
from tests.pipes import Pipe, joined
from tests.processes import serving
from tests.raw import Raw, handshake, masked
from tests.servers import OwnServer, PlainUvicorn, Serve
from wsgateway import Event, Gateway, MessageEvent
from wsgateway.listeners.inbox import INBOX_MESSAGES
from wsgateway.testing import Client, RecordingListener
from wsgateway.transports.peer import MAX_FRAMES

QUIET: dict[str, Any] = {"ping_interval": 600}
OFFER = "Sec-WebSocket-Extensions: permessage-deflate"

FLOODS = {
    "pings": masked(0x89, b""),
    "pongs": masked(0x8A, b""),
    "messages": masked(0x81, b"a"),
    "fragments": masked(0x01, b"") + masked(0x80, b""),
    "pings between fragments": masked(0x01, b"a") + masked(0x89, b"") + masked(0x80, b""),
}


class Ignoring(RecordingListener):
    """Sends nothing on."""

    async def on_message(self, event: MessageEvent) -> None:
        await super().on_message(event)
        event.connections = []

    def messages(self) -> list[object]:
        return [value for hook, value in self.events if hook == "on_message"]


@asynccontextmanager
async def piped(gateway: Gateway, **options: Any) -> AsyncIterator[Pipe]:
    async with gateway.lifespan():
        pipe = await joined(gateway, **options)
        yield pipe
        pipe.abort()
        await asyncio.sleep(0)  # the pipe reports its end in the next iteration


async def until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    with anyio.fail_after(seconds):
        while not condition():
            await asyncio.sleep(0)  # one iteration of the event loop


def pongs(pipe: Pipe) -> int:
    return pipe.written.count(b"\x8a\x00")


# One iteration of the event loop


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_read_of_very_many_frames_takes_many_iterations(flood: str) -> None:
    gateway = Gateway(**QUIET)
    async with piped(gateway) as pipe:
        frames = 200 * MAX_FRAMES
        pipe.socket.data_received(FLOODS[flood] * frames + masked(0x89, b"end"))
        assert not pipe.is_reading
        iterations = 0
        while b"\x8a\x03end" not in pipe.written:
            before = gateway.metrics.messages_in + pongs(pipe)
            await asyncio.sleep(0)  # one iteration of the event loop
            iterations += 1
            assert gateway.metrics.messages_in + pongs(pipe) - before <= 3 * MAX_FRAMES
        assert iterations >= 100
        await until(lambda: pipe.is_reading)
    if flood == "messages":
        assert gateway.metrics.messages_in == frames


async def test_reading_stops_until_the_next_iteration_after_a_full_read_too() -> None:
    async with piped(Gateway(Ignoring(), max_message_size=300_000, **QUIET)) as pipe:
        pipe.socket.data_received(masked(0x82, b"x" * 260_000))
        assert not pipe.is_reading
        await asyncio.sleep(0)  # one iteration of the event loop
        assert pipe.is_reading


async def test_what_comes_while_reading_is_paused_is_taken_in_order() -> None:
    listener = Ignoring()
    async with piped(Gateway(listener, **QUIET)) as pipe:
        frames = [masked(0x81, str(number).encode()) for number in range(1000)]
        frames[100:100] = [masked(0x01, b"fra"), masked(0x89, b"?"), masked(0x80, b"gment")]
        data = b"".join(frames)
        for at in range(0, len(data), 777):  # not at the ends of frames
            pipe.socket.data_received(data[at : at + 777])
        await until(lambda: len(listener.messages()) == 1001)
        expected: list[object] = [str(number) for number in range(1000)]
        assert listener.messages() == [*expected[:100], "fragment", *expected[100:]]


@pytest.mark.parametrize("deflates", [False, True])
async def test_a_close_behind_very_many_messages_is_heard_after_them(deflates: bool) -> None:
    listener = Ignoring()
    gateway = Gateway(listener, compression=deflates, **QUIET)
    async with piped(gateway, deflates=deflates) as pipe:
        pipe.socket.data_received(masked(0x81, b"x") * 500 + masked(0x88, b"\x0f\xa0bye"))
        await until(lambda: listener.count("on_client_close") == 1)
        assert len(listener.messages()) == 500
        assert listener.events[-1] == ("on_client_close", 4000)
        assert pipe.written.endswith(b"\x88\x05\x0f\xa0bye")


async def test_the_client_s_answer_to_a_close_is_found_behind_what_it_had_sent() -> None:
    async with piped(Gateway(Ignoring(), **QUIET)) as pipe:
        pipe.socket.data_received(masked(0x81, b"x") * 1000 + masked(0x88, b"\x0f\xa0"))
        pipe.conn._outbox.close(4000, "")
        assert not pipe.is_closing()
        await until(pipe.is_closing)
        assert not pipe.was_aborted


async def test_pings_of_a_client_that_does_not_read_wait_as_they_came() -> None:
    async with piped(Gateway(Ignoring(), **QUIET), limit=1000) as pipe:
        pipe.socket.data_received(masked(0x89, b"x" * 100) * 2000)
        for _ in range(300):
            await asyncio.sleep(0)  # one iteration of the event loop
        assert len(pipe.written) < 2 * MAX_FRAMES * 102
        for _ in range(300):
            pipe.read(10**9)
            await asyncio.sleep(0)  # one iteration of the event loop
        assert pipe.written.count(b"\x8a\x64") == 2000


async def test_the_pong_deadline_does_not_run_while_the_pong_waits_to_be_read() -> None:
    gateway = Gateway(Ignoring(), ping_interval=0.05, pong_timeout=0.05)
    async with piped(gateway) as pipe:
        await until(lambda: b"\x89\x04" in pipe.written)
        ping = pipe.written[pipe.written.index(b"\x89\x04") + 2 :][:4]
        pipe.written.clear()
        pipe.socket.data_received(masked(0x89, b"") * 20_000 + masked(0x8A, bytes(ping)) + masked(0x81, b"end"))
        await until(lambda: gateway.metrics.messages_in == 1)
        assert not pipe.is_closing()
        await until(lambda: b"\x89\x04" in pipe.written)  # and goes on
        await until(pipe.is_closing)  # it answers no more
    assert pipe.was_aborted


# Rates


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("serve", [OwnServer(), PlainUvicorn()], ids=lambda serve: serve.name)
async def test_control_frames_and_fragments_count_in_message_rate(serve: Serve, flood: str) -> None:
    if serve.name == "uvicorn" and flood in ("pings", "pongs"):
        pytest.skip("an ASGI application sees messages only")
    listener = Ignoring()
    async with serve(Gateway(listener, message_rate=50, message_burst=100)) as url:
        ann, _ = await handshake(url)
        async with ann:
            await ann.send(FLOODS[flood] * 100)
            assert listener.count("on_client_close") == 0
            await ann.send(FLOODS[flood] * 200)
            await listener.wait_for("on_client_close")
    assert listener.events[-1] == ("on_client_close", 3013)


async def test_the_pong_that_the_gateway_asked_for_does_not_count_in_message_rate() -> None:
    listener = Ignoring()
    gateway = Gateway(listener, ping_interval=0.05, pong_timeout=10, message_rate=0.01, message_burst=1)
    async with OwnServer()(gateway) as url:
        ann, _ = await handshake(url)
        async with ann:
            for _ in range(5):
                ping = await ann.receive_exactly(6)
                await ann.send(masked(0x8A, ping[2:]))
            await ann.send(masked(0x81, b"the one"))
            await listener.wait_for("on_message")
        assert listener.events[1] == ("on_message", "the one")


async def test_plain_asgi_serves_others_between_the_messages_of_one_client() -> None:
    gateway = Gateway(**QUIET)
    turns: list[int] = []

    async def receive() -> dict[str, object]:  # never waits
        calls.append(None)
        if len(calls) == 1:
            return {"type": "websocket.connect"}
        if len(calls) > 5000:
            return {"type": "websocket.disconnect", "code": 1000, "reason": ""}
        return {"type": "websocket.receive", "text": "x"}

    async def send(message: object) -> None: ...

    async def bystander() -> None:
        while True:
            turns.append(len(calls))
            await asyncio.sleep(0)  # one iteration of the event loop

    calls: list[None] = []
    scope = {"type": "websocket", "path": "/ws", "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1)}
    scope |= {"scheme": "ws", "query_string": b"", "root_path": "", "server": ("127.0.0.1", 2)}
    async with gateway.lifespan():
        other = asyncio.create_task(bystander())
        await gateway(scope, receive, send)
        other.cancel()
    assert max(later - earlier for earlier, later in pairwise(turns)) <= MAX_FRAMES + 2


# Compressed messages


def bomb(size: int, fill: bytes = b"\x00") -> bytes:
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = squeeze.compress(fill * size) + squeeze.flush(zlib.Z_SYNC_FLUSH)
    return data.removesuffix(b"\x00\x00\xff\xff")


class Waiting(RecordingListener):
    """Hooks that go on when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.go = anyio.Event()
        self.sizes: list[int] = []

    async def on_message(self, event: Event) -> None:
        await self.go.wait()
        self.sizes.append(len(event.message))
        event.connections = []


def fragmented(size: int) -> bytes:
    return masked(0x42, bomb(size)[:20]) + masked(0x89, b"") + masked(0x80, bomb(size)[20:])


BOMBS = {
    "small frames": masked(0xC2, bomb(65_000)) * 800,
    "frames that are not final, and control frames": fragmented(65_000) * 600,
    "one of the largest after the other": masked(0xC2, bomb(65_536)) * 600,
}


@pytest.mark.parametrize("kind", BOMBS)
async def test_what_waits_for_the_hooks_is_inflated_only_as_far_as_the_inbox_has_room(kind: str) -> None:
    listener = Waiting()
    gateway = Gateway(listener, compression=True, hook_timeout=60, **QUIET)
    async with OwnServer()(gateway) as url:
        ann, head = await handshake(url, OFFER)
        assert b"permessage-deflate" in head
        async with ann:
            tracemalloc.start()
            try:
                await ann.send(BOMBS[kind])
                await until(lambda: gateway.metrics.messages_in >= 2)
                async with Client(url) as bob:
                    await bob.send("x")
                    await until(lambda: gateway.metrics.messages_in >= 3)
                    assert tracemalloc.get_traced_memory()[1] < 6_000_000
            finally:
                tracemalloc.stop()
            assert gateway.metrics.messages_in <= 2 * INBOX_MESSAGES
            listener.go.set()
            await until(lambda: len(listener.sizes) == 1 + count_of(BOMBS[kind]))


def count_of(data: bytes) -> int:
    """How many messages `data` completes."""
    count = at = 0
    while at < len(data):
        count += data[at] & 0x80 != 0 and data[at] & 8 == 0
        size = data[at + 1] & 127
        at += 6 + size if size < 126 else 8 + int.from_bytes(data[at + 2 : at + 4])
    return count


async def test_inflating_takes_its_share_of_an_iteration_too() -> None:
    """Without a hook the inbox is never full."""
    gateway = Gateway(compression=True, **QUIET)
    async with piped(gateway, deflates=True) as pipe:
        pipe.socket.data_received(masked(0xC2, bomb(65_000)) * 500)
        while gateway.metrics.messages_in < 500:
            before = gateway.metrics.messages_in
            await asyncio.sleep(0)  # one iteration of the event loop
            assert gateway.metrics.messages_in - before <= 10


# Others


@pytest.fixture(params=["uvloop", "asyncio"])
def env(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    return {} if request.param == "uvloop" else {"PYTHONPATH": str(hidden_uvloop(tmp_path))}


async def flood_until(stop: anyio.Event, ann: Raw, data: bytes) -> None:
    async def send() -> None:
        while not stop.is_set():
            await ann.stream.send(data)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        while not stop.is_set():
            await ann.stream.receive(1 << 20)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_of_one_client_does_not_starve_the_others(
    flood: str, tmp_path: Path, env: dict[str, str]
) -> None:
    (tmp_path / "echo.py").write_text(
        "class Listener:\n    async def on_message(self, event):\n        event.connections = [event.conn]\n"
    )
    with serving("--listener", "echo.py:Listener", cwd=tmp_path, env=env) as served:
        async with Client(served.url) as bob:
            ann, _ = await handshake(served.url)
            stop = anyio.Event()
            async with ann, anyio.create_task_group() as tasks:
                tasks.start_soon(flood_until, stop, ann, FLOODS[flood] * 40_000)
                with anyio.fail_after(20):
                    for number in range(30):
                        await bob.send(str(number))
                        assert await bob.receive() == str(number)
                stop.set()
                tasks.cancel_scope.cancel()
        await anyio.to_thread.run_sync(served.terminate)
