"""Clients whose frames are too large, too many, or not what they say."""

import os
import zlib

import anyio
import pytest

from tests.hostile.attack import Target, under_attack
from tests.hostile.peers import Peer, frame

LIMIT = 65536
"""The servers' `max_message_size`."""

TEXT, BINARY, MORE, PING = 0x81, 0x82, 0x00, 0x89
FIRST, LAST = 0x01, 0x80
"""Of several fragments."""


@pytest.mark.parametrize("size", [2**62, 2**63, 2**64 - 1])
async def test_a_length_that_cannot_be_is_refused_without_taking_memory(target: Target, size: int) -> None:
    async with under_attack(target) as attack:
        client = await attack.client()
        await client.send(b"\x82\xff" + size.to_bytes(8) + bytes(4))
        assert await client.code() in (1002, 1009)
        assert attack.grown() < 2


def fragmented(payload: bytes, size: int) -> bytes:
    """`payload` as a message in fragments of `size` bytes."""
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)]
    opcodes = [0x02, *[MORE] * (len(pieces) - 2), LAST]
    return b"".join(frame(opcode, piece) for opcode, piece in zip(opcodes, pieces, strict=True))


async def test_a_message_at_the_limit_passes_however_it_comes(patient: Target) -> None:
    payload = os.urandom(LIMIT)
    async with under_attack(patient) as attack:
        client = await attack.client()
        for data in (frame(BINARY, payload), fragmented(payload, 100), fragmented(payload, 40_000)):
            await client.send(data)
            assert await client.message() == payload
        data = frame(BINARY, payload)
        for at in range(len(data)):
            await client.send(data[at : at + 1])
            if at % 100 == 0:
                await anyio.sleep(0)  # the bystander runs here too
        assert await client.message() == payload


async def test_one_byte_more_than_the_limit_is_1009(target: Target) -> None:
    payload = bytes(LIMIT + 1)
    async with under_attack(target) as attack:
        for data in (frame(BINARY, payload), fragmented(payload, 100), fragmented(payload, 40_000)):
            client = await attack.client(path="/ws/large")
            await client.send(data)
            assert await client.code() == 1009
        await attack.closes("/ws/large", 1009, 3)


async def send_all_or_be_cut(client: Peer, data: bytes) -> None:
    """Send `data`; the server may end the connection before it has all of it."""
    try:
        await client.send(data)
    except ConnectionError:
        pass


async def test_a_million_empty_fragments_are_1008(own: Target) -> None:
    """Plain uvicorn keeps what it knows of each (B9)."""
    async with under_attack(own, held=True) as attack:
        client = await attack.client(path="/ws/empty")
        await send_all_or_be_cut(client, frame(FIRST) + frame(MORE) * 1_000_000)
        await attack.closes("/ws/empty", 1008, 1)
        assert attack.grown() < 2


async def test_fragments_of_two_bytes_cost_at_most_four_times_their_message(own: Target) -> None:
    """Plain uvicorn keeps 29 bytes for each (B9)."""
    count = 30
    async with under_attack(own, held=True) as attack:
        for _ in range(count):
            client = await attack.client(path="/ws/two")
            await send_all_or_be_cut(client, frame(FIRST, b"ab") + frame(MORE, b"ab") * (LIMIT // 2 - 1))
        await attack.closes("/ws/two", 1008, count)
        assert attack.grown() < count * 4 * LIMIT / 2**20


async def test_forty_megabytes_of_pings_whose_pongs_nobody_reads_are_not_kept(own: Target) -> None:
    """Plain uvicorn keeps the pongs (B8)."""
    async with under_attack(own) as attack:
        client = await attack.client(path="/ws/pings", receive_buffer=4096)
        pings = frame(PING, bytes(125)) * 1000
        with anyio.move_on_after(3):  # until then it is not read from, or ended
            try:
                for _ in range(40_000_000 // len(pings)):
                    await client.send(pings)
            except ConnectionError:
                pass
        assert attack.grown() < 2


OFFER = "Sec-WebSocket-Extensions: permessage-deflate"
TAIL = b"\x00\x00\xff\xff"  # RFC 7692 7.2.1


def deflated(data: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return (squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


@pytest.mark.parametrize(
    ("what", "first", "payload", "code"),
    [
        ("bomb", 0xC2, deflated(bytes(50_000_000)), 1009),
        ("one byte more than the limit", 0xC2, deflated(bytes(LIMIT + 1)), 1009),
        ("bomb in a bomb", 0xC2, deflated(deflated(bytes(50_000_000)) * 1000), 1009),
        ("corrupt", 0xC2, b"\xff" * 50, 1002),
        ("no UTF-8", 0xC1, deflated(b"\xff\xfe" * 100), 1007),
    ],
)
async def test_compressed_messages_that_are_bad_take_at_most_twice_the_limit(
    own: Target, what: str, first: int, payload: bytes, code: int
) -> None:
    """Plain uvicorn inflates to its own `ws_max_size`, of 16 MiB, before the gateway sees the message."""
    count = 20
    async with under_attack(own, held=True) as attack:
        clients = [await attack.client(OFFER, path="/ws/bomb") for _ in range(count)]
        before = (await own.report())["codes"].get(f"/ws/bomb {code}", 0)
        for client in clients:
            await client.send(frame(first, payload))
        for client in clients:
            assert await client.code() == code, what
        assert (await own.report())["codes"][f"/ws/bomb {code}"] == before + count
        assert attack.grown() < 2 + count * 2 * LIMIT / 2**20  # 2 for what is loaded once


async def test_a_hundred_messages_of_invalid_utf8_are_1007_without_a_traceback(own: Target) -> None:
    """uvicorn logs one for each (B13)."""
    async with under_attack(own) as attack:
        lines = own.log.count("\n")
        for _ in range(100):
            client = await attack.client(path="/ws/utf8")
            await client.send(frame(TEXT, b"\xff\xfe"))
            assert await client.code() == 1007
        await attack.closes("/ws/utf8", 1007, 100)
        assert own.log.count("\n") <= lines + 2


async def test_binary_reaches_the_hook_as_bytes(target: Target) -> None:
    async with under_attack(target) as attack:
        client = await attack.client()
        await client.send(frame(BINARY, b"\xff\x00!raise"))
        assert await client.data() == (BINARY, b"\xff\x00!raise")


async def test_a_hook_that_is_slow_bounds_what_waits_for_it(target: Target) -> None:
    async with under_attack(target, tracebacks=True) as attack:
        client = await attack.client()
        await client.send(frame(TEXT, b"!later 0.9"))
        large = frame(BINARY, bytes(60_000))
        with anyio.move_on_after(0.8) as waiting:
            for _ in range(700):  # 42 MB
                await client.send(large)
        assert waiting.cancelled_caught, "it has read all of it"
        assert attack.grown() < 2
