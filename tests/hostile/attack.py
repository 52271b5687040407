"""The surroundings of every attack: a bystander that must not be affected, and a server that must be unchanged
afterwards."""

import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import anyio

from tests.hostile.peers import TICK, TIMEOUT, Answer, Peer, answer, frame
from tests.processes import Served, serving
from tests.raw import post, upgrade

PACE = 0.05
"""Seconds between two messages to the bystander."""

LATENCY = 3.0
"""Seconds that the 99th of 100 messages to the bystander may take. The promise is 0.25, on a machine that is not, as
those of CI are, busy with other things: what was measured is printed at the end of the tests."""

MEMORY = 20.0
"""MB by which a server may be larger after an attack."""

BACK = 12.0
"""Seconds within which everything is back; a client that does not answer a close frame may take 10 of them."""

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Target:
    """A server to attack. `is_plain`: under plain uvicorn, where sockets are the server's business."""

    served: Served
    folder: Path
    is_plain: bool

    @property
    def port(self) -> int:
        return int(self.served.url.rpartition(":")[2])

    @property
    def log(self) -> str:
        """What the server has said so far, which is on its standard error too."""
        return self.served.stderr

    def memory(self, what: str = "VmRSS") -> float:
        """MB of memory; `VmHWM`: at most since `forget_peak`."""
        status = self._proc("status").read_text()
        return int(status.partition(what + ":")[2].split()[0]) / 1024

    def forget_peak(self) -> None:
        self._proc("clear_refs").write_text("5")  # proc(5)

    @property
    def descriptors(self) -> int:
        return len(list(self._proc("fd").iterdir()))

    def _proc(self, name: str) -> Path:
        return Path(f"/proc/{self.served.process.pid}/{name}")

    async def call(self, request: bytes) -> Answer:
        """Send a whole request over a connection of its own; the answer."""
        peer = await Peer.connect(self.port)
        try:
            await peer.send(request)
            return await answer(peer)
        finally:
            peer.close()

    async def report(self) -> dict[str, Any]:
        """What the listener has counted."""
        assert (await self.call(post({"message": "", "report": True}))).status == 200
        found: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return found


@contextmanager
def own_server(folder: Path, *arguments: str) -> Iterator[Target]:
    """`wsgateway serve`."""
    listener = ("--listener", f"{HERE / 'listener.py'}:Listener", "--no-admin-enabled", "--local-access")
    with serving(*listener, *arguments, cwd=folder) as served:
        yield Target(served, folder, is_plain=False)


@contextmanager
def plain_server(folder: Path, **options: object) -> Iterator[Target]:
    """A mounted gateway under plain uvicorn."""
    command = [sys.executable, "-m", "tests.hostile.plain", json.dumps(options)]
    env = {"PYTHONPATH": str(HERE.parent.parent)}
    with serving(command=command, cwd=folder, env=env) as served:
        yield Target(served, folder, is_plain=True)


@dataclass(frozen=True)
class State:
    """What has to be back after an attack. `memory` is in MB."""

    memory: float
    descriptors: int
    tasks: int
    open: int
    unended: int
    unpaired: int


async def state_of(target: Target) -> State:
    descriptors = target.descriptors  # before a call adds one
    report = await target.report()
    unended = report["opens"] - report["closes"] - report["open"]
    return State(target.memory(), descriptors, report["tasks"], report["open"], unended, report["unpaired"])


class Bystander:
    """A healthy client, and a caller that pushes to it. Both continue during the attack."""

    def __init__(self, peer: Peer, caller: Peer) -> None:
        self.latencies: list[float] = []
        self.others: list[bytes] = []
        """What else was pushed to everybody."""
        self._peer = peer
        self._caller = caller
        self._sent: list[float] = []
        self._stopped = False

    async def push(self) -> None:
        while not self._stopped:
            self._sent.append(monotonic())
            await self._caller.send(post({"message": f"tick {len(self._sent) - 1}"}))
            assert (await answer(self._caller)).status == 200
            await anyio.sleep(PACE)  # the pace of the stream

    async def receive(self) -> None:
        while True:
            _, message = await self._peer.data(ticks=True)
            if message.startswith(TICK):
                number = len(self.latencies)
                assert message == TICK + b"%d" % number, f"{message!r} came instead of number {number}"
                self.latencies.append(monotonic() - self._sent[number])
            else:
                self.others.append(message)

    async def stop(self) -> None:
        """Push no more, and wait for what is on its way."""
        self._stopped = True
        with anyio.fail_after(TIMEOUT):
            while len(self.latencies) < len(self._sent):
                await anyio.sleep(0.01)  # a list that another task fills

    @property
    def p99(self) -> float:
        """Seconds that 99 of 100 messages took at most."""
        return sorted(self.latencies)[int(0.99 * (len(self.latencies) - 1))]


class Attack:
    """What a test attacks with."""

    def __init__(self, target: Target, bystander: Bystander, before: State) -> None:
        self.target = target
        self.bystander = bystander
        self._before = before
        self._peers: list[Peer] = []

    async def peer(self, *, receive_buffer: int = 0, source: str = "") -> Peer:
        """A TCP connection, closed at the end."""
        peer = await Peer.connect(self.target.port, receive_buffer=receive_buffer, source=source)
        self._peers.append(peer)
        return peer

    async def client(self, *headers: str, path: str = "/ws", receive_buffer: int = 0, source: str = "") -> Peer:
        """A WebSocket, closed at the end."""
        peer = await self.peer(receive_buffer=receive_buffer, source=source)
        await peer.send(upgrade(*headers, path=path))
        head = await peer.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        return peer

    async def ask(self, request: bytes) -> int:
        """Send a whole request; the status of the answer."""
        return (await self.target.call(request)).status

    async def closes(self, path: str, code: int, count: int) -> None:
        """Wait until `count` clients of `path` have ended with `code`, and no more have."""
        found: dict[str, int] = {}
        try:
            with anyio.fail_after(BACK):
                while True:
                    codes = (await self.target.report())["codes"]
                    found = {key: number for key, number in codes.items() if key.startswith(path + " ")}
                    if found.get(f"{path} {code}", 0) >= count:
                        break
                    await anyio.sleep(0.05)  # another process is asked
        except TimeoutError:
            raise AssertionError(f"not {count} clients of {path} were closed with {code}, but {found}") from None
        assert found == {f"{path} {code}": count}

    async def back(self) -> State:
        """Wait until everything but the memory is what it was before the attack; the state."""
        now = before = self._before
        try:
            with anyio.fail_after(BACK):
                while True:
                    now = await state_of(self.target)
                    if (
                        now.descriptors <= before.descriptors
                        and now.tasks <= before.tasks
                        and now.open == before.open
                        and now.unended == 0
                    ):
                        break
                    await anyio.sleep(0.05)  # another process is asked
        except TimeoutError:
            raise AssertionError(f"not everything is back: {before} before, {now} now") from None
        assert now.unpaired == 0, "an on_client_close ran twice, or without its on_client_open"
        return now

    def grown(self) -> float:
        """MB by which the server was larger, at most, than before the attack."""
        return self.target.memory("VmHWM") - self._before.memory

    def close(self) -> None:
        for peer in self._peers:
            peer.close()
        self._peers.clear()


@dataclass(frozen=True)
class Figures:
    """What one attack has cost: the bystander's p99 in seconds, and MB that the server has kept."""

    test: str
    p99: float
    kept: float


FIGURES: list[Figures] = []
"""Of all the attacks of this run, for its summary."""


@asynccontextmanager
async def under_attack(
    target: Target, *, held: bool = False, tracebacks: bool = False, latency: float = LATENCY
) -> AsyncIterator[Attack]:
    """Everything that has to hold, around the attack in the body of the `with`.

    `held`: the state has to be back while the attackers still hold their sockets; else those are closed before.
    `tracebacks` may be in the log where a hook fails. `latency` is the bystander's p99 in seconds, at most.
    """
    logged = len(target.log)
    with ExitStack() as stack:
        peer, caller = [stack.enter_context(closing(await Peer.connect(target.port))) for _ in range(2)]
        await peer.send(upgrade(path="/ws/bystander"))
        assert (await peer.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        bystander = Bystander(peer, caller)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bystander.push)
            tasks.start_soon(bystander.receive)
            with anyio.fail_after(TIMEOUT):
                while len(bystander.latencies) < 2:  # both are at work, and count among what is there before
                    await anyio.sleep(PACE)  # lists that other tasks fill
            target.forget_peak()
            before = await state_of(target)
            attack = stack.enter_context(closing(Attack(target, bystander, before)))
            yield attack
            if not held:
                attack.close()
            kept = (await attack.back()).memory - before.memory
            await works(target)
            await bystander.stop()
            tasks.cancel_scope.cancel()
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition("::")[2].partition(" ")[0]
    FIGURES.append(Figures(test, bystander.p99, kept))
    assert kept < MEMORY, f"{kept:.1f} MB more than before"
    assert bystander.p99 < latency, f"p99 of the bystander's messages is {bystander.p99:.3f} s"
    if not tracebacks:
        assert "Traceback" not in target.log[logged:], target.log[logged:]


async def works(target: Target) -> None:
    """A new client connects, and a push reaches it."""
    client = await Peer.connect(target.port)
    try:
        await client.send(upgrade())
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert (await target.call(post({"message": "still here"}))).status == 200
        with anyio.fail_after(TIMEOUT):
            while await client.message() != b"still here":
                pass
        await client.send(frame(0x88, b"\x03\xe8"))
        await client.ended()
    finally:
        client.close()
