"""Clients that stop, or vanish, without a word."""

import signal
import subprocess
import sys

import anyio
import anyio.to_thread
import pytest

from tests.hostile.attack import Attack, Target, under_attack
from tests.hostile.peers import Peer, frame
from tests.raw import post, upgrade

HEALTHY = 50
MESSAGES = 150
SIZE = 20_000


async def test_who_does_not_read_is_closed_3008_and_the_others_receive_everything(patient: Target) -> None:
    """One reads nothing, five a kilobyte a second, beside 50 who do. On plain uvicorn a socket that is stuck is its
    own business (B1): there it has to be gone only once the client is."""
    async with under_attack(patient, held=not patient.is_plain) as attack:
        stuck = await attack.client(path="/ws/stuck", receive_buffer=4096)
        healthy = [await attack.client(path="/ws/reads") for _ in range(HEALTHY)]
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(trickle, await attack.client(path="/ws/trickles", receive_buffer=4096))
            for client in healthy:
                tasks.start_soon(receive_all, client)
            await flood(attack)
            await attack.closes("/ws/stuck", 3008, 1)
            await attack.closes("/ws/trickles", 3008, 5)
            while any(client.sock.fileno() >= 0 for client in healthy):
                await anyio.sleep(0.05)  # plain sockets report nothing
            tasks.cancel_scope.cancel()
        assert stuck.sock.fileno() >= 0


async def flood(attack: Attack) -> None:
    """Push `MESSAGES` to everybody, about a hundred a second."""
    caller = await attack.peer()
    for number in range(MESSAGES):
        await caller.send(post({"message": f"{number:05}{'x' * SIZE}"}))
        head = await caller.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        await caller.until(b"}")
        await anyio.sleep(0.01)  # the pace of the attack
    caller.close()


async def receive_all(client: Peer) -> None:
    """Receive the whole flood in order, then leave."""
    for number in range(MESSAGES):
        assert (await client.message())[:5] == b"%05d" % number
    client.close()


async def trickle(client: Peer) -> None:
    try:
        while await client.some(1024):
            await anyio.sleep(1)  # the pace of the attack
    except ConnectionError:
        pass
    await anyio.sleep_forever()


STOPPED = """
import socket, sys, time
socks = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(20)]
for sock in socks:
    sock.sendall(sys.argv[2].encode())
    assert sock.recv(1000).startswith(b"HTTP/1.1 101 ")
print("ready", flush=True)
time.sleep(60)  # never reads until the test ends this process
"""


async def test_a_process_that_is_stopped_is_gone_within_ping_and_pong(own: Target) -> None:
    """uvicorn has such a keepalive too, which is slower to tell (B1)."""
    async with under_attack(own) as attack:
        arguments = [sys.executable, "-c", STOPPED, str(own.port), upgrade(path="/ws/stopped").decode()]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout
                assert await anyio.to_thread.run_sync(process.stdout.readline) == b"ready\n"
                process.send_signal(signal.SIGSTOP)
                await attack.closes("/ws/stopped", 1006, 20)
                await attack.back()  # its sockets too, which it still holds
            finally:
                process.kill()


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_clients_that_end_without_a_close_are_1006_once(target: Target, how: str) -> None:
    async with under_attack(target) as attack:
        path = f"/ws/{how}"
        for _ in range(50):
            end(await attack.client(path=path), how)
        await attack.closes(path, 1006, 50)


def end(peer: Peer, how: str) -> None:
    if how == "FIN":
        peer.close()
    else:
        peer.reset()


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_clients_that_vanish_while_they_are_accepted_leave_nothing(target: Target, how: str) -> None:
    async with under_attack(target) as attack:
        before = (await target.report())["handshakes"]
        for _ in range(50):
            peer = await attack.peer()
            await peer.send(upgrade(path="/ws/waits"))
            with anyio.fail_after(10):
                while (await target.report())["handshakes"] == before:
                    await anyio.sleep(0.01)  # between two questions to another process
            before += 1
            end(peer, how)


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_clients_that_vanish_before_their_answer_is_sent_are_1006(target: Target, how: str) -> None:
    async with under_attack(target) as attack:
        path = f"/ws/answered/{how}"
        clients = [await attack.client(path=path) for _ in range(50)]
        for client in clients:
            await client.send(frame(0x81, b"!later 0.2"))
        for client in clients:
            end(client, how)
        await attack.closes(path, 1006, 50)
