"""Outboxes and slow clients, on the gateway's own server and on plain uvicorn. A slow client here has a tiny
receive buffer and never reads."""

import asyncio
import re
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import pytest

from tests.connections import unconnected
from tests.servers import OwnServer, PlainUvicorn, Serve
from wsgateway import CloseEvent, Connection, Event, Gateway
from wsgateway.testing import Client, RecordingListener

BIG = "x" * 60_000


@pytest.fixture(params=[OwnServer(), PlainUvicorn()], ids=lambda serve: serve.name)
def serve(request: pytest.FixtureRequest) -> Serve:
    found: Serve = request.param
    return found


@asynccontextmanager
async def stalled(url: str, path: str = "/ws/stalled") -> AsyncIterator[socket.socket]:
    """A client that has shaken hands and never reads again."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", urlsplit(url).port))
    request = f"GET {path} HTTP/1.1\r\nHost: {url[7:]}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    await loop.sock_sendall(sock, (request + key).encode())
    assert (await loop.sock_recv(sock, 4096)).startswith(b"HTTP/1.1 101")
    try:
        yield sock
    finally:
        sock.close()


async def flood(gateway: Gateway, healthy: Client, count: int) -> None:
    """Broadcast `count` big messages; the healthy client receives each before the next one goes out."""
    for number in range(count):
        await gateway.send(f"{number} {BIG}")
        assert (await healthy.receive()).startswith(f"{number} ")  # type: ignore[arg-type]  # it is text


async def test_without_progress_for_send_timeout_it_is_slow(serve: Serve) -> None:
    recorder = RecordingListener()
    gateway = Gateway(listener=recorder, outbox_bytes=100_000_000, send_timeout=0.3, slow_policy="drop_newest")
    async with serve(gateway) as url, stalled(url), Client(url) as healthy:
        await recorder.wait_for("on_client_open", 2)
        await flood(gateway, healthy, 100)
        await recorder.wait_for("on_client_close")
        assert ("on_client_close", 3008) in recorder.events
        await gateway.send("still here")
        assert await healthy.receive() == "still here"


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
async def test_dropping_keeps_the_connection_and_counts(serve: Serve, policy: str) -> None:
    recorder = RecordingListener()
    gateway = Gateway(
        listener=recorder, outbox_messages=5, outbox_bytes=100_000_000, send_timeout=60, slow_policy=policy
    )
    async with serve(gateway) as url, stalled(url) as sock, Client(url) as healthy:
        await recorder.wait_for("on_client_open", 2)
        await flood(gateway, healthy, 120)
        dropped = gateway.metrics.dropped[policy]
        assert dropped > 50
        assert recorder.count("on_client_close") == 0
        slow = next(conn for conn in gateway.connections if conn.path == "/ws/stalled")
        assert slow.queued_messages <= 5
        numbers = await read_numbers(sock, 120 - dropped)
        assert numbers == sorted(numbers)
        assert numbers[-1] == 119 if policy == "drop_oldest" else numbers[-1] < 119


async def read_numbers(sock: socket.socket, count: int) -> list[int]:
    """The numbers that the next `count` messages of `flood` begin with."""
    loop = asyncio.get_running_loop()
    data = bytearray()
    numbers: list[int] = []
    with anyio.fail_after(10):
        while len(numbers) < count:
            data += await loop.sock_recv(sock, 1 << 16)
            while len(data) >= 4:
                length = int.from_bytes(data[2:4]) + 4 if data[1] == 126 else data[1] + 2
                if len(data) < length:
                    break
                numbers.append(int(bytes(data[4:length]).split(b" ", 1)[0]))
                del data[:length]
    return numbers


async def test_a_stalled_client_does_not_hold_up_a_stop(serve: Serve) -> None:
    recorder = RecordingListener()
    gateway = Gateway(listener=recorder, outbox_bytes=100_000_000, send_timeout=60, drain=0.5)
    async with serve(gateway) as url, stalled(url), Client(url) as healthy:
        await recorder.wait_for("on_client_open", 2)
        await flood(gateway, healthy, 100)
        with anyio.fail_after(10):
            await gateway.stop()
        assert (await healthy.closed())[0] == 1012
    assert recorder.count("on_client_close") == 2


async def test_memory_of_one_stalled_client_is_bounded_by_its_outbox(serve: Serve) -> None:
    gateway = Gateway(outbox_bytes=300_000, send_timeout=60, slow_policy="drop_newest")
    async with serve(gateway) as url, stalled(url), Client(url) as healthy:
        await healthy.send("x")
        await healthy.receive()
        for _ in range(100):
            await flood(gateway, healthy, 1)
            assert all(conn.queued_bytes <= 300_000 for conn in gateway.connections)


async def test_an_empty_outbox_takes_any_message(serve: Serve) -> None:
    gateway = Gateway(outbox_bytes=1, outbox_messages=1)
    async with serve(gateway) as url, Client(url, max_size=None) as ann:
        await ann.send("x")
        await ann.receive()
        sent = await gateway.send("y" * 500_000)
        assert (sent.queued, sent.dropped) == (1, 0)
        assert len(await ann.receive()) == 500_000


async def test_a_slow_hook_does_not_cost_a_healthy_client_its_connection() -> None:
    class Listener:
        async def on_message(self, event: Event) -> None:
            await anyio.sleep(0.8)  # longer than ping_interval and pong_timeout together

    gateway = Gateway(listener=Listener, ping_interval=0.1, pong_timeout=0.2)
    async with OwnServer()(gateway) as url, Client(url) as ann:
        await ann.send("x")
        assert await ann.receive() == "x"


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})], ids=["uvloop"])  # its timers come first
async def test_a_blocked_loop_does_not_cost_everybody_the_connection() -> None:
    blocked = threading.Event()

    class Listener:
        async def on_message(self, event: Event) -> None:
            blocked.set()
            time.sleep(2)  # the mistake that is tested: a hook that blocks the loop

    gateway = Gateway(listener=Listener, ping_interval=0.1, pong_timeout=1.5)  # a busy machine answers pings in that
    async with OwnServer()(gateway) as url, stalled(url) as sock:
        pings = await anyio.to_thread.run_sync(pong_while_the_loop_is_blocked, sock, blocked)
    assert pings == 3


def pong_while_the_loop_is_blocked(sock: socket.socket, blocked: threading.Event) -> int:
    """Take a ping, send a message that blocks the server, then the pong; the pings that still come, up to three."""
    mask = bytes(4)
    sock.settimeout(10)
    ping = sock.recv(6)
    sock.sendall(b"\x81\x81" + mask + b"x")
    assert blocked.wait(10)
    sock.sendall(b"\x8a\x84" + mask + ping[2:])
    pings = 0
    while pings < 3 and (data := sock.recv(100)):
        for found in re.finditer(rb"\x89\x04(.{4})", data, re.DOTALL):
            pings += 1
            sock.sendall(b"\x8a\x84" + mask + found[1])
    return pings


async def test_a_full_inbox_does_not_cost_a_client_its_connection() -> None:
    release = anyio.Event()
    recorder = RecordingListener()

    async def wait(event: Event) -> None:
        await release.wait()

    recorder.on_message = wait  # type: ignore[method-assign]
    gateway = Gateway(listener=recorder, ping_interval=0.1, pong_timeout=0.2)
    async with OwnServer()(gateway) as url, Client(url, ping_interval=None) as ann:
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                await ann.send(f"{number} {'x' * 10_000}")
            with anyio.move_on_after(1):
                await recorder.wait_for("on_client_close")
            assert recorder.count("on_client_close") == 0
            release.set()
            for number in range(100):
                assert (await ann.receive()).startswith(f"{number} ")  # type: ignore[arg-type]  # it is text
            tasks.cancel_scope.cancel()


async def test_a_client_that_answers_no_ping_is_aborted_with_1006() -> None:
    recorder = RecordingListener()
    gateway = Gateway(listener=recorder, ping_interval=0.1, pong_timeout=0.2)
    async with OwnServer()(gateway) as url, stalled(url), Client(url) as healthy:
        await recorder.wait_for("on_client_close")
        assert recorder.events[-1] == ("on_client_close", 1006)
        await healthy.send("still here")
        assert await healthy.receive() == "still here"


async def test_messages_out_is_right_in_hooks_too(serve: Serve) -> None:
    counts: list[int] = []

    class Listener(RecordingListener):
        async def on_client_open(self, event: Event) -> None:
            assert event.conn
            counts.append(event.conn.messages_out)
            await event.conn.send("welcome")
            counts.append(event.conn.messages_out + event.conn.queued_messages)

        async def on_message(self, event: Event) -> None:
            if event.conn is None:
                return
            before = event.conn.messages_out + event.conn.queued_messages
            await event.gateway.send("all")
            await event.gateway.send("named", connections=[event.conn])
            await event.conn.send("one")
            counts.append(event.conn.messages_out + event.conn.queued_messages - before)
            event.connections = []

        async def on_client_close(self, event: CloseEvent) -> None:
            assert event.conn
            counts.append(event.conn.messages_out)
            await super().on_client_close(event)

    listener = Listener()
    gateway = Gateway(listener=listener)
    async with serve(gateway) as url:
        for _ in range(3):
            await gateway.send("before anybody")  # which a later connection must not count
        async with Client(url) as ann:
            for _ in range(2):
                await ann.send("x")
            assert [await ann.receive() for _ in range(7)] == ["welcome", *["all", "named", "one"] * 2]
            (conn,) = gateway.connections
            assert conn.messages_out == 7
        await listener.wait_for("on_client_close")
    assert counts == [0, 1, 3, 3, 7]


def test_a_listener_finds_nothing_on_a_connection_that_it_must_not_touch() -> None:
    methods = {"send", "send_from_thread", "close", "subscribe", "unsubscribe", "refresh"}
    methods |= {"request", "request_from_thread"}
    request = {"path", "address", "query_string", "headers", "query", "cookies", "subprotocols", "transport"}
    facts = {
        "id",
        "user",
        "user_id",
        "state",
        "opened_at",
        "age",
        "is_open",
        "protocol",
        "client",
        "channels",
        "expires_at",
    }
    counts = {"messages_in", "messages_out", "queued_messages", "queued_bytes", "dropped"}
    public = {name for name in dir(Connection) if not name.startswith("_")}
    assert public == methods | request | facts | counts


async def test_counts_are_read_only() -> None:
    conn, _ = unconnected(Gateway())
    for name in ("messages_in", "messages_out", "queued_messages", "queued_bytes", "dropped"):
        with pytest.raises(AttributeError):
            setattr(conn, name, 1)
