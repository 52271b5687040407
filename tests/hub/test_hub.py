"""Fan-out: order, once each, whole; on the gateway's own server and on plain uvicorn."""

import asyncio
import os
import zlib
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

from tests.connections import connected, hub_of, text
from tests.raw import Raw, handshake
from tests.servers import OwnServer, OwnServerTls, PlainUvicorn, Serve
from wsgateway import Connection, Event, Gateway, OpenEvent, Sent
from wsgateway.hub.fan_out import SLICE
from wsgateway.messages import Deliveries, Kind, Message
from wsgateway.testing import Client, RecordingListener
from wsgateway.transports.framing import PLAIN


@pytest.fixture(params=[OwnServer(), OwnServerTls(), PlainUvicorn()], ids=lambda serve: serve.name)
def serve(request: pytest.FixtureRequest) -> Serve:
    found: Serve = request.param
    return found


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
async def test_frames_of_every_length_arrive_whole(serve: Serve, size: int) -> None:
    gateway = Gateway()
    async with serve(gateway) as url, Client(url) as ann:
        await ann.send("ready")
        await ann.receive()
        await gateway.send("é" * (size // 2) + "x" * (size % 2))
        await gateway.send(b"\xff" * size)
        assert len((await ann.receive()).encode()) == size  # type: ignore[union-attr]  # it is text
        assert await ann.receive() == b"\xff" * size


async def test_many_messages_of_one_turn_arrive_in_order_with_targeted_ones_between(serve: Serve) -> None:
    class Listener(RecordingListener):
        async def on_message(self, event: Event) -> None: ...

    listener = Listener()
    gateway = Gateway(listener=listener)
    async with serve(gateway) as url, Client(url) as ann, Client(url) as bob:
        await listener.wait_for("on_client_open", 2)
        first = next(iter(gateway.connections))
        expected: list[str] = []
        for number in range(300):
            message = f"{number} " + "x" * (number * 7)
            if number % 3:
                assert await gateway.send(message) == Sent(2, 2, 0)
                expected.append(message)
            elif number % 2:
                assert await gateway.send(message, connections=[first]) == Sent(1, 1, 0)
            else:
                assert await first.send(message)
        assert [await bob.receive() for _ in expected] == expected
        received = [await ann.receive() for _ in range(300)]
        assert [int(str(message).split()[0]) for message in received] == list(range(300))


async def test_a_message_is_not_sent_to_a_later_connection_nor_lost_for_one_that_leaves(serve: Serve) -> None:
    class Listener(RecordingListener):
        async def on_message(self, event: Event) -> None:
            if event.conn is None:
                return
            await event.gateway.send("before the close")
            await event.conn.close(4000)
            assert await event.gateway.send("after the close") == Sent(1, 1, 0)
            event.connections = []

    gateway = Gateway(listener=Listener)
    async with serve(gateway) as url, Client(url) as ann, Client(url) as bob:
        await ann.send("x")
        assert await ann.receive() == "before the close"
        assert (await ann.closed())[0] == 4000
        assert [await bob.receive(), await bob.receive()] == ["before the close", "after the close"]


async def test_what_on_handshake_sends_waits_for_the_accept(serve: Serve) -> None:
    class Listener:
        async def on_handshake(self, event: Event) -> None:
            assert event.conn
            assert await event.conn.send("first")
            await asyncio.sleep(0)  # one iteration of the event loop, which writes what waits

    async with serve(Gateway(listener=Listener)) as url, Client(url) as ann:
        await ann.send("second")
        assert [await ann.receive(), await ann.receive()] == ["first", "second"]


async def test_three_senders_two_hundred_recipients_twenty_of_them_slow(serve: Serve) -> None:
    """Broadcasts and targeted messages interleaved: each sender's messages in order, none twice, none missing."""
    everybody: list[Connection] = []

    class Listener(RecordingListener):
        async def on_client_open(self, event: OpenEvent) -> None:
            assert event.conn
            everybody.append(event.conn)
            await super().on_client_open(event)

        async def on_message(self, event: Event) -> None:
            if int(event.message.split()[1]) % 4 == 3:
                event.connections = everybody[::2]

    listener = Listener()
    gateway = Gateway(listener=listener, outbox_bytes=100_000_000, outbox_messages=10_000, send_timeout=60)
    received: dict[int, list[str]] = defaultdict(list)
    go = anyio.Event()
    padding = "x" * 4000

    async def recipient(client: Client, number: int, expected: int) -> None:
        if number < 20:
            await go.wait()  # so slow that its outbox fills
        while len(received[number]) < expected:
            received[number].append(str(await client.receive()))

    async with serve(gateway) as url, anyio.create_task_group() as tasks:
        clients = []
        for number in range(200):
            client = await Client(url, compression=None, max_queue=1 if number < 20 else 16).__aenter__()
            clients.append(client)
            await listener.wait_for("on_client_open", number + 1)
        for number, client in enumerate(clients):
            tasks.start_soon(recipient, client, number, 450 if number % 2 == 0 else 339)
        for count in range(150):
            for sender in range(3):
                await clients[20 + sender].send(f"{sender} {count} {padding}")
        while gateway.metrics.messages_in < 450:
            await anyio.sleep(0.01)  # nothing reports a new count
        go.set()
        with anyio.fail_after(60):
            while sum(map(len, received.values())) < 100 * 450 + 100 * 339:
                await anyio.sleep(0.05)  # nothing reports a new count
        for client in clients:
            await client.__aexit__(None, None, None)
    for number in range(200):
        for sender in range(3):
            counts = [int(text.split()[1]) for text in received[number] if text.startswith(f"{sender} ")]
            assert counts == [count for count in range(150) if number % 2 == 0 or count % 4 != 3]
    assert gateway.metrics.dropped == {}


@pytest.mark.parametrize("compression", [False, True])
async def test_clients_that_stop_reading_one_after_the_other_get_each_broadcast_once(
    serve: Serve, compression: bool
) -> None:
    """Their sockets fill up within the write of a broadcast, while others are congested already."""
    if serve.name == "wsgateway-tls" or (compression and serve.name == "uvicorn"):
        pytest.skip("the clients are plain sockets, which inflate without context takeover only")
    offer = "Sec-WebSocket-Extensions: permessage-deflate" if compression else ""
    patience: dict[str, Any] = {"send_timeout": 120, "ping_interval": 120}
    gateway = Gateway(compression=compression, outbox_bytes=10**9, outbox_messages=10**6, **patience)
    padding = os.urandom(35_000).hex()  # deflated, it is half as long, and still more than one flush takes
    async with serve(gateway) as url, AsyncExitStack() as stack:
        clients = []
        for buffer in (4096, 400_000, 2_000_000):
            ann, _ = await handshake(url, offer, buffer=buffer)
            clients.append(await stack.enter_async_context(ann))
        with anyio.fail_after(10):
            while len(gateway.connections) < len(clients):
                await anyio.sleep(0.01)  # this listener does not report new connections
        for number in range(200):
            sent = await gateway.send(f"{number:06d}{padding}")
            assert sent == Sent(3, 3, 0)
            await asyncio.sleep(0)  # one iteration of the event loop, so that each message is written alone
        for client in clients:
            assert [await received_number(client) for _ in range(200)] == list(range(200))
        await gateway.send("last")
        for client in clients:
            assert await client.receive_exactly(6) == b"\x81\x04last"


async def received_number(client: Raw) -> int:
    first, second = await client.receive_exactly(2)
    size = second
    if second >= 126:
        size = int.from_bytes(await client.receive_exactly(2 if second == 126 else 8))
    payload = await client.receive_exactly(size)
    if first & 0x40:
        payload = zlib.decompressobj(wbits=-zlib.MAX_WBITS).decompress(payload + b"\x00\x00\xff\xff")
    return int(payload[:6])


async def test_the_loop_serves_others_while_it_fans_out_to_very_many() -> None:
    gateway = Gateway()
    hub = hub_of(gateway)
    made = connected(gateway, hub, 5 * SLICE)
    first, second, third = map(text, ("first", "second", "third"))
    assert hub.deliver(first, hub.everybody) == Deliveries(len(made), len(made), 0)
    turns = 0
    while not all(written for _, written in made):
        await asyncio.sleep(0)  # one iteration of the event loop
        turns += 1
        if turns == 2:
            waiting = next((conn, written) for conn, written in made if not written)
            assert waiting[0]._outbox.put(second)  # overtakes nobody's first
            assert b"".join(waiting[1]) == first.encoded(PLAIN) + second.encoded(PLAIN)
            assert hub.deliver(third, hub.everybody) == Deliveries(len(made), len(made), 0)
            gone = next((conn, written) for conn, written in made if not written)
            gone[0]._outbox.close(1000, "")
            assert b"".join(gone[1]) == first.encoded(PLAIN) + third.encoded(PLAIN)
    assert turns >= 4
    while not all(b"third" in b"".join(written) for _, written in made):
        await asyncio.sleep(0)  # one iteration of the event loop
    for conn, written in made:
        expected = first.encoded(PLAIN) + (second.encoded(PLAIN) if conn is waiting[0] else b"") + third.encoded(PLAIN)
        assert b"".join(written) == expected
    assert gateway.metrics.messages_out == 2 * len(made) + 1


async def test_a_large_fan_out_that_never_ends_does_not_grow_without_bound() -> None:
    gateway = Gateway()
    hub = hub_of(gateway)
    made = connected(gateway, hub, SLICE + 1)
    frame = Message(b"x" * 60_000, Kind.BYTES)
    for _ in range(100):  # in one turn of the loop
        hub.deliver(frame, hub.everybody)
    assert len(b"".join(made[0][1])) + len(b"".join(made[-1][1])) > 60 * len(frame.encoded(PLAIN))
    while len(b"".join(made[0][1])) < 100 * len(frame.encoded(PLAIN)) or len(b"".join(made[-1][1])) < 100 * len(
        frame.encoded(PLAIN)
    ):
        await asyncio.sleep(0)  # one iteration of the event loop
