"""A WebSocket on the gateway's own server: compression, fragments, held messages, and what is left to the parser."""

import os
import zlib

import anyio
import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from tests.raw import handshake, masked
from tests.servers import OwnServer
from wsgateway import Event, Gateway
from wsgateway.testing import Client, RecordingListener

serve = OwnServer()
LONG = "the same words again and again, " * 40
OFFER = "Sec-WebSocket-Extensions: permessage-deflate"


async def test_a_broadcast_is_compressed_for_the_connections_that_negotiated_it() -> None:
    async with serve(Gateway(compression=True)) as url:
        ann, head = await handshake(url, OFFER)
        async with ann, Client(url, compression=None) as bob:
            assert b"server_no_context_takeover" in head
            for number in range(3):  # no context is taken over: each can be read alone
                await bob.send(f"{number}{LONG}")
                assert await bob.receive() == f"{number}{LONG}"
                first, second = await ann.receive_exactly(2)
                assert first == 0xC1
                assert second < 126
                data = await ann.receive_exactly(second)
                assert inflate(data) == f"{number}{LONG}".encode()


def inflate(data: bytes) -> bytes:
    return zlib.decompressobj(wbits=-zlib.MAX_WBITS).decompress(data + b"\x00\x00\xff\xff")


async def test_a_short_message_and_a_random_one_stay_as_they_are() -> None:
    async with serve(Gateway(compression=True)) as url:
        ann, _ = await handshake(url, OFFER)
        async with ann:
            await ann.send(masked(0x81, b"hello"))
            assert await ann.receive_exactly(7) == b"\x81\x05hello"
            noise = os.urandom(1000)
            await ann.send(masked(0x82, noise))
            assert await ann.receive_exactly(1004) == b"\x82\x7e\x03\xe8" + noise


@pytest.mark.parametrize("offer", ["", "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9"])
async def test_who_cannot_read_the_one_compressed_form_gets_plain_messages(offer: str) -> None:
    async with serve(Gateway(compression=True)) as url:
        ann, head = await handshake(url, offer)
        async with ann:
            assert b"permessage-deflate" not in head
            await ann.send(masked(0x81, LONG.encode()))
            assert (await ann.receive_exactly(2))[0] == 0x81


async def test_compression_is_off_by_default() -> None:
    async with serve(Gateway()) as url:
        ann, head = await handshake(url, OFFER)
        async with ann:
            assert b"permessage-deflate" not in head


async def test_compressed_messages_and_fragments_come_in() -> None:
    async with serve(Gateway(compression=True)) as url:
        options = ClientPerMessageDeflateFactory(compress_settings={"level": 9})
        async with Client(url, compression=None, extensions=[options]) as ann:
            for message in (LONG, "short", LONG.encode()):
                await ann.send(message)
                assert await ann.receive() == message
            await ann.socket.send([LONG[:100], LONG[100:300], LONG[300:]])
            assert await ann.receive() == LONG


async def test_a_bomb_is_cut_at_the_message_limit_while_it_inflates() -> None:
    listener = RecordingListener()
    async with serve(Gateway(listener, compression=True, max_message_size=100_000)) as url:
        squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        bomb = squeeze.compress(bytes(50_000_000)) + squeeze.flush(zlib.Z_SYNC_FLUSH)
        assert len(bomb) < 60_000
        ann, _ = await handshake(url, OFFER)
        async with ann, Client(url) as bob:
            await ann.send(masked(0xC2, bomb.removesuffix(b"\x00\x00\xff\xff")))
            await listener.wait_for("on_client_close")
            assert listener.events[-1] == ("on_client_close", 1009)
            await bob.send("still here")
            assert await bob.receive() == "still here"


async def test_a_corrupt_compressed_message_breaks_the_protocol() -> None:
    listener = RecordingListener()
    async with serve(Gateway(listener, compression=True)) as url:
        ann, _ = await handshake(url, OFFER)
        async with ann:
            await ann.send(masked(0xC2, b"\xff" * 50))
            await listener.wait_for("on_client_close")
            assert listener.events[-1] == ("on_client_close", 1002)


async def test_more_than_1024_fragments_of_one_message_are_refused() -> None:
    listener = RecordingListener()
    async with serve(Gateway(listener)) as url:
        ann, _ = await handshake(url)
        async with ann:
            await ann.send(masked(0x01, b"") + masked(0x00, b"") * 1023 + masked(0x80, b"whole"))
            with anyio.fail_after(5):
                await ann.receive_some()
            assert listener.events[-1] == ("on_client_close", 1008)
        ann, _ = await handshake(url)
        async with ann:
            await ann.send(masked(0x01, b"") + masked(0x00, b"") * 1022 + masked(0x80, b"whole"))
            assert await ann.receive_exactly(7) == b"\x81\x05whole"


@pytest.mark.parametrize("close", [masked(0x88, b"\x03\xe8"), b""])
async def test_what_was_sent_before_the_close_reaches_the_hook_though_the_inbox_is_full(close: bytes) -> None:
    class Slow(RecordingListener):
        async def on_message(self, event: Event) -> None:
            await anyio.sleep(0.001)  # the inbox stays full
            self.record("on_message", event.message)
            event.connections = []

    listener = Slow()
    async with serve(Gateway(listener)) as url:
        ann, _ = await handshake(url)
        async with ann:
            # a fragmented one in the middle, so that the parser's messages are held too
            early = b"".join(masked(0x81, str(number).encode()) for number in range(100))
            middle = masked(0x01, b"10") + masked(0x80, b"0")
            late = b"".join(masked(0x81, str(number).encode()) for number in range(101, 200))
            await ann.send(early + middle + late + close)
        await listener.wait_for("on_client_close")
    assert [message for hook, message in listener.events if hook == "on_message"] == [str(n) for n in range(200)]
    assert listener.events[-1][1] == (1000 if close else 1006)


async def test_a_ping_is_answered_and_the_pong_of_a_stranger_ignored() -> None:
    async with serve(Gateway()) as url:
        ann, _ = await handshake(url)
        async with ann:
            await ann.send(masked(0x8A, b"nobody asked") + masked(0x89, b"are you there"))
            assert await ann.receive_exactly(15) == b"\x8a\x0dare you there"


async def test_a_ping_between_fragments_is_answered_before_the_message() -> None:
    async with serve(Gateway()) as url:
        ann, _ = await handshake(url)
        async with ann:
            await ann.send(masked(0x01, b"one ") + masked(0x89, b"?") + masked(0x80, b"message"))
            assert await ann.receive_exactly(3) == b"\x8a\x01?"
            assert await ann.receive_exactly(13) == b"\x81\x0bone message"


async def test_keepalive_goes_on_for_a_client_that_answers_and_ends_one_that_does_not() -> None:
    listener = RecordingListener()
    async with serve(Gateway(listener, ping_interval=0.05, pong_timeout=0.1)) as url:
        ann, _ = await handshake(url)
        async with ann:
            for _ in range(5):
                ping = await ann.receive_exactly(6)
                assert ping[:2] == b"\x89\x04"
                await ann.send(masked(0x8A, ping[2:]))
            assert listener.count("on_client_close") == 0
            await listener.wait_for("on_client_close")
            assert listener.events[-1] == ("on_client_close", 1006)


async def test_a_ping_past_the_close_frame_is_not_answered() -> None:
    class Listener:
        async def on_client_open(self, event: Event) -> None:
            assert event.conn
            await event.conn.close(4000, "bye")

    async with serve(Gateway(Listener)) as url:
        ann, _ = await handshake(url)
        async with ann:
            assert await ann.receive_exactly(7) == b"\x88\x05\x0f\xa0bye"
            await ann.send(masked(0x89, b"?"))
            with anyio.move_on_after(0.2) as waiting:
                await ann.receive_some()
            assert waiting.cancelled_caught
