"""Clients that come in crowds, and those that send like one."""

from time import monotonic

import anyio

from tests.hostile.attack import Attack, Target, under_attack
from tests.hostile.peers import CLOSE, Answer, Peer, answer, frame
from tests.raw import post, upgrade

CONNECTS = 2000
AT_ONCE = 50


async def test_two_thousand_connects_and_closes_leave_nothing(target: Target) -> None:
    """Half of them are refused by `on_handshake`."""
    async with under_attack(target) as attack:
        for _ in range(CONNECTS // AT_ONCE):
            async with anyio.create_task_group() as tasks:
                for number in range(AT_ONCE):
                    tasks.start_soon(come_and_go, attack, "/ws/refused" if number % 2 else "/ws/goes")
        await attack.closes("/ws/goes", 1000, CONNECTS // 2)


async def come_and_go(attack: Attack, path: str) -> None:
    peer = await Peer.connect(attack.target.port)
    try:
        await peer.send(upgrade(path=path))
        if path == "/ws/refused":
            assert (await answer(peer)).status == 401
        else:
            assert (await peer.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            await peer.send(CLOSE)
            await peer.ended()
    finally:
        peer.close()


CAP = 300
"""The servers' `max_connections_per_address`."""

CROWD = "127.0.0.2"
"""An address of its own, so that the bystander is not in the crowd."""


async def test_past_its_cap_an_address_is_429_and_others_and_http_are_served(patient: Target) -> None:
    async with under_attack(patient) as attack:
        for _ in range(CAP):
            await attack.client(path="/ws/crowd", source=CROWD)
        started = monotonic()
        for _ in range(700):
            peer = await Peer.connect(patient.port, source=CROWD)
            await peer.send(upgrade(path="/ws/crowd"))
            refused: Answer = await answer(peer)
            peer.close()
            assert refused.status == 429
            assert b"\r\nretry-after: " in refused.head.lower()
        assert await attack.ask(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") == 200
        assert await attack.ask(post({"message": "hi"})) == 200
        lines = patient.log.count("max_connections_per_address)")
        assert lines <= 2 + monotonic() - started  # one line a second


async def test_a_client_that_sends_ten_thousand_messages_a_second_is_3013(target: Target) -> None:
    async with under_attack(target) as attack:
        client = await attack.client(path="/ws/floods")
        second = frame(0x81, b"hello") * 10_000
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.code)  # it reads what it is answered: else it would be too slow
            try:
                await client.send(second)
            except ConnectionError:
                pass
        await attack.closes("/ws/floods", 3013, 1)
