"""Clients that do not shake hands as they should."""

import anyio
import pytest

from tests.hostile.attack import Attack, Target, under_attack
from tests.hostile.peers import Peer, answer
from tests.raw import KEY, upgrade

HANDSHAKE = upgrade().decode()
KEY_LINE = f"Sec-WebSocket-Key: {KEY}\r\n"
MALFORMED = {
    "without a key": HANDSHAKE.replace(KEY_LINE, ""),
    "with a short key": HANDSHAKE.replace(KEY, "c2hvcnQ="),
    "with two keys": HANDSHAKE.replace(KEY_LINE, KEY_LINE * 2),
    "of version 8": HANDSHAKE.replace("Version: 13", "Version: 8"),
    "by POST": HANDSHAKE.replace("GET", "POST"),
    "without Connection": HANDSHAKE.replace("Connection: Upgrade\r\n", ""),
}


async def test_a_malformed_handshake_is_400(target: Target) -> None:
    async with under_attack(target) as attack:
        for what, request in MALFORMED.items():
            peer = await attack.peer()
            await peer.send(request.encode())
            status = (await answer(peer)).status
            assert status == 400 or (target.is_plain and 400 <= status < 500), what


async def test_a_client_of_a_wrong_version_gets_the_right_one(own: Target) -> None:
    """RFC 6455 4.2.2. websockets, and so plain uvicorn, leaves it out."""
    async with under_attack(own) as attack:
        peer = await attack.peer()
        await peer.send(MALFORMED["of version 8"].encode())
        assert b"\r\nsec-websocket-version: 13\r\n" in (await answer(peer)).head.lower()


async def test_slow_handshakes_are_ended_and_their_places_are_free(own: Target) -> None:
    """Plain uvicorn waits for ever for a request that does not come (B5)."""
    async with under_attack(own, held=True) as attack, anyio.create_task_group() as tasks:
        begun = [await begin(attack, b"") for _ in range(40)]
        begun += [await begin(attack, b"GET /ws HT") for _ in range(40)]
        for _ in range(40):
            peer = await attack.peer()
            begun.append(peer)
            tasks.start_soon(drip, peer)
        for peer in begun:
            assert (await answer(peer)).status == 408
            await peer.ended()


async def begin(attack: Attack, data: bytes) -> Peer:
    peer = await attack.peer()
    await peer.send(data)
    return peer


async def drip(peer: Peer) -> None:
    """Send a request one byte at a time."""
    try:
        for byte in upgrade():
            await peer.send(bytes([byte]))
            await anyio.sleep(0.2)  # the pace of the attack
    except ConnectionError:
        pass


async def test_an_on_handshake_that_sleeps_is_503_and_its_places_are_free(target: Target) -> None:
    async with under_attack(target, tracebacks=True) as attack:
        sleeping = [await begin(attack, upgrade(path="/ws/sleeps")) for _ in range(40)]
        assert {(await answer(peer)).status for peer in sleeping} == {503}


async def test_a_head_of_twenty_megabytes_is_not_kept(own: Target) -> None:
    """Plain uvicorn keeps it (B6). That the answer is 431 is tested in tests/server/test_http.py."""
    async with under_attack(own, held=True) as attack:
        peer = await attack.peer()
        with pytest.raises(ConnectionError):
            await peer.send(b"GET /ws HTTP/1.1\r\n")
            for _ in range(200):
                await peer.send(b"X-Y: " + b"z" * 100_000 + b"\r\n")
        assert attack.grown() < 2


GOOD = "https://good.com"  # as the servers are told
FOREIGN = [
    f"{GOOD}.evil.com",
    "https://evilgood.com",
    "http://good.com",
    f"{GOOD}:8443",
    "null",
    f"{GOOD}.",
    f"{GOOD}/path",
    f"{GOOD}@evil.com",
    "",
    "no URL at all",
    "http://localhost:1",  # loopback passes only where nothing is configured
    f"{GOOD}\r\nOrigin: {GOOD}",
]


async def test_a_foreign_origin_is_403_and_no_hook_runs(target: Target) -> None:
    async with under_attack(target) as attack:
        before = (await target.report())["handshakes"]
        for origin in FOREIGN:
            status = await attack.ask(upgrade(f"Origin: {origin}"))
            assert status == 403 or (target.is_plain and "\r" in origin and status == 400), origin  # uvicorn takes one
        assert (await target.report())["handshakes"] == before
        await attack.client(f"Origin: {GOOD}")
