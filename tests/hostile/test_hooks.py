"""Listeners that fail, hang, block and stop what they run in."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from tests.hostile.attack import Target, own_server, plain_server, under_attack
from tests.hostile.listener import ERRORS
from tests.hostile.peers import Peer, frame
from tests.raw import post, upgrade

TEXT, PING = 0x81, 0x89


@pytest.mark.parametrize("error", ERRORS)
async def test_a_hook_that_raises_is_logged_once_and_costs_only_its_event(target: Target, error: str) -> None:
    async with under_attack(target, tracebacks=True) as attack:
        client = await attack.client()
        logged = len(target.log)
        await client.send(frame(TEXT, f"!raise {error}".encode()) + frame(TEXT, b"and now"))
        assert await client.message() == b"and now"
        assert target.log[logged:].count("on_message failed") == 1


async def test_a_hook_that_waits_for_ever_is_given_up_and_pings_are_answered_meanwhile(target: Target) -> None:
    async with under_attack(target, tracebacks=True) as attack:
        client = await attack.client()
        logged = len(target.log)
        await client.send(frame(TEXT, b"!forever") + frame(TEXT, b"and now") + frame(PING, b"there?"))
        while (heard := await client.frame()) != (0x8A, b"there?"):
            assert heard[1] != b"and now", "the hook had ended before"
        assert await client.message() == b"and now"
        log = target.log[logged:]
        assert log.count("on_message failed") == 1
        assert "hook_timeout" in log


async def test_a_hook_that_blocks_the_loop_costs_nobody_his_connection(own: Target) -> None:
    """Longer than ping and pong together take here. On plain uvicorn the keepalive is uvicorn's."""
    async with under_attack(own, latency=6) as attack:
        clients = [await attack.client() for _ in range(20)]
        answered: list[bytes] = []
        async with anyio.create_task_group() as tasks:
            for client in clients:
                tasks.start_soon(stay, client, answered)
            await clients[0].send(frame(TEXT, b"!block 4.5"))
            with anyio.fail_after(20):
                while len(answered) < len(clients):
                    await anyio.sleep(0.05)  # the clients of this test report nothing
            tasks.cancel_scope.cancel()


async def stay(client: Peer, answered: list[bytes]) -> None:
    """Answer pings for longer than the loop is blocked, then ask whether the connection still works."""
    with anyio.move_on_after(8):
        await client.message()  # answers pings; nobody sends a message
    await client.send(frame(TEXT, b"still here"))
    while (message := await client.message()) != b"still here":
        assert message == b"!block 4.5"
    answered.append(message)


async def test_what_a_hook_returns_does_not_matter(target: Target) -> None:
    async with under_attack(target) as attack:
        client = await attack.client()
        await client.send(frame(TEXT, b"!return"))
        assert await client.message() == b"!return"


async def test_a_hook_that_restarts_its_own_gateway_tells_everybody_to_come_back(target: Target) -> None:
    """The bystander of the other tests would have to go too, so that there is none here."""
    clients = [await connected(target) for _ in range(3)]
    try:
        await clients[0].send(frame(TEXT, b"!restart"))
        for client in clients:
            assert await client.code() == 1012
            await client.send(frame(0x88, b"\x03\xf4"))
            await client.ended()
        with anyio.fail_after(10):
            while (await target.call(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")).status != 200:
                await anyio.sleep(0.01)  # between two questions to another process
        async with under_attack(target):
            pass
    finally:
        for client in clients:
            client.close()


async def connected(target: Target) -> Peer:
    client = await Peer.connect(target.port)
    await client.send(upgrade())
    assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    return client


@pytest.mark.parametrize("serve", [own_server, plain_server], ids=["own", "plain"])
async def test_a_hook_that_stops_its_own_gateway_does_not_wait_for_itself(
    serve: Callable[[Path], AbstractContextManager[Target]], tmp_path: Path
) -> None:
    with serve(tmp_path) as target:
        client = await connected(target)
        try:
            await client.send(frame(TEXT, b"!stop"))
            assert await client.code() == 1012
            await client.send(frame(0x88, b"\x03\xf4"))
            await client.ended()
        finally:
            client.close()
        with anyio.fail_after(10):
            while (await target.call(post({"message": 1}))).status != 409:
                await anyio.sleep(0.01)  # between two questions to another process
        assert await anyio.to_thread.run_sync(target.served.terminate) in (0, -15)
        assert "Traceback" not in target.log
